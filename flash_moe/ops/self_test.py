"""Self-test of the kernels on this machine, run once before a model uses them.

Each kernel runs on a small case and is compared with plain MLX (``self_test_cases.py``). The same
test runs with ``mx.gather_qmm`` on views of a slab that were made before its first write: it
computes long prompts, and everything if the kernels fail. If it fails too, it runs again on views
made for each call.
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
from flash_moe.ops.moe_experts import DOWN, GATE_UP
from flash_moe.ops.router_topk import ROUTER_TOPK
from flash_moe.ops.self_test_cache import drop_pass, has_passed, save_pass
from flash_moe.ops.self_test_cases import ExpertsCase, router

VIEWS = "mx.gather_qmm on views of the slab"
KERNELS = (GATE_UP, DOWN, ROUTER_TOPK)


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
    about = {
        "mlx": version("mlx"),
        "backend": backend,
        "device": str(mx.device_info().get("device_name", "unknown")),
        "system": platform.platform(),  # Metal's compiler comes with macOS
    }
    key = _key(about)
    with _lock:
        if key in _results and not again:
            return _results[key]
        remembered = not again and has_passed(key)
        problems, views = ([], []) if remembered else _run()
        result = SelfTest(
            passed=not problems and not views,
            problems=(*problems, *views),
            plain_works=not views or not _problems(f"{VIEWS}, made per call", _on_new_views),
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


def kernel_texts() -> list[str]:
    """Return the sources of all kernels, as they are compiled.

    Raises:
        ConfigError: A file is missing.
    """
    return [text for k in KERNELS for text in (k.header, k.source)]


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
    return kernels, _problems(VIEWS, lambda: ExpertsCase.draw().on_views(keep=True))


def _on_new_views() -> str:
    return ExpertsCase.draw().on_views(keep=False)


def _problems(name: str, test: Callable[[], str]) -> list[str]:
    """Run a test. An exception while a kernel is built or run counts as a problem."""
    try:
        problem = test()
    except ConfigError:  # a kernel file is missing: a mistake of the user, not of the device
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    return [f"{name}: {problem}"] if problem else []
