"""Choice between kernels and MLX's forms by time, without measuring any."""

from __future__ import annotations

import pytest

from flash_moe.ops import dispatch, kernel
from flash_moe.ops.dispatch import kernel_forms
from flash_moe.ops.forms import DEFAULT, NO_KERNELS, Forms, Timing, fastest
from flash_moe.testing.random_experts import random_experts

LAYOUT = random_experts(64, 64, 1, bits=4, group_size=64).layout


@pytest.mark.parametrize(
    ("kernels", "mlx", "expected"),
    [(1.0, 0.94, False), (1.0, 0.96, True), (1.0, 1.0, True), (1.0, 3.0, True), (3.0, 1.0, False)],
)
def test_mlx_has_to_be_clearly_faster(kernels: float, mlx: float, expected: bool) -> None:
    assert Timing(kernels, mlx).kernels_win == expected


@pytest.mark.parametrize("forms", [NO_KERNELS, DEFAULT, Forms(True, False, True)])
def test_each_number_of_rows_has_its_own_choice(
    forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {case: Timing(1.0, 2.0 if wins else 0.5) for case, wins in vars(forms).items()}
    assert fastest(times) == forms
    monkeypatch.setattr(kernel, "backend", lambda: "metal")
    monkeypatch.setattr(dispatch, "times_on_this_machine", lambda layout: times)
    assert kernel_forms("auto", LAYOUT) == forms
    assert kernel_forms("require", LAYOUT) == DEFAULT
    monkeypatch.setattr(dispatch, "times_on_this_machine", lambda layout: None)
    assert kernel_forms("auto", LAYOUT) == DEFAULT


@pytest.mark.parametrize("backend", ["cuda", None])
def test_only_metal_is_timed(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "backend", lambda: backend)
    monkeypatch.setattr(dispatch, "times_on_this_machine", lambda layout: 1 / 0)
    assert kernel_forms("auto", LAYOUT) == DEFAULT
