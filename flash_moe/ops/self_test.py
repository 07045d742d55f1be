"""Do the kernels compute right on this machine? Asked once, before a model uses them.

Each kernel runs on a small case and is compared with plain MLX (``self_test_cases.py``). The same
is asked of ``mx.gather_qmm`` on views of a slab that were made before its first write: it computes
long prompts, and everything where the kernels do not work. If that fails, the question is whether
views made for each call do.
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
    """What the self-test found.

    Attributes:
        passed: Everything is right.
        problems: What is not, one text each.
        plain_works: ``mx.gather_qmm`` on the slab's views is right, whatever the kernels do.
        keep_views: It is right also with views that were made before a slot was written.
        seconds: What it took; of a remembered test, what it took to remember.
        backend: ``"metal"`` or ``"cuda"``.
        device: Its name.
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
    """Run the self-test, at most once a process, or recall that it passed in an earlier one.

    A pass is remembered for this version of MLX, of the system and of the device, and for these
    very kernels. A failure is not: it is tested anew in each process.

    Args:
        again: Run it now, whatever is remembered.

    Raises:
        KernelError: There is no GPU that kernels can run on.
        ConfigError: A kernel file is missing.
    """
    started = time.perf_counter()
    where = kernel.backend()
    if where is None:
        raise KernelError(
            "ops", f"the self-test needs a GPU: expected Metal or CUDA, got {mx.default_device()}"
        )
    about = {
        "mlx": version("mlx"),
        "backend": where,
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
            plain_works=not views or not _problems(f"{VIEWS}, made anew", _on_new_views),
            keep_views=not views,
            seconds=time.perf_counter() - started,
            backend=where,
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
    """The texts of all kernels, as they are compiled.

    Raises:
        ConfigError: A file is missing.
    """
    return [text for k in KERNELS for text in (k.header, k.source)]


def _key(about: Mapping[str, str]) -> str:
    """A hash of all that the outcome depends on: also of the files that launch the kernels."""
    parts = [*about.values(), *kernel_texts()]
    launchers = sorted(Path(__file__).parent.glob("*.py"))
    parts += [file.read_text(encoding="utf-8") for file in launchers]
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{len(part)}:{part}".encode())
    return state.hexdigest()


def _run() -> tuple[list[str], list[str]]:
    """Problems of the kernels, and problems of plain MLX on views that are kept."""
    kernels = [
        *_problems("router_topk", router),
        *_problems("moe_gate_up, moe_down", lambda: ExpertsCase.draw().on_kernels()),
    ]
    return kernels, _problems(VIEWS, lambda: ExpertsCase.draw().on_views(keep=True))


def _on_new_views() -> str:
    return ExpertsCase.draw().on_views(keep=False)


def _problems(what: str, test: Callable[[], str]) -> list[str]:
    """Whatever goes wrong while a kernel is built or run is a finding, not an error."""
    try:
        found = test()
    except ConfigError:  # a kernel file is missing: a mistake of the user, not of the device
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    return [f"{what}: {found}"] if found else []
