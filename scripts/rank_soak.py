"""Mixed requests to a server of two ranks: none may fail, and each answer is that of one machine.

    python scripts/rank_soak.py [--requests 100] [--concurrency 4]

Greedy and seeded requests, streamed or not, with a JSON schema, with prompts that share a beginning
and prompts of several chunks; every fifth is cancelled in mid-stream. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.processes import COMMAND  # noqa: E402
from tests.support.rank_group import Group, group, write_wide  # noqa: E402

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2, 3]}},
    "required": ["a"],
    "additionalProperties": False,
}


def requests(n: int) -> list[dict[str, Any]]:
    """Request bodies; the same number gives the same bodies."""
    draw = random.Random(0)
    bodies = []
    for number in range(n):
        text = "The same beginning. " * draw.choice((0, 1, 5, 40)) + f"Question {number}?"
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": draw.choice((1, 8, 24)),
            "chat_template_kwargs": {"enable_thinking": False},
        }
        if number % 3 == 1:
            body |= {"temperature": 0.8, "seed": number}
        if number % 7 == 3:
            form = {"name": "x", "schema": SCHEMA}
            body |= {"response_format": {"type": "json_schema", "json_schema": form}}
        bodies.append(body)
    return bodies


def ask(url: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=300) as answer:
        return str(json.loads(answer.read())["choices"][0]["message"]["content"])


def leave(url: str, body: dict[str, Any]) -> None:
    """Read the first piece of a streamed answer and close the connection."""
    data = json.dumps({**body, "stream": True, "max_tokens": 400}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", data)
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.readline()


def url_of(ranks: Group) -> str:
    for _ in range(1200):
        if found := re.search(r"(http://\S+)/v1 ", ranks.said(0)):
            return found[1]
        time.sleep(0.1)
    raise SystemExit(ranks.said(0))


def serve(size: int, model: Path, files: Path, bodies: list[dict[str, Any]], workers: int) -> Any:
    """Answers of a server by number; ``None`` for cancelled requests."""
    budget = "0.003" if size > 1 else "0.006"
    flags = ("--port", "0", "--cache-gb", budget, "--decode-concurrency", workers)
    flags = (*flags, "--max-queue", "100")

    def one(number: int) -> str | None:
        if number % 5 == 4:
            return leave(url, bodies[number])
        return ask(url, bodies[number])

    with group(size, *COMMAND, "serve", model, *flags, files=files) as ranks:
        url = url_of(ranks)
        begun = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(one, range(len(bodies))))
        seconds = time.perf_counter() - begun
        ranks.processes[0].terminate()
        return answers, seconds, ranks.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=4)
    args = parser.parse_args()
    bodies = requests(args.requests)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_wide(root, 2)
        alone = serve(1, root / "whole", root / "one", bodies, 1)
        both = serve(2, root / "parts", root / "two", bodies, args.concurrency)
    pairs = zip(alone[0], both[0], strict=True)
    different = [number for number, (a, b) in enumerate(pairs) if a != b]
    report = {"requests": len(bodies), "different": different, "exit codes": both[2]}
    print(json.dumps(report | {"one_s": round(alone[1], 1), "two_s": round(both[1], 1)}))
    sys.exit(bool(different or any(both[2])))


if __name__ == "__main__":
    main()
