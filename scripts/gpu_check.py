"""Check the kernels on a GPU against float64, then time them (``benchmarks/bench_kernels.py``).

    python scripts/gpu_check.py [--quick] [--no-bench] [--json FILE]

Needs MLX with a GPU (Metal or CUDA). Prints one line per failed case, a summary and one JSON line;
then the benchmark. Exit code 1 if a case is out of its bound.

Bounds. Sums are float32 everywhere, so in float32 the error is that of a few hundred additions of
values of size 1: 2e-5 of the largest output. In float16 and bfloat16 the output is rounded once, to
2^-11 and 2^-8 of its size, and so are the inputs that both sides share.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Products of float32 in float32; on CUDA MLX rounds their inputs to TF32 otherwise.
os.environ["MLX_ENABLE_TF32"] = "0"

import mlx.core as mx
import mlx_lm

from flash_moe import load
from flash_moe.compat.cudart import CudaError, CudaRuntime, cuda_runtime
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.errors import ReadError
from flash_moe.model.open import open_streaming
from flash_moe.ops.kernel import backend
from flash_moe.ops.moe_experts import BITS
from flash_moe.ops.router_topk import router_topk, router_topk_reference
from flash_moe.options.loading import LoadOptions
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.device_slab import DeviceSlab
from flash_moe.stream.kvikio_readers import KvikioReaders
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from flash_moe.testing.random_experts import kernel_error, random_experts

BOUNDS = {mx.float32: 2e-5, mx.float16: 1e-3, mx.bfloat16: 8e-3}
HIDDEN, WIDTH = 4096, 1024  # Qwen3.5-397B-A17B


# Hidden size and expert width by group size: one more chunk than a SIMD group has lanes, and fewer.
SHAPES = {32: (1056, 160), 64: (192, 64), 128: (128, 384)}
MODEL_BOUND = 1e-4  # of the largest logit, after 8 layers in float32
ROUTER_BOUND = 5e-6  # of a weight: sums of up to 1024 exponentials in float


@dataclass
class Tally:
    """Number of cases, largest errors, and failures."""

    cases: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, kind: str, error: float, bound: float) -> None:
        self.cases += 1
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error <= bound:
            self.failures.append(f"{what}: error {error:.2e}, bound {bound:.0e}")

    def merge(self, cases: int, worst: dict[str, float], failures: list[str]) -> None:
        self.cases += cases
        self.failures += failures
        for kind, error in worst.items():
            self.worst[kind] = max(self.worst.get(kind, 0.0), error)


def check_width(bits: int, quick: bool) -> Tally:
    """All group sizes and dtypes, k and tokens of one width; the types of scales alternate."""
    tally = Tally()
    tokens = (3,) if quick else (1, 2, 7, 8)
    for (turn, (group, (hidden, width))), (i, dtype) in itertools.product(
        enumerate(SHAPES.items()), enumerate(BOUNDS)
    ):
        scale_dtype = list(BOUNDS)[(i + bits + group // 32) % 3]
        experts = random_experts(
            hidden, width, 12, bits=bits, group_size=group, scale_dtype=scale_dtype, seed=bits
        )
        # Each of the two is compiled separately; every width and dtype sees both.
        extras = (i + turn) % 3 != 0
        for k, n_tokens in itertools.product((1, 4, 8, 10), tokens):
            error = kernel_error(
                experts, dtype, k, n_tokens, extras=extras, seed=tally.cases + 1000 * bits
            )
            what = f"bits {bits} group {group} scales {scale_dtype} {dtype} k {k} tokens {n_tokens}"
            tally.add(what, str(dtype), error, BOUNDS[dtype])
    return tally


def check_397b() -> Tally:
    """The sizes that matter most, and the router."""
    tally = Tally()
    experts = random_experts(
        HIDDEN, WIDTH, 11, bits=4, group_size=64, scale_dtype=mx.bfloat16, seed=1
    )
    for dtype, (k, n_tokens) in itertools.product(BOUNDS, ((4, 1), (10, 2))):
        error = kernel_error(experts, dtype, k, n_tokens, extras=True, seed=tally.cases)
        tally.add(f"397B sizes {dtype} k {k} tokens {n_tokens}", str(dtype), error, BOUNDS[dtype])
    for dtype, (n_experts, k), renormalise in itertools.product(
        BOUNDS, ((512, 10), (60, 4), (7, 1), (1024, 8)), (True, False)
    ):
        for n_tokens in (1, 8):
            key = mx.random.key(tally.cases)
            logits = mx.random.normal((n_tokens, n_experts), key=key).astype(dtype)
            ids, got = router_topk(logits, k, renormalise=renormalise)
            expected_ids, expected = router_topk_reference(logits, k, renormalise=renormalise)
            same = bool(mx.array_equal(ids, expected_ids))
            error = float(mx.max(mx.abs(got - expected) / expected)) if same else float("inf")
            what = f"router {dtype} experts {n_experts} k {k} tokens {n_tokens}"
            tally.add(what, "router", error, ROUTER_BOUND)
    return tally


def check_model() -> Tally:
    """A whole small model: a prompt, then tokens one by one, against resident mlx-lm on the CPU.

    All weights that are not packed are float32. The smaller bank overwrites experts constantly.
    (Not the sizes of the ``tiny`` preset: for more than one row MLX 0.32.4 on CUDA computes
    quantized products as small as those of its shared expert wrong.)
    """
    tally = Tally()
    geometry = replace(PRESETS["tiny"], hidden=512, expert_width=256, shared_width=512)
    n_tokens, n_steps = 60, 12
    tokens = mx.array([[33 + (7 * i) % 90 for i in range(n_tokens)]])
    with tempfile.TemporaryDirectory() as root:
        path = Path(root)
        write_mlx_checkpoint(path, geometry)
        with mx.stream(mx.cpu):
            expected = mlx_lm.load(str(path))[0](tokens)
            mx.eval(expected)
        n_bytes = open_streaming(path, LoadOptions()).experts.n_bytes
        for share, kernels in itertools.product((0.15, 1.0), ("require", "off")):
            with load(path, cache_gb=share * n_bytes / 1e9, kernels=kernels) as flash:
                cache = make_prompt_cache(flash.model)
                parts = [flash.model(tokens[:, : n_tokens - n_steps], cache=cache)]
                for i in range(n_tokens - n_steps, n_tokens):
                    parts.append(flash.model(tokens[:, i : i + 1], cache=cache))
                error = float(mx.max(mx.abs(mx.concatenate(parts, axis=1) - expected)))
                error /= float(mx.max(mx.abs(expected)))
                assert flash.stats.misses, "nothing was streamed"
            what = f"model, {share} of the experts, kernels {kernels}"
            tally.add(what, "model", error, MODEL_BOUND)
    return tally


def check_device_slab() -> Tally:
    """Device slabs: same tokens for every bank and tier, failures, shrinking, leaks.

    A case that must hold counts as error 0 or 1.
    """
    tally = Tally()
    runtime = cuda_runtime()
    if runtime is None:
        return tally

    def hold(what: str, is_true: bool) -> None:
        tally.add(f"device slab: {what}", "device", 0.0 if is_true else 1.0, 0.5)

    geometry = replace(PRESETS["tiny"], hidden=512, expert_width=256, shared_width=512)
    prompt = [33 + (7 * i) % 90 for i in range(40)]
    with tempfile.TemporaryDirectory() as root:
        path = Path(root)
        write_mlx_checkpoint(path, geometry)
        n_bytes = open_streaming(path, LoadOptions()).experts.n_bytes
        texts, free = set(), []
        for share, host, lookahead in (
            *((0.15, None, False), (0.15, 0.3, False), (0.3, 1.0, True), (1.0, None, False)),
            *((0.15, None, False), (0.15, 0.3, False)),
        ):
            gb = n_bytes / 1e9
            options = {"lookahead": lookahead, "host_cache_gb": host and host * gb}
            with load(path, cache_gb=share * gb, **options) as flash:
                texts.add(flash.generate(prompt, max_tokens=24).text)
                check_bank(flash, hold, prompt)
            del flash
            gc.collect()
            mx.clear_cache()
            free.append(runtime.memory()[0])
        hold(f"the same text for every bank, got {texts}", len(texts) == 1)
        hold(f"no memory is leaked, free after each: {free}", free[-1] >= free[0] - 2**26)
    return tally


def check_bank(flash: Any, hold: Callable[[str, bool], None], prompt: list[int]) -> None:
    """Check the slabs of a model, a copy that fails in the middle of a wave, and shrinking."""
    bank, runtime = flash.model._bank, cuda_runtime()
    assert runtime is not None
    stats = flash.stats
    record_bytes = bank.layers[0].layout.record_bytes
    if not stats.recall:  # a completed prefetch is copied and then a hit
        hold("missing records x record", stats.bytes_copied == stats.misses * record_bytes)

    def slabs() -> list[DeviceSlab]:
        return [bank.slab(layer) for layer in range(len(bank.layers))]

    for slab in slabs():
        slab.check()
        hold("plain device memory", runtime.is_device_memory(slab.address))
    expected = flash.generate(prompt, max_tokens=8).text
    if not bank.fits_all:
        try:
            with failing_copy(bank):
                flash.generate(prompt, max_tokens=8)
            hold("a failed copy raises", False)
        except ReadError as error:
            hold("a failed copy names the expert", "expert" in str(error))
        hold("right after a failed copy", flash.generate(prompt, max_tokens=8).text == expected)
    bank.shrink(bank.n_bytes // 4)
    hold("right after shrinking", flash.generate(prompt, max_tokens=8).text == expected)
    for slab in slabs():
        slab.check()


@contextmanager
def failing_copy(bank: ExpertBank) -> Iterator[None]:
    """Let the sixth copy to the GPU fail, in KvikIO or in the threads of Python."""
    copies = itertools.count()

    def copied(error: Exception) -> None:
        if next(copies) == 5:
            raise error

    class File:
        def __init__(self, file: Any) -> None:
            self._file = file

        def pread(self, *arguments: Any) -> Any:
            future = self._file.pread(*arguments)

            def get() -> int:
                n_bytes = int(future.get())
                copied(RuntimeError("cuMemcpyHtoDAsync: made by gpu_check"))
                return n_bytes

            return SimpleNamespace(get=get, done=future.done)

    original = CudaRuntime.copy_to_device

    def copy_to_device(self: CudaRuntime, *arguments: int) -> None:
        copied(CudaError("cudaMemcpyAsync", 700, "made by gpu_check"))
        original(self, *arguments)

    readers: Any = bank._readers
    if isinstance(readers, KvikioReaders):
        file_of = readers._file
        readers._file = lambda path: File(file_of(path))  # type: ignore[method-assign]
    CudaRuntime.copy_to_device = copy_to_device  # type: ignore[method-assign]
    try:
        yield
    finally:
        CudaRuntime.copy_to_device = original  # type: ignore[method-assign]
        vars(readers).pop("_file", None)


def check(quick: bool) -> Tally:
    """Check each width in a process: compiling a kernel takes a second or two and one core."""
    command = [sys.executable, __file__, *(["--quick"] if quick else []), "--width"]
    running = [
        subprocess.Popen([*command, str(bits)], stdout=subprocess.PIPE, text=True) for bits in BITS
    ]
    tally = check_397b()
    tally.merge(**asdict(check_model()))
    tally.merge(**asdict(check_device_slab()))
    for bits, process in zip(BITS, running, strict=True):
        lines = process.communicate()[0].splitlines()
        if process.returncode:
            tally.failures.append(f"bits {bits}: exit code {process.returncode}")
        else:
            tally.merge(**json.loads(lines[-1]))
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--width", type=int, help="only this number of bits; used by itself")
    parser.add_argument("--device-slab", action="store_true", help="only the device slabs")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--json", help="also write the JSON there")
    args = parser.parse_args()
    if backend() is None:
        print("gpu_check: no GPU that MLX can use", file=sys.stderr)
        return 1
    if args.width:
        print(json.dumps(asdict(check_width(args.width, args.quick))))
        return 0
    tally = check_device_slab() if args.device_slab else check(args.quick)
    for failure in tally.failures:
        print("FAILED", failure)
    print(
        f"{tally.cases} cases, {len(tally.failures)} failed; largest error over largest output: "
        f"{tally.worst}"
    )
    report = {
        "device": str(mx.device_info().get("device_name", "?")),
        "backend": backend(),
        "mlx": mx.__version__,
        "cases": tally.cases,
        "failed": len(tally.failures),
        "worst": tally.worst,
    }
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    print(json.dumps(report), flush=True)
    if not args.no_bench:
        bench = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_kernels.py"
        subprocess.run([sys.executable, str(bench)], check=True)
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
