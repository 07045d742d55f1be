"""Self-test of the kernels on this machine, run once before a model uses them, and their times.

Each kernel runs on a small case and is compared with plain MLX (``self_test_cases.py``). The same
test runs with ``mx.gather_qmm`` on views of a slab that were made before its first write: it
computes everything if the kernels fail. If it fails too, it runs again on views made for each call.
Many rows per expert, as in prompts, are computed in the form of prompts.
"""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from flash_moe.errors import ConfigError, KernelError
from flash_moe.ops import kernel
from flash_moe.ops.delta_step import DELTA_STEP
from flash_moe.ops.form_timing import measure
from flash_moe.ops.forms import Timing
from flash_moe.ops.gated_delta import GATED_DELTA
from flash_moe.ops.moe_experts import DOWN, GATE_UP
from flash_moe.ops.router_topk import ROUTER_TOPK
from flash_moe.ops.self_test_cache import (
    drop_pass,
    has_passed,
    save_pass,
    save_times,
    saved_times,
)
from flash_moe.ops.self_test_cases import ExpertsCase, router
from flash_moe.ops.self_test_delta import delta_position, delta_rule
from flash_moe.store.layout import RecordLayout, describe

VIEWS = "mx.gather_qmm on views of the slab"
MANY_ROWS = "many rows per expert"
KERNELS = (GATE_UP, DOWN, ROUTER_TOPK, GATED_DELTA, DELTA_STEP)


@dataclass(frozen=True)
class SelfTest:
    """Result of the self-test.

    Attributes:
        passed: Every test passed.
        problems: One description per failed test.
        plain_works: ``mx.gather_qmm`` on the slab's views is correct, whatever the kernels do.
        keep_views: It is also correct with views that were made before a slot was written.
        seconds: Duration of the test, or of the look-up of an earlier pass.
        backend: ``"metal"`` or ``"cuda"``.
        device: Name of the device.
        mlx: Version of MLX.
        remembered: It passed in an earlier process and was not run in this one.
    """

    passed: bool
    problems: tuple[str, ...]
    plain_works: bool
    seconds: float
    backend: str
    device: str
    mlx: str
    remembered: bool
    keep_views: bool = True


_lock = threading.Lock()
_results: dict[str, SelfTest] = {}


def self_test(*, again: bool = False) -> SelfTest:
    """Run the self-test, at most once per process, or load its pass of an earlier process.

    A pass is saved for this version of MLX, system and device, and for the text of the kernels. A
    failure is not saved: each process tests again.

    Args:
        again: Run it now, whatever was saved.

    Raises:
        KernelError: There is no GPU that kernels can run on.
        ConfigError: A kernel file is missing.
    """
    started = time.perf_counter()
    backend = kernel.backend()
    if backend is None:
        raise KernelError(
            "ops", f"the self-test needs a GPU: expected Metal or CUDA, got {mx.default_device()}"
        )
    about = _about(backend)
    key = _key(about)
    with _lock:
        if key in _results and not again:
            return _results[key]
        remembered = not again and has_passed(key)
        problems, views = ([], []) if remembered else _run()
        result = SelfTest(
            passed=not problems and not views,
            problems=(*problems, *views),
            plain_works=not views
            or not _plain_problems(f"{VIEWS}, made per call", keep_views=False),
            keep_views=not views,
            seconds=time.perf_counter() - started,
            backend=backend,
            device=about["device"],
            mlx=about["mlx"],
            remembered=remembered,
        )
        if not remembered:
            if result.passed:
                save_pass(key, about)
            else:
                drop_pass(key)
        _results[key] = result
        return result


def times_on_this_machine(layout: RecordLayout) -> dict[str, Timing] | None:
    """Return the times of one, few and many rows by our kernels and by MLX.

    They are measured once per machine and layout of records, and saved with the self-test's pass.

    Returns:
        ``None`` if the self-test failed, or if times cannot be saved: outputs would depend on which
        form was faster in this process.

    Raises:
        KernelError: There is no GPU that kernels can run on.
    """
    if not self_test().passed:
        return None
    backend = kernel.backend()
    assert backend is not None
    key, name = _key(_about(backend)), describe(layout)
    with _lock:
        if saved_times(key, name) is None:
            measured = measure(layout)
            save_times(key, name, {case: [t.kernels, t.mlx] for case, t in measured.items()})
        saved = saved_times(key, name)
    return {case: Timing(*pair) for case, pair in saved.items()} if saved else None


def kernel_texts() -> list[str]:
    """Return the sources of all kernels, as they are compiled.

    Raises:
        ConfigError: A file is missing.
    """
    return [text for k in KERNELS for text in (k.header, k.source)]


def _about(backend: str) -> dict[str, str]:
    return {
        "mlx": version("mlx"),
        "backend": backend,
        "device": str(mx.device_info().get("device_name", "unknown")),
        "system": platform.platform(),  # Metal's compiler comes with macOS
    }


def _key(about: Mapping[str, str]) -> str:
    """Hash everything that the result depends on, including the files that launch the kernels."""
    parts = [*about.values(), *kernel_texts()]
    launchers = sorted(Path(__file__).parent.glob("*.py"))
    parts += [file.read_text(encoding="utf-8") for file in launchers]
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{len(part)}:{part}".encode())
    return state.hexdigest()


def _run() -> tuple[list[str], list[str]]:
    """Return the problems of the kernels, and of plain MLX on kept views."""
    kernels = [
        *_problems("router_topk", router),
        *_problems("moe_gate_up, moe_down", lambda: ExpertsCase.draw().on_kernels()),
    ]
    if kernel.backend() == "cuda":  # mlx-lm has a kernel of its own for Metal
        kernels += _problems("gated_delta", delta_rule)
        kernels += _problems("delta_step", delta_position)
    return kernels, _plain_problems(VIEWS, keep_views=True)


def _plain_problems(name: str, *, keep_views: bool) -> list[str]:
    """Return the problems of plain MLX, which computes prompts even if the kernels pass."""
    case = ExpertsCase.draw
    return [
        *_problems(name, lambda: case().on_views(keep=keep_views)),
        *_problems(f"{name}, {MANY_ROWS}", lambda: case().on_many_rows(keep=keep_views)),
    ]


def _problems(name: str, test: Callable[[], str]) -> list[str]:
    """Run a test. An exception while a kernel is built or run counts as a problem."""
    try:
        problem = test()
    except ConfigError:  # a kernel file is missing: a mistake of the user, not of the device
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    return [f"{name}: {problem}"] if problem else []
