"""Several clients at once against ``flash-moe serve``: no error, no cross-talk, bounded memory.

    python benchmarks/load_server.py [--model demo] [--clients 4] [--seconds 60] [--seed 0]

Each of a set of requests (chats, completions, tool calls, JSON by a schema, with and without a
seed) is answered alone first. Then the clients send them in random order and in random ways: whole,
streamed, or cancelled after some pieces. Every answer must be the one that the request got alone;
the pieces of a cancelled answer must be its beginning. Memory is the server's own metric, first
after each request was answered once, then during the run.

Prints one JSON line last; exits with 1 if an answer differs, or anything fails.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import openai

from flash_moe.tools.builtin import calculate, get_time

COMMAND = [sys.executable, "-c", "import sys; from flash_moe.cli import main; sys.exit(main())"]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["city", "person", "thing"]},
        "numbers": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
    },
    "required": ["kind", "numbers"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "found", "schema": SCHEMA}}
Request = dict[str, Any]


def requests(max_tokens: int) -> list[Request]:
    """Arguments of the chat API, or with a ``prompt`` of the completions API."""

    def chat(text: str, **options: Any) -> Request:
        kwargs = {"enable_thinking": options.pop("thinks", False)}
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "extra_body": {"chat_template_kwargs": kwargs}}
        return {"max_tokens": max_tokens, **body, **options}

    tools = [calculate.schema, get_time.schema]
    warm = {"temperature": 1.0}
    return [
        chat("Hello, who are you?"),
        chat("Hello, what can you do?", thinks=True),
        chat("How much is 17.5 percent of 2480?", tools=tools),
        chat("What time is it in Lima?", tools=tools, tool_choice="required", **warm, seed=5),
        chat("Describe something.", response_format=FORM, **warm, seed=6),
        chat("Describe something else.", response_format=FORM),
        chat("Tell me a story.", **warm, seed=7),
        chat("Tell me a story.", **warm, seed=8),
        {"prompt": "Once upon a time", "max_tokens": max_tokens},
        {"prompt": "Once upon a time", "max_tokens": max_tokens, **warm, "seed": 9},
    ]


class Server:
    """The server in a separate process."""

    def __init__(self, model: str, log: Path, *options: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", model, "--port", "0", *options], stdout=out, stderr=out
            )
        while not (found := re.search(r"(http://\S+)/v1 \(", self.said())):
            if self.process.poll() is not None:
                raise SystemExit(self.said())
            time.sleep(0.1)
        self.url = found[1]

    def said(self) -> str:
        return self._log.read_text()

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("flash_moe_"): float(value) for name, value in pairs}

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=120)


def text_of(message: Any) -> str:
    """Reasoning, text and calls of a message or a delta, as one text."""
    found = (getattr(message, "reasoning", None) or "") + (message.content or "")
    for call in message.tool_calls or ():
        found += f"[{call.function.name} {call.function.arguments}]"
    return found


def ask(client: openai.OpenAI, request: Request) -> str:
    """The whole answer."""
    if "prompt" in request:
        return str(client.completions.create(model="default_model", **request).choices[0].text)
    answer = client.chat.completions.create(model="default_model", **request)
    return text_of(answer.choices[0].message)


def stream(client: openai.OpenAI, request: Request, pieces: float) -> str:
    """The answer streamed, or its beginning, if it has more pieces than that."""
    create: Callable[..., Any] = client.chat.completions.create
    if "prompt" in request:
        create = client.completions.create
    text, n = "", 0
    with closing(create(model="default_model", stream=True, **request)) as chunks:
        for chunk in chunks:
            choice = chunk.choices[0]
            text += choice.text if "prompt" in request else text_of(choice.delta)
            n += 1
            if n >= pieces:
                break
    return text


class Load:
    """Clients that send requests until a deadline."""

    def __init__(self, server: Server, asked: list[Request], expected: list[str]) -> None:
        self._server = server
        self._asked = asked
        self._expected = expected
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def client(self, seed: int, until: float) -> None:
        draw = random.Random(seed)
        with client_of(self._server) as client:
            while time.monotonic() < until:
                n = draw.randrange(len(self._asked))
                way = draw.choice(("whole", "streamed", "given_up"))
                try:
                    problem = self._one(client, n, way, draw)
                except Exception as error:
                    problem = f"request {n}, {way}: {type(error).__name__}: {error}"
                with self._lock:
                    self.counts[way] += 1
                    if problem:
                        self.wrong.append(problem)

    def _one(self, client: openai.OpenAI, n: int, way: str, draw: random.Random) -> str | None:
        request, expected = self._asked[n], self._expected[n]
        if way == "whole":
            found = ask(client, request)
        else:
            pieces = draw.randint(1, 12) if way == "given_up" else float("inf")
            found = stream(client, request, pieces)
        fits = expected.startswith(found) if way == "given_up" else found == expected
        return None if fits else f"request {n}, {way}: expected {expected!r}, got {found!r}"


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=600)


def measure(server: Server, args: argparse.Namespace) -> dict[str, Any]:
    asked = requests(args.max_tokens)
    with client_of(server) as client:
        expected = [ask(client, request) for request in asked]
    before = server.metrics()
    load = Load(server, asked, expected)
    begun = time.monotonic()
    until = begun + args.seconds
    with ThreadPoolExecutor(args.clients) as threads:
        clients = [threads.submit(load.client, args.seed + n, until) for n in range(args.clients)]
        for each in clients:
            each.result()
    seconds = time.monotonic() - begun
    for _ in range(100):
        after = server.metrics()
        if after["requests_running"] == after["requests_waiting"] == 0:
            break
        time.sleep(0.1)
    for problem in load.wrong[:5]:
        print(problem, file=sys.stderr)
    return {
        "benchmark": "load_server",
        "clients": args.clients,
        "seconds": round(seconds, 1),
        **{way: load.counts[way] for way in ("whole", "streamed", "given_up")},
        "wrong": len(load.wrong),
        "left_running": after["requests_running"] + after["requests_waiting"],
        "tokens_per_s": round(
            (after["generated_tokens_total"] - before["generated_tokens_total"]) / seconds, 1
        ),
        "gone": after.get('ended_answers_total{reason="client_gone"}', 0),
        "resident_mb": [round(m["resident_memory_bytes"] / 1e6) for m in (before, after)],
        "peak_mb": round(after["peak_memory_bytes"] / 1e6),
        "prompt_cache_mb": round(after["prompt_cache_bytes"] / 1e6, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = Server(args.model, Path(directory) / "log", "--log-level", "warning")
        try:
            found = measure(server, args)
            found["exit_code"] = server.stop()
            print(server.said(), file=sys.stderr, end="")
        finally:
            server.process.kill()
    print(json.dumps(found))
    return 1 if found["wrong"] or found["left_running"] or found["exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
