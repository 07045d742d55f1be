"""Choice between our kernels and plain MLX, by the user's option and the self-test."""

from __future__ import annotations

import threading
import warnings

import mlx.core as mx

from flash_moe.errors import ConfigError, KernelError
from flash_moe.ops import kernel
from flash_moe.ops.forms import DEFAULT, Forms, fastest
from flash_moe.ops.self_test import SelfTest, self_test, times_on_this_machine
from flash_moe.options.loading import KERNEL_OPTIONS
from flash_moe.store.layout import RecordLayout

REPORT = (
    "Please report this to the issue tracker of flash_moe, with the output of: flash-moe doctor"
)
MAX_PROBLEM_CHARACTERS = 400  # compiler output can be longer; flash-moe doctor prints all of it


class KernelWarning(RuntimeWarning):
    """The kernels are not used because their self-test failed."""


_lock = threading.Lock()
_warned = False


def use_kernels(option: str) -> bool:
    """Decide if this process uses the kernels on its device.

    Args:
        option: ``"off"``: no, without a self-test. ``"auto"``: yes if the self-test passes; if it
            fails, no, with one :class:`KernelWarning` per process; on a CPU no, without a warning.
            ``"require"``: yes, or an error.

    Raises:
        KernelError: ``"require"`` and there is no GPU or the self-test failed; or plain MLX failed
            on the slab as well, so that no correct computation is left.
        ConfigError: Unknown option, or a kernel file is missing.
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
            f"{describe(result)}. Plain MLX is wrong on the slab too, so outputs would be wrong",
            REPORT,
        )
    if option == "require":
        raise KernelError("ops", describe(result), REPORT)
    _warn_once(result)
    return False


def kernel_forms(option: str, layout: RecordLayout) -> Forms:
    """Return the numbers of rows for which the kernels compute the records of a layout.

    On Metal those for which they are faster, as the self-test timed them on this machine. With
    ``"require"``, and on CUDA, where they always were (docs/kernels.md), the default.
    """
    if option == "require" or kernel.backend() != "metal":
        return DEFAULT
    timings = times_on_this_machine(layout)
    return fastest(timings) if timings else DEFAULT


def keep_views(option: str) -> bool:
    """True if views of a slab see bytes written after they were made, by the self-test.

    On a CPU they do (the tests check it); with ``"off"`` nothing is tested.
    """
    return option == "off" or kernel.backend() is None or self_test().keep_views


def describe(result: SelfTest) -> str:
    """Describe the failures of a self-test, and its device, in one line."""
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
            f"which is correct but slower. {REPORT}. kernels='off' or FLASH_MOE_KERNELS=off skips "
            "the kernels and this test.",
            KernelWarning,
            stacklevel=3,
        )
