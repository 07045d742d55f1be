"""The self-test on emulated kernels: right ones pass, planted faults are found and said."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from flash_moe.errors import ConfigError, KernelError
from flash_moe.ops import dispatch, expert_mlp, form_timing, self_test_cache, self_test_cases
from flash_moe.ops import kernel as kernel_module
from flash_moe.ops import self_test as self_test_module
from flash_moe.ops.dispatch import KernelWarning, keep_views, kernel_forms, use_kernels
from flash_moe.ops.form_timing import measure
from flash_moe.ops.forms import Forms, Timing
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.ops.self_test import SelfTest, self_test
from flash_moe.ops.self_test_cases import EXPERTS_BOUND, N_SLOTS, OVERWRITTEN, SLOTS, ExpertsCase
from flash_moe.ops.self_test_delta import delta_position, delta_rule
from flash_moe.ops.source import shipped_kernels_dir
from flash_moe.stream.slab import Slab
from flash_moe.testing.random_experts import random_experts
from tests.support.metal_emulator import emulated_metal

# A line before the kernel that makes it compute something else.
PLANTED = {
    "moe_gate_up": "#define UP_W GATE_W",
    "moe_down": "#define SHARED false",
    "router_topk": "#define RENORM false",
}
planted = pytest.mark.parametrize("name", PLANTED)


@pytest.fixture(autouse=True)
def on_metal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """As in a new process on a Mac where nothing is remembered yet; gives the memory file."""
    memory = tmp_path / "cache" / "self-test.json"
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")
    monkeypatch.setattr(self_test_cache, "cache_file", lambda: memory)
    monkeypatch.setattr(dispatch, "_warned", False)
    new_process()
    with emulated_metal():
        yield memory
    new_process()


def new_process() -> None:
    self_test_module._results.clear()
    kernel_module._build.cache_clear()


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the kernels that a test may edit, and that is used."""
    copy = Path(shutil.copytree(shipped_kernels_dir(), tmp_path / "edited"))
    monkeypatch.setenv("FLASH_MOE_KERNEL_DIR", str(copy))
    return copy


def plant(directory: Path, name: str, line: str) -> None:
    file = directory / f"{name}.metal"
    text = file.read_text()
    if line.startswith("#define"):
        assert line.split()[1] in text, "nothing to plant in"
    file.write_text(f"{line}\n{text}")


def no_run() -> tuple[list[str], list[str]]:
    raise AssertionError("tested again")


def test_the_kernels_pass_and_it_is_remembered(
    on_metal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = self_test()
    assert result.problems == ()
    assert result.passed
    assert result.plain_works
    assert (result.backend, result.remembered) == ("metal", False)
    assert result.device in on_metal.read_text()
    assert self_test() is result
    assert use_kernels("auto")
    assert use_kernels("require")
    new_process()
    with monkeypatch.context() as patch:
        patch.setattr(self_test_module, "_run", no_run)
        assert self_test().remembered
        assert use_kernels("auto")
    assert not self_test(again=True).remembered


def test_the_two_runs_of_the_protocol_differ() -> None:
    case = ExpertsCase.draw()
    after = SLOTS.copy()
    after[SLOTS == OVERWRITTEN] = N_SLOTS
    first, second = (self_test_cases.host(case._plain(i, case.experts)) for i in (SLOTS, after))
    assert self_test_cases._error(first, second) > 20 * EXPERTS_BOUND


@planted
def test_a_wrong_kernel_is_found(on_metal: Path, edited: Path, name: str) -> None:
    plant(edited, name, PLANTED[name])
    result = self_test()
    assert (result.passed, result.plain_works) == (False, True)
    (problem,) = result.problems
    assert name in problem
    assert "wrong numbers: largest error over largest output" in problem
    assert not on_metal.exists()
    assert self_test() is result  # once a process


@pytest.mark.parametrize(
    ("case", "name", "line"),
    [
        (delta_rule, "gated_delta", None),
        (delta_rule, "gated_delta", "#define MASKED false"),
        (delta_rule, "gated_delta", "#define HK HV"),
        (delta_position, "delta_step", None),
        (delta_position, "delta_step", "#define EPS 100000000"),
        (delta_position, "delta_step", "#define log1p metal::exp"),
    ],
)
def test_wrong_kernels_that_run_on_cuda_alone(
    edited: Path, case: Callable[[], str], name: str, line: str | None
) -> None:
    if line is not None:
        plant(edited, name, line)
    assert bool(case()) is (line is not None)


@planted
def test_a_kernel_that_does_not_compile(edited: Path, name: str) -> None:
    plant(edited, name, "this is no code;")
    with pytest.warns(KernelWarning, match=rf"{name}.*gather_qmm.*flash-moe doctor"):
        assert use_kernels("auto") is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use_kernels("auto") is False  # said once
    with pytest.raises(KernelError, match=name):
        use_kernels("require")
    assert self_test().plain_works


def test_a_kernel_that_faults_is_a_finding(edited: Path) -> None:
    plant(edited, "router_topk", "threadgroup float big[10000]; big[0] = 0.0f;")
    (problem,) = self_test().problems
    assert problem.startswith("router_topk: ")


def test_a_file_that_is_missing_is_an_error(edited: Path) -> None:
    (edited / "moe_down.metal").unlink()
    for option in ("auto", "require"):
        with pytest.raises(ConfigError, match=r"FLASH_MOE_KERNEL_DIR: expected .*moe_down\.metal"):
            use_kernels(option)
    assert not use_kernels("off")


def test_kernels_that_do_not_see_the_overwritten_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    real, answers = ExpertKernels.__call__, []

    def first_answer(self: ExpertKernels, *args: Any, **kwargs: Any) -> mx.array:
        answers.append(real(self, *args, **kwargs))
        return answers[0]

    monkeypatch.setattr(ExpertKernels, "__call__", first_answer)
    result = self_test()
    assert (result.passed, result.plain_works, len(answers)) == (False, True, 2)
    (problem,) = result.problems
    assert problem.startswith("moe_gate_up, moe_down: stale: after a slot was overwritten")


@pytest.mark.parametrize("new_views_see_it", [True, False])
def test_views_that_do_not_see_the_overwritten_slot(
    monkeypatch: pytest.MonkeyPatch, new_views_see_it: bool
) -> None:
    """Then views are made for each call; if those do not see it either, nothing loads."""

    class Snapshots(dict[str, mx.array]):
        """Views that are copied when they are first used."""

        copies: dict[str, mx.array]

        def __getitem__(self, name: str) -> mx.array:
            if name not in self.copies:
                self.copies[name] = mx.contiguous(super().__getitem__(name))
                mx.eval(self.copies[name])
            return self.copies[name]

        def get(self, name: str, default: Any = None) -> Any:
            return default if name not in self else self.__getitem__(name)

    real = Slab.views

    made: dict[Slab, Snapshots] = {}

    def views(self: Slab, layout: Any) -> Snapshots:
        keeps = self._keep_views or not new_views_see_it
        if self not in made or not keeps:
            made[self] = Snapshots(real(self, layout))
            made[self].copies = {}
        return made[self]

    monkeypatch.setattr(Slab, "views", views)
    result = self_test()
    assert (result.passed, result.plain_works) == (False, new_views_see_it)
    assert not result.keep_views
    (problem,) = result.problems
    assert problem.startswith("mx.gather_qmm on views of the slab: stale")
    assert keep_views("off")
    if new_views_see_it:
        with pytest.warns(KernelWarning, match="stale"):
            assert not use_kernels("auto")
        assert not keep_views("auto")
        return
    for option in ("auto", "require"):
        with pytest.raises(KernelError, match="Plain MLX is wrong on the slab too"):
            use_kernels(option)
    assert not use_kernels("off")


def test_many_rows_on_wrong_copies_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of prompts fails alone; then no correct computation is left."""
    monkeypatch.setattr(
        expert_mlp,
        "_copies",
        lambda views, used: {n: view[: len(used)] for n, view in views.items()},
    )
    result = self_test()
    assert (result.passed, result.plain_works) == (False, False)
    (problem,) = result.problems
    assert problem.startswith("mx.gather_qmm on views of the slab, many rows per expert: wrong num")


def test_times(on_metal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All forms run on the emulator; a clock that counts its readings replaces time."""
    ticks = count()
    monkeypatch.setattr(form_timing, "STEPS", {"one": 3, "few": 2, "many": 1})
    monkeypatch.setattr(form_timing, "ROUNDS", 2)
    experts = random_experts(64, 64, 2, bits=4, group_size=64, scale_dtype=mx.bfloat16)
    times = measure(experts.layout, clock=lambda: float(next(ticks)))
    assert times == {
        "one": Timing(1 / 3, 1 / 3), "few": Timing(1 / 2, 1 / 2), "many": Timing(1.0, 1.0)
    }  # fmt: skip
    monkeypatch.setattr(self_test_module, "measure", lambda layout: {"one": Timing(2.0, 1.0)})
    assert kernel_forms("require", experts.layout) == Forms()
    assert not kernel_forms("auto", experts.layout).one
    monkeypatch.setattr(self_test_module, "measure", lambda layout: {"one": Timing(1.0, 2.0)})
    new_process()
    assert not kernel_forms("auto", experts.layout).one  # as it was saved
    assert not self_test(again=True).remembered
    assert not kernel_forms("auto", experts.layout).one
    on_metal.unlink()
    new_process()
    assert kernel_forms("auto", experts.layout).one
    # If nothing can be saved, processes would choose differently.
    on_metal.unlink()
    on_metal.parent.rmdir()
    on_metal.parent.write_text("a file in the place of the directory")
    monkeypatch.setattr(self_test_module, "measure", lambda layout: {"one": Timing(2.0, 1.0)})
    new_process()
    assert kernel_forms("auto", experts.layout) == Forms()


def test_another_text_is_tested_anew(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text in another place is the same; one more comment is not."""
    assert self_test().passed
    monkeypatch.delenv("FLASH_MOE_KERNEL_DIR")
    new_process()
    assert self_test().remembered
    again = Path(shutil.copytree(edited, tmp_path / "again"))
    plant(again, "moe_down", "// edited")
    monkeypatch.setenv("FLASH_MOE_KERNEL_DIR", str(again))
    new_process()
    result = self_test()
    assert result.passed
    assert not result.remembered


@pytest.mark.parametrize("what", ["mlx", "device", "system", "backend"])
def test_another_machine_is_tested_anew(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert self_test().passed
    new_process()
    if what == "mlx":
        monkeypatch.setattr(self_test_module, "version", lambda name: "99.0")
    elif what == "device":
        monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M9 Ultra"})
    elif what == "system":
        monkeypatch.setattr(self_test_module.platform, "platform", lambda: "macOS-99")
    else:
        monkeypatch.setattr(kernel_module, "backend", lambda: "cuda")
    monkeypatch.setattr(self_test_module, "_run", lambda: ([], []))
    result = self_test()
    assert result.passed
    assert not result.remembered


def test_a_pass_that_fails_later_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert self_test().passed
    with monkeypatch.context() as patch:
        patch.setattr(self_test_module, "_run", lambda: (["it broke"], []))
        assert not self_test(again=True).passed
    new_process()
    result: SelfTest = self_test()
    assert result.passed
    assert not result.remembered


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"passed": 3}', b"\xff\xfe", b"[" * 9999])
def test_a_memory_that_cannot_be_read_is_made_anew(on_metal: Path, content: bytes) -> None:
    on_metal.parent.mkdir()
    on_metal.write_bytes(content)
    assert not self_test().remembered
    new_process()
    assert self_test().remembered


def test_a_memory_that_cannot_be_written_is_done_without(on_metal: Path) -> None:
    on_metal.parent.write_text("a file in the place of the directory")
    assert self_test().passed
    new_process()
    assert self_test().passed
    assert not self_test().remembered
