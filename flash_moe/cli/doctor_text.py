"""Report of ``flash-moe doctor`` as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_moe.cli import tune
from flash_moe.files.sizes import format_bytes

PLAIN = "the CPU computes with plain MLX; kernels need Metal or CUDA"
BACKENDS = {"metal": "Metal", "cuda": "CUDA", None: "CPU"}


def report(facts: dict[str, Any]) -> list[str]:
    """Format the facts as lines of text."""
    memory = format_bytes(facts["memory_bytes"])
    if facts["gpu_memory_bytes"]:
        memory += f", {format_bytes(facts['gpu_memory_bytes'])} of it for the GPU"
    where = "FLASH_MOE_KERNEL_DIR" if facts["kernels_overridden"] else "shipped"
    rows = {
        "flash_moe": facts["flash_moe"],
        "mlx": f"{facts['mlx']}, mlx-lm {facts['mlx_lm']}",
        "python": f"{facts['python']} on {facts['platform']}",
        "device": f"{BACKENDS[facts['backend']]}: {facts['device']} ({facts['architecture']})",
        "memory": memory,
        "kernels": f"{facts['kernels_option']}, from {facts['kernels_dir']} ({where})",
        "caches": f"{facts['cache_dir']}, models: {facts['hub_cache_dir']}",
    }
    lines = [f"{name:12}{text}" for name, text in rows.items()]
    if facts["cuda"] is not None:
        lines += _cuda_lines(facts["cuda"])
    elif facts["backend"] == "cuda":
        lines.append(f"{'GPU memory':12}managed by MLX, several times slower: no usable libcudart")
    for number, line in enumerate(tune.saved_lines(facts["io"])):
        lines.append(f"{'' if number else 'disks':12}{line}")
    return [*lines, *_self_test_lines(facts["self_test"]), *_model_lines(facts.get("model"))]


def _cuda_lines(cuda: dict[str, Any]) -> list[str]:
    major, minor = divmod(cuda["runtime"], 1000)
    total, free = format_bytes(cuda["memory_bytes"]), format_bytes(cuda["free_bytes"])
    lines = [f"{'GPU memory':12}{total}, {free} free; libcudart {major}.{minor // 10}"]
    for copies in cuda["copies"]:
        rate = copies["bytes_per_s"]
        measured = "cannot be measured: " if rate is None else f"{rate / 1e9:.3g} GB/s, "
        lines.append(f"{'GPU copies':12}{measured}{copies['note']}")
    slower = "Python's threads; KvikIO is faster: pip install 'flash-moe[cuda]' on Python 3.11+"
    reads = f"KvikIO {cuda['kvikio']}" if cuda["kvikio"] else slower
    lines.append(f"{'GPU reads':12}{reads}")
    if not cuda["concurrent_managed_access"]:
        lines.append(
            f"{'':12}Host and GPU share no managed memory (as on Windows, WSL and Tegra): MLX "
            "keeps loaded weights in pinned host memory, so each token reads them over PCIe. "
            "Experts are in the memory of the GPU as elsewhere."
        )
    return lines


def _self_test_lines(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return [f"{'self-test':12}{PLAIN}"]
    if result["passed"]:
        return [f"{'self-test':12}passed, {result['seconds']:.2f} s"]
    if result["plain_works"]:
        then = "Models compute with mx.gather_qmm, which is correct and slower."
    else:
        then = "Plain MLX also fails on the slab, so models do not load."
    lines = [f"{'self-test':12}FAILED. {then} Please report this output."]
    for problem in result["problems"]:
        lines += textwrap.indent(problem, " " * 12).splitlines()
    return lines


def _model_lines(model: dict[str, Any] | None) -> list[str]:
    from flash_moe.ops.forms import CASES

    if model is None:
        return []
    lines = [f"{'model':12}{model['model_type']}, {Path(model['path']).name}"]
    for part in model["records"]:
        lines.append(f"{'':12}{_span(part['layers'])}: {part['records']}")
        verdict = "supported by the kernels"
        if part["why_not"] is not None:
            verdict = f"computed by mx.gather_qmm: {part['why_not']}"
        lines.append(f"{'':14}{verdict}")
        for case, times in (part["times"] or {}).items():
            used = "the kernels are" if times["kernels_used"] else "MLX is"
            lines.append(
                f"{'':14}{CASES[case]}: kernels {1e3 * times['kernels_s']:.3g} ms, "
                f"MLX {1e3 * times['mlx_s']:.3g} ms; {used} used"
            )
    router = f"{model['experts']} experts, {model['experts_per_token']} per token"
    taken = "supported by the kernel" if model["router_taken"] else "computed by plain MLX"
    lines.append(f"{'':12}router of {router}: {taken}")
    reads = "io={io}, {threads} threads, split {split}".format(
        **{**model["io"], "split": model["io"]["split"] or "auto"}
    )
    lines.append(f"{'':12}reads with {reads}")
    return lines


def _span(numbers: Sequence[int]) -> str:
    """Describe ascending layer numbers; some models have experts in every other layer."""
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    return f"{len(numbers)} layers, {numbers[0]} to {numbers[-1]}"
