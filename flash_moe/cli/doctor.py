"""``flash-moe doctor``: check this machine and the GPU kernels on it."""

from __future__ import annotations

import argparse
import json
import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli import tune
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.store.layout import describe
from flash_moe.version import __version__

if TYPE_CHECKING:
    from flash_moe.options.loading import LoadOptions
    from flash_moe.store.layout import RecordLayout

PLAIN = "the CPU computes with plain MLX; kernels need Metal or CUDA"
# Copies to an NVIDIA GPU: records of the 397B, one and several.
COPIED_BYTES, COPIES = 7_077_888, (1, 8)
BACKENDS = {"metal": "Metal", "cuda": "CUDA", None: "CPU"}


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "doctor", parents=[common], help="check this machine and the GPU kernels on it"
    )
    parser.add_argument(
        "model",
        nargs="?",
        help="store or mlx checkpoint; also check whether the kernels support its experts",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="measure the disk of MODEL in a few seconds and save the fastest --io, --io-threads "
        "and --io-split as the defaults of models on that disk",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.tune:
        if args.model is None:
            raise ConfigError("doctor", "--tune: expected MODEL, a store to read from")
        return tune.run(args.model, args.json)
    facts = {**machine(), "self_test": tested()}
    if args.model is not None:
        facts["model"] = model_facts(args.model)
    failed = facts["self_test"] is not None and not facts["self_test"]["passed"]
    print(json.dumps(facts, indent=2) if args.json else "\n".join(report(facts)))
    return 1 if failed else 0


def machine() -> dict[str, Any]:
    """Versions, device, memory, and paths of caches and settings."""
    from importlib.metadata import version

    import mlx.core as mx
    import platformdirs
    from huggingface_hub.constants import HF_HUB_CACHE

    from flash_moe.env import load_options, read_environment
    from flash_moe.memory.system import machine_memory
    from flash_moe.ops.kernel import backend
    from flash_moe.ops.self_test import kernel_texts
    from flash_moe.ops.self_test_cache import cache_file
    from flash_moe.ops.source import kernels_dir
    from flash_moe.stream.io_settings import saved_disks, settings_file

    environment = read_environment()
    kernel_texts()  # a missing file is an error even where no kernel runs
    device = mx.device_info()
    return {
        "flash_moe": __version__,
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": backend(),
        "device": str(device.get("device_name", "unknown")),
        "architecture": str(device.get("architecture", platform.machine())),
        "memory_bytes": machine_memory(),
        # Limit of macOS for GPU memory; the bank and the resident weights share it.
        "gpu_memory_bytes": device.get("max_recommended_working_set_size"),
        "cuda": cuda_facts(),
        "kernels_option": load_options().kernels,
        "kernels_dir": str(kernels_dir()),
        "kernels_overridden": environment.kernel_dir is not None,
        "cache_dir": platformdirs.user_cache_dir("flash_moe"),
        "self_test_file": str(cache_file()),
        "io_file": str(settings_file()),
        "io": saved_disks(),
        "hub_cache_dir": str(HF_HUB_CACHE),
    }


def cuda_facts() -> dict[str, Any] | None:
    """Memory of an NVIDIA GPU, its CUDA runtime and copies to it; ``None`` without them."""
    from flash_moe.compat.cudart import cuda_runtime
    from flash_moe.plan.device_speed import copy_speed
    from flash_moe.stream.kvikio_readers import kvikio_library

    runtime = cuda_runtime()
    if runtime is None:
        return None
    free, total = runtime.memory()
    copies = {n: copy_speed(runtime, COPIED_BYTES, n) for n in COPIES}
    kvikio = kvikio_library()
    return {
        "runtime": runtime.version(),
        "kvikio": kvikio and kvikio.__version__,
        "free_bytes": free,
        "memory_bytes": total,
        "concurrent_managed_access": runtime.concurrent_managed_access(),
        "copies": [{"records": n, **vars(speed)} for n, speed in copies.items()],
    }


def tested() -> dict[str, Any] | None:
    """Run the self-test, ignoring its cached result; ``None`` on a CPU."""
    from dataclasses import asdict

    from flash_moe.ops.kernel import backend
    from flash_moe.ops.self_test import self_test

    return asdict(self_test(again=True)) if backend() is not None else None


def model_facts(path_or_repo: str) -> dict[str, Any]:
    """Kernel support for the records of a model, one entry per run of layers with one layout."""
    from itertools import groupby

    from flash_moe.env import load_options
    from flash_moe.hub.resolve import resolve
    from flash_moe.model.open import open_streaming
    from flash_moe.ops.router_topk import supports
    from flash_moe.store.manifest import part_held
    from flash_moe.stream.io_settings import io_settings

    path = resolve(path_or_repo)
    streaming = open_streaming(path, load_options(), part_held(path))
    config, layers = streaming.model, streaming.experts.layers
    runs = []
    for layout, like in groupby(layers, key=lambda layer: layer.layout):
        numbers = [layer.number for layer in like]
        why_not = why_not_taken(layout)
        runs.append(
            {
                "layers": numbers,
                "records": describe(layout),
                "why_not": why_not,
                "times": form_times(layout) if why_not is None else None,
            }
        )
    return {
        "path": str(path),
        "model_type": config.model_type,
        "experts": config.n_experts,
        "experts_per_token": config.top_k,
        "router_taken": supports(config.n_experts, config.top_k),
        "records": runs,
        "io": vars(io_settings(streaming.experts, **_io_options(streaming.options))),
    }


def _io_options(options: LoadOptions) -> dict[str, Any]:
    return {"io": options.io, "threads": options.io_threads, "split": options.io_split}


def why_not_taken(layout: RecordLayout) -> str | None:
    """Return the reason why the kernels do not support this layout, or ``None`` if they do."""
    from flash_moe.errors import UnsupportedModelError
    from flash_moe.ops.moe_experts import ExpertKernels

    try:
        ExpertKernels(layout, layout.record_bytes)
    except UnsupportedModelError as error:
        return error.problem
    return None


def form_times(layout: RecordLayout) -> dict[str, dict[str, Any]] | None:
    """Seconds per case by the kernels and by MLX, and which is used; ``None`` if not timed."""
    from flash_moe.ops import kernel
    from flash_moe.ops.self_test import times_on_this_machine

    if kernel.backend() != "metal":
        return None
    times = times_on_this_machine(layout)
    if times is None:
        return None
    return {
        case: {"kernels_s": t.kernels, "mlx_s": t.mlx, "kernels_used": t.kernels_win}
        for case, t in times.items()
    }


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
