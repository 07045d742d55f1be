"""Peak memory of a run against its bound: imports + resident + a share of the experts + 200 MB.

    python benchmarks/bench_memory.py [--model DIR] [--share 0.25] [--prompt-tokens 256] [-n 32]

The bound is given to ``load`` as ``memory_gb``, which chooses the size of the bank and of the
chunks of the prompt by itself. Without --model it writes the ``mid`` checkpoint (2 GB) under --dir,
packs it, and removes it at the end unless --keep is given. The figures are those of this process,
without the page cache of the system. Prints a table, then one JSON line. Exit code 1 if the bound
is exceeded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path

from mid import make_mid

ALLOWANCE = 200_000_000  # activations, Python objects, thread stacks


def measure(
    store: Path, share: float, n_prompt: int, n_tokens: int, prefill_step: int | None
) -> dict[str, float]:
    import mlx.core as mx
    import mlx_lm  # noqa: F401  the floor: what any mlx-lm script takes
    import numpy as np

    from flash_moe.memory.system import peak_memory

    after_import = peak_memory()
    from flash_moe import load
    from flash_moe.model.open import open_streaming
    from flash_moe.options.loading import LoadOptions

    streaming = open_streaming(store, LoadOptions())
    expert_bytes, resident = streaming.experts.n_bytes, streaming.resident_bytes
    bound = after_import + resident + round(share * expert_bytes) + ALLOWANCE
    done: list[int] = []
    with load(store, memory_gb=bound / 1e9) as flash:
        prompt = np.random.RandomState(0).randint(0, 256, size=n_prompt).tolist()
        answer = flash.generate(
            prompt,
            max_tokens=n_tokens,
            prefill_step=prefill_step,
            on_prefill=lambda n, _: done.append(n),
        )
        stats = answer.stats
    peak = peak_memory()
    return {
        "import_bytes": after_import,
        "resident_bytes": resident,
        "bank_bytes": stats.stream.bank_bytes,
        "expert_bytes": expert_bytes,
        "peak_bytes": peak,
        "bound_bytes": bound,
        "above_floor_bytes": peak - after_import - resident - stats.stream.bank_bytes,
        "within_bound": peak <= bound,
        "prompt_tokens": n_prompt,
        "largest_chunk": max(b - a for a, b in itertools.pairwise(done)),
        "generated_tokens": stats.generation_tokens,
        "tokens_per_s": stats.generation_tps,
        "prompt_tokens_per_s": stats.prompt_tps,
        "bytes_read": stats.stream.bytes_read,
        "hit_rate": stats.stream.hit_rate,
        "mlx_peak_bytes": mx.get_peak_memory(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a packed store")
    parser.add_argument("--dir", type=Path, help="folder of mid (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the model under --dir")
    parser.add_argument("--share", type=float, default=0.25, help="bank, as a share of the experts")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--prefill-step", type=int, help="tokens of a chunk (default: chosen)")
    parser.add_argument("-n", "--tokens", type=int, default=32)
    args = parser.parse_args()
    root = args.dir or Path(tempfile.mkdtemp(prefix="flash-moe-bench-"))
    try:
        store = args.model or make_mid(root)
        figures = measure(store, args.share, args.prompt_tokens, args.tokens, args.prefill_step)
    finally:
        if args.model is None and not args.keep:
            shutil.rmtree(root / "mid-store", ignore_errors=True)
            if args.dir is None:
                shutil.rmtree(root, ignore_errors=True)
    for name, value in figures.items():
        text = f"{value / 1e6:12.1f} MB" if name.endswith("bytes") else f"{value!s:>12}"
        print(f"{name:22} {text}")
    print(json.dumps(figures))
    return 0 if figures["within_bound"] else 1


if __name__ == "__main__":
    sys.exit(main())
