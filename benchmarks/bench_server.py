"""Speed of ``flash-moe serve``: one client, several at once, and a short request behind a long one.

    python benchmarks/bench_server.py [--model demo] [--clients 4] [--tokens 96] [--rounds 5]
        [--other CHECKOUT]

Everything is measured in turns in one run, warm, greedy, with all experts cached:

- time per token of one streamed answer, and of ``model.generate`` in this process;
- total tokens/s of several concurrent clients, and of one;
- time to the first token of a short prompt sent behind a prompt of ``--long`` tokens, on a copy of
  the model whose config allows such a context, against the time of one prefill chunk.

``--other`` starts the server of another checkout too, with the same interpreter and libraries.
Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flash_moe import load
from flash_moe.hub.resolve import resolve

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "import sys; from flash_moe.cli import main; sys.exit(main())"
PROMPTS = ("Tell me of ships.", "What is a lighthouse?", "How does rain form?", "Name some birds.")
WAIT_S = 600


@contextmanager
def server(root: Path, model: str, clients: int, *flags: str) -> Iterator[int]:
    """Run the server of a checkout; yield its port."""
    command = [sys.executable, "-c", COMMAND, "serve", model, "--port", "0", "--cache-gb", "1"]
    command += ["--decode-concurrency", str(clients), "--log-level", "error", *flags]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    environment["FLASH_MOE_PROMPT_CACHE_DISK_GB"] = "0"  # unless a flag sets it
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://\S+:(\d+)/v1", line):
                break
        else:
            raise SystemExit(f"the server of {root} did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(WAIT_S)


def ask(port: int, prompt: Any, n_tokens: int, bias: dict[str, float]) -> list[float]:
    """Stream a completion; return the times of its events; the first is that of sending it."""
    body = {"model": "default_model", "prompt": prompt, "max_tokens": n_tokens, "stream": True}
    body |= {"logit_bias": bias, "temperature": 0, "logprobs": 0}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    times = [time.perf_counter()]
    connection.request("POST", "/v1/completions", json.dumps(body))
    for line in connection.getresponse():
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
            times.append(time.perf_counter())
    connection.close()
    return times


def per_token(times: list[float], n_tokens: int) -> float:
    """Seconds per token after the first piece of text."""
    return (times[-1] - times[1]) / (n_tokens - 1)


def together(port: int, clients: int, n_tokens: int, bias: dict[str, float]) -> float:
    """Total tokens/s of several clients."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        texts = (PROMPTS[n % len(PROMPTS)] + " " * n for n in range(clients))
        list(threads.map(lambda text: ask(port, text, n_tokens, bias), texts))
    return clients * n_tokens / (time.perf_counter() - started)


def with_context(model: Path, folder: Path, n_tokens: int) -> Path:
    """A copy of a store whose config allows a longer context."""
    copy = Path(shutil.copytree(model, folder / "long"))
    config = json.loads((copy / "config.json").read_text())
    for table in (config, config.get("text_config", {})):
        if "max_position_embeddings" in table:
            table["max_position_embeddings"] = n_tokens
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def behind(port: int, n_long: int, bias: dict[str, float]) -> dict[str, float]:
    """Seconds to the first token of a short prompt, alone and behind a long one."""
    short = list(range(40, 60))
    alone = ask(port, short, 2, bias)
    long = [40 + n % 200 for n in range(n_long)]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(ask, port, long, 1, bias)
        time.sleep(0.3)  # it has begun
        times = ask(port, short, 2, bias)
        end = running.result()
    return {
        "short_alone_s": alone[1] - alone[0],
        "short_behind_s": times[1] - times[0],
        "long_s": end[-1] - end[0],
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    roots = {"this": ROOT, **({"other": args.other} if args.other else {})}
    n = args.tokens
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)
        print(f"{name} {value:.4g}", file=sys.stderr)

    with load(args.model, cache_gb=1) as flash:
        ends = dict.fromkeys(flash.tokenizer.eos_token_ids, -100.0)
        bias = {str(token): value for token, value in ends.items()}
        for _ in range(args.rounds):
            stats = flash.generate(PROMPTS[0], max_tokens=n, logit_bias=ends).stats
            note("generate_s_per_token", stats.generation_s / (n - 1))
            for name, root in roots.items():
                with server(root, args.model, args.clients) as port:
                    ask(port, PROMPTS[0], 8, bias)  # compiles, and reads the experts
                    note(f"{name}_s_per_token", per_token(ask(port, PROMPTS[0], n, bias), n))
                    note(f"{name}_one_tokens_per_s", together(port, 1, n, bias))
                    together(port, args.clients, 8, bias)
                    note(f"{name}_many_tokens_per_s", together(port, args.clients, n, bias))
            stats = flash.generate(PROMPTS[0], max_tokens=n, logit_bias=ends).stats
            note("generate_s_per_token", stats.generation_s / (n - 1))
    with tempfile.TemporaryDirectory() as folder:
        store = with_context(resolve(args.model), Path(folder), args.long + 1000)
        for name, root in roots.items():
            with server(root, str(store), args.clients, "--prompt-cache-entries", "1") as port:
                for key, value in behind(port, args.long, bias).items():
                    note(f"{name}_{key}", value)
    found: dict[str, Any] = {name: statistics.median(values) for name, values in rows.items()}
    found["server_to_generate"] = found["this_s_per_token"] / found["generate_s_per_token"]
    if args.other:
        found["many_to_other"] = found["this_many_tokens_per_s"] / found["other_many_tokens_per_s"]
    return {**found, "model": args.model, "clients": args.clients, "rounds": args.rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", type=int, default=20_000)
    parser.add_argument("--other", type=Path, help="a checkout of another commit")
    found = measure(parser.parse_args())
    for name, value in found.items():
        print(f"{name:28} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
