"""Second turn of a conversation: time to first token with prompt caches in memory and on disk.

    python benchmarks/bench_turns.py [--model demo] [--system 2000] [--rounds 5]

Each round has a new system message of ``--system`` tokens and measures, all experts cached, warm:

- the first turn, which prefills everything;
- the second turn on the same server, and on one that was restarted in between;
- prompts of only as many tokens as the second turn has new ones, on the same server, and one as
  the first on a server that was restarted, since a new process allocates its memory then;
- the same number of tokens behind ``--system`` cached ones, with ``model.stream`` in this process.

Attention to the cached tokens takes time too: ``resident_behind_to_alone`` is its ratio in resident
mlx-lm, with random weights in the shape of the demo model. All ratios to "alone" are medians of the
ratio of each server. Prints one JSON line last.
``disk_bytes`` is the size of one cache file, the largest.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
from bench_server import ROOT, WAIT_S, ask, server

from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load
from flash_moe.testing import PRESETS, write_mlx_checkpoint

DEMO_SHAPE = replace(
    PRESETS["tiny"],
    hidden=256,
    experts=40,
    top_k=10,
    heads=8,
    head_dim=64,
    linear_v_heads=8,
    linear_k_dim=64,
    linear_v_dim=64,
    vocab=4096,
)


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


def new_tokens_alone(port: int, n_tokens: int, n_prompts: int = 3) -> float:
    """Median time to first token of prompts of so many tokens."""
    times = []
    for turn in range(n_prompts):
        sent, first, *_ = ask(port, [40 + (7 * i + turn) % 200 for i in range(n_tokens)], 2, {})
        times.append(first - sent)
    return statistics.median(times)


def resident_ratio(n_context: int, n_new: int, rounds: int) -> float:
    """Time of new tokens behind cached ones, relative to that of the new tokens alone."""
    times: dict[str, list[float]] = {"alone": [], "behind": []}
    with tempfile.TemporaryDirectory() as folder:
        write_mlx_checkpoint(Path(folder), DEMO_SHAPE)
        model, tokenizer = mlx_lm.load(folder)[:2]
        mx.eval(model.parameters())
    caches = {"alone": make_prompt_cache(model), "behind": make_prompt_cache(model)}
    model(mx.array([[40 + 7 * i % 200 for i in range(n_context)]]), cache=caches["behind"])
    mx.eval([each.state for each in caches["behind"]])
    for turn in range(rounds + 1):
        ids = [40 + (7 * i + turn) % 200 for i in range(n_new)]
        for name, cache in caches.items():
            started, given = time.perf_counter(), copy.deepcopy(cache)
            next(mlx_lm.stream_generate(model, tokenizer, ids, max_tokens=1, prompt_cache=given))
            times[name].append(time.perf_counter() - started)
    return statistics.median(times["behind"][1:]) / statistics.median(times["alone"][1:])


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
        flags = ("--prompt-cache-dir", folder, "--prompt-cache-disk-gb", "4", "--preload")
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
                alone = new_tokens_alone(port, second["new"])
                note("new_tokens_alone_s", alone)
                note("same_process_to_alone", second["s"] / alone)
            ids = [40 + (7 * i + n) % 200 for i in range(second["new"])]
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
                alone = new_tokens_alone(port, again["new"])
                note("new_tokens_alone_s", alone)
                note("restarted_to_alone", again["s"] / alone)
            with server(ROOT, args.model, 1, *flags) as port:
                turn(port, warm)
                note("restarted_alone_s", alone := new_tokens_alone(port, again["new"], 1))
                note("restarted_to_restarted_alone", again["s"] / alone)
        note("disk_bytes", max(file.stat().st_size for file in Path(folder).iterdir()))
    found: dict[str, Any] = {name: statistics.median(values) for name, values in rows.items()}
    for name in ("same_process", "restarted"):
        found[f"{name}_to_behind_context"] = (
            found[f"{name}_s"] / found["new_tokens_behind_context_s"]
        )
    n_new = round(found["same_process_tokens"])
    found["resident_behind_to_alone"] = resident_ratio(args.system, n_new, 4 * args.rounds)
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
