"""Second turn of a conversation: time to first token with prompt caches in memory and on disk.

    python benchmarks/bench_turns.py [--model demo] [--system 2000] [--rounds 5]

Each round has a new system message of ``--system`` tokens and measures, all experts cached, warm:

- the first turn, which prefills everything;
- the second turn on the same server, and on one that was restarted in between;
- a prompt of only as many tokens as the second turn has new ones;
- the same number of tokens behind ``--system`` cached ones, with ``model.stream`` in this process:
  attention to the cached tokens takes time too.

Prints one JSON line last. ``disk_bytes`` is the size of one cache file, the largest.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_server import ROOT, WAIT_S, ask, server

from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load


def turn(port: int, messages: list[dict[str, str]]) -> dict[str, Any]:
    """Stream an answer of 16 tokens; return its text, its usage and the time to first token."""
    body = {"messages": messages, "max_tokens": 16, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    body |= {"chat_template_kwargs": {"enable_thinking": False}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    started, first, text, usage = time.perf_counter(), 0.0, "", {}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            first = first or (text and time.perf_counter()) or 0.0
    connection.close()
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    new = usage["prompt_tokens"] - cached
    return {"text": text, "s": first - started, "new": new, "cached": cached}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)
        print(f"{name} {value:.4g}", file=sys.stderr)

    flash = load(args.model)
    words = " You answer briefly and kindly."
    n_words = len(flash.tokenizer.encode(words, add_special_tokens=False))
    system = words * (args.system // n_words)
    cache = make_prompt_cache(flash.model)
    context = [40 + 7 * i % 200 for i in range(args.system)]
    next(flash.stream(context, max_tokens=1, prompt_cache=cache))
    warm = [{"role": "user", "content": "Hello there!"}]
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--prompt-cache-dir", folder, "--prompt-cache-disk-gb", "4")
        for n in range(args.rounds):
            messages = [
                {"role": "system", "content": f"Number {n}.{system}"},
                {"role": "user", "content": "How much is 12 times 31?"},
            ]
            with server(ROOT, args.model, 1, *flags) as port:
                turn(port, warm)
                first = turn(port, messages)
                note("first_turn_s", first["s"])
                messages += [
                    {"role": "assistant", "content": first["text"]},
                    {"role": "user", "content": f"And what is the weather like in {n} days?"},
                ]
                note("same_process_s", (second := turn(port, messages))["s"])
                note("same_process_tokens", second["new"])
                ids = [40 + (7 * i + n) % 200 for i in range(second["new"])]
                times = ask(port, ids, 2, {})
                note("new_tokens_alone_s", times[1] - times[0])
            started = time.perf_counter()
            next(flash.stream(ids, max_tokens=1, prompt_cache=copy.deepcopy(cache)))
            note("new_tokens_behind_context_s", time.perf_counter() - started)
            # The second turn again, from the files of the first alone.
            for file in Path(folder).glob("*.safetensors"):
                if int(file.name.split("-")[1]) > first["new"] + first["cached"] + 16:
                    file.unlink()
            with server(ROOT, args.model, 1, *flags) as port:
                turn(port, warm)
                note("restarted_s", (again := turn(port, messages))["s"])
                note("restarted_tokens", again["new"])
                assert again["text"] == second["text"]
                times = ask(port, ids, 2, {})
                note("new_tokens_alone_s", times[1] - times[0])
        note("disk_bytes", max(file.stat().st_size for file in Path(folder).iterdir()))
    found: dict[str, Any] = {name: statistics.median(values) for name, values in rows.items()}
    for name in ("same_process", "restarted"):
        for base in ("alone", "behind_context"):
            found[f"{name}_to_{base}"] = found[f"{name}_s"] / found[f"new_tokens_{base}_s"]
    return {**found, "model": str(resolve(args.model).name), "rounds": args.rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--system", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    found = measure(parser.parse_args())
    for name, value in found.items():
        print(f"{name:28} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
