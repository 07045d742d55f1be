"""Whether a model computes with our kernels: what the user asked, and what the self-test says."""

from __future__ import annotations

import threading
import warnings

import mlx.core as mx

from flash_moe.errors import ConfigError, KernelError
from flash_moe.ops import kernel
from flash_moe.ops.self_test import SelfTest, self_test
from flash_moe.options.loading import KERNEL_OPTIONS

REPORT = (
    "Please report this to the issue tracker of flash_moe, with the output of: flash-moe doctor"
)
MAX_PROBLEM_CHARACTERS = 400  # a compiler can say thousands; flash-moe doctor prints all of it


class KernelWarning(RuntimeWarning):
    """The kernels are not used because their self-test failed."""


_lock = threading.Lock()
_warned = False


def use_kernels(option: str) -> bool:
    """Decide for this process and device.

    Args:
        option: ``"off"``: no, and nothing is tested. ``"auto"``: yes where the self-test passes;
            where it fails, one :class:`KernelWarning` a process; on a CPU no, silently.
            ``"require"``: yes, or an error.

    Raises:
        KernelError: ``"require"`` and there is no GPU or the self-test failed; or ``"auto"`` and
            plain MLX failed on the slab as well, so that nothing right is left.
        ConfigError: Another option, or a kernel file is missing.
    """
    if option not in KERNEL_OPTIONS:
        raise ConfigError(
            "ops", f"kernels: expected one of {', '.join(KERNEL_OPTIONS)}, got {option!r}"
        )
    if option == "off":
        return False
    if kernel.backend() is None:
        if option == "require":
            raise KernelError(
                "ops",
                f"kernels are required: expected Metal or CUDA, got {mx.default_device()}",
                "Use kernels='auto' to compute with plain MLX.",
            )
        return False
    result = self_test()
    if result.passed:
        return True
    if not result.plain_works:
        raise KernelError(
            "ops",
            f"{describe(result)}. Plain MLX is wrong on the slab too, so answers would be wrong",
            REPORT,
        )
    if option == "require":
        raise KernelError("ops", describe(result), REPORT)
    _warn_once(result)
    return False


def keep_views(option: str) -> bool:
    """Whether views of a slab see what is written into it later, by the self-test.

    On a CPU they do (the tests show it); with ``"off"`` nothing is tested.
    """
    return option == "off" or kernel.backend() is None or self_test().keep_views


def describe(result: SelfTest) -> str:
    """What failed and where, in one line."""
    problems = "; ".join(_short(problem) for problem in result.problems)
    return (
        f"the self-test of the kernels failed on {result.device} ({result.backend}, MLX "
        f"{result.mlx}): {problems}"
    )


def _short(problem: str) -> str:
    text = " ".join(problem.split())
    if len(text) <= MAX_PROBLEM_CHARACTERS:
        return text
    return f"{text[:MAX_PROBLEM_CHARACTERS]} ..."


def _warn_once(result: SelfTest) -> None:
    global _warned
    with _lock:
        first, _warned = not _warned, True
    if first:
        warnings.warn(
            f"flash_moe: {describe(result)}. The model computes with mx.gather_qmm instead, "
            f"which is right and slower. {REPORT}. kernels='off' or FLASH_MOE_KERNELS=off skips "
            "the kernels and this test.",
            KernelWarning,
            stacklevel=3,
        )
