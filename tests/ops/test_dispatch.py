"""Whether kernels are used: every option, with and without a GPU, passed and failed."""

from __future__ import annotations

import warnings

import pytest

from flash_moe.errors import ConfigError, KernelError
from flash_moe.ops import dispatch, kernel
from flash_moe.ops.dispatch import MAX_PROBLEM_CHARACTERS, KernelWarning, use_kernels
from flash_moe.ops.self_test import SelfTest, self_test

PASSED = SelfTest(True, (), True, 0.1, "metal", "Apple M9", "0.99", False)
FAILED = SelfTest(False, ("moe_down: wrong",), True, 0.1, "metal", "Apple M9", "0.99", False)
NOTHING_WORKS = SelfTest(False, ("views: stale",), False, 0.1, "metal", "Apple M9", "0.99", False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[SelfTest]:
    """A GPU whose self-test gives what the list holds; nothing has been warned of yet."""
    results: list[SelfTest] = []
    monkeypatch.setattr(kernel, "backend", lambda: "metal")
    monkeypatch.setattr(dispatch, "self_test", lambda: results[0])
    monkeypatch.setattr(dispatch, "_warned", False)
    return results


def test_off_tests_nothing(machine: list[SelfTest]) -> None:
    assert use_kernels("off") is False  # self_test would fail on the empty list


def test_a_pass_is_used(machine: list[SelfTest]) -> None:
    machine.append(PASSED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use_kernels("auto") is use_kernels("require") is True


def test_a_failure_is_said_once_and_loudly(machine: list[SelfTest]) -> None:
    machine.append(FAILED)
    with pytest.warns(KernelWarning) as caught:
        assert use_kernels("auto") is use_kernels("auto") is False
    (warning,) = caught
    assert issubclass(warning.category, RuntimeWarning)
    for words in (
        "self-test of the kernels failed on Apple M9 (metal, MLX 0.99): moe_down: wrong",
        "computes with mx.gather_qmm instead",
        "issue tracker of flash_moe",
        "flash-moe doctor",
        "FLASH_MOE_KERNELS=off",
    ):
        assert words in str(warning.message)
    with pytest.raises(KernelError, match=r"\[ops\] the self-test .* moe_down: wrong\. Please"):
        use_kernels("require")


def test_where_plain_mlx_is_wrong_too_nothing_goes_on(machine: list[SelfTest]) -> None:
    machine.append(NOTHING_WORKS)
    for option in ("auto", "require"):
        with pytest.raises(KernelError, match=r"stale.*Plain MLX is wrong on the slab too"):
            use_kernels(option)


def test_a_long_problem_is_cut_in_messages(machine: list[SelfTest]) -> None:
    machine.append(SelfTest(False, ("error:\n" * 500,), True, 0.1, "metal", "M9", "0.99", False))
    with pytest.raises(KernelError) as caught:
        use_kernels("require")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < MAX_PROBLEM_CHARACTERS + 400


def test_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "backend", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use_kernels("auto") is use_kernels("off") is False
    with pytest.raises(KernelError, match="kernels are required: expected Metal or CUDA, got"):
        use_kernels("require")
    with pytest.raises(KernelError, match="the self-test needs a GPU"):
        self_test()


@pytest.mark.parametrize("option", ["on", "", "AUTO"])
def test_another_option(option: str) -> None:
    with pytest.raises(ConfigError, match="kernels: expected one of auto, off, require, got"):
        use_kernels(option)
