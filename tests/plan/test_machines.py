"""Plans for several machines: sizes of a part, what mlx-lm leaves to each, and the arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_moe import demo_model
from flash_moe.errors import UnsupportedModelError
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.sources.store import slice_source
from flash_moe.plan.assumptions import assumptions
from flash_moe.plan.figure import Range
from flash_moe.plan.forecast import COLLECTIVE, ModelShape, forecast
from flash_moe.plan.planned import plan_store
from flash_moe.plan.this_machine import shape_of
from flash_moe.store.part import Part
from tests.plan.test_forecast import GB, machine_of, shape_397b
from tests.support.architectures import write_model
from tests.support.directories import contents
from tests.support.processes import in_process

GIVEN = ("--disk-gbps", "5.5", "--memory-gbps", "400")
LAYERS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a biased model that mlx-lm divides by two. Do not change it."""
    root = tmp_path_factory.mktemp("models")
    (root / "checkpoint").mkdir()
    write_model(root / "checkpoint", "gpt_oss", hidden_size=256, intermediate_size=256)
    pack(open_source(root / "checkpoint"), root / "store")
    return root / "store"


def facts_of(*words: object) -> dict[str, Any]:
    out = in_process("plan", *words, "--json", "--no-measure")
    assert out.returncode == 0, out.stderr
    facts: dict[str, Any] = json.loads(out.stdout)
    return facts


def divided(count: int) -> ModelShape:
    """Return the shape of one of ``count`` machines with the 397B."""
    whole = shape_397b(10)
    part = Part(1, count)
    layers = tuple(replace(la, layout=part.layout(la.layout)) for la in whole.layers)
    return replace(
        whole,
        layers=layers,
        resident_bytes=whole.resident_bytes // count,
        touched_bytes=whole.touched_bytes // count,
        machines=count,
        collectives=2 * LAYERS,
    )


@pytest.mark.parametrize("count", [2, 4])
def test_the_arithmetic(count: int) -> None:
    machine = machine_of(13, 300)
    one, each = (forecast(s, machine, 32 * GB) for s in (shape_397b(10), divided(count)))
    assert each.slots[0] == pytest.approx(count * one.slots[0], abs=count)
    assert each.hit_rate.low > one.hit_rate.low + 0.08
    assert each.read_bytes.high < one.read_bytes.high / count
    assert each.compute_s.value == pytest.approx(one.compute_s.value / count)
    assert each.message_s == Range(LAYERS * 50e-6, 2 * LAYERS * 300e-6, "assumed")
    layers = LAYERS * machine.layer_s.value
    slow = each.read_s.high + each.compute_s.value + layers + each.message_s.high
    fast = max(each.read_s.low, each.compute_s.value + each.message_s.low)
    assert each.tokens_per_s.low == pytest.approx(1 / slow)
    assert each.tokens_per_s.high == pytest.approx(1 / fast)
    assert one.message_s == Range(0, 0, "assumed")
    assert each.memory_bytes < one.memory_bytes


def test_messages_can_cost_more_than_they_save() -> None:
    slow = replace(machine_of(13, 300), collective_s=Range(0.002, 0.002, "given"))
    one, two = (forecast(s, slow, 32 * GB) for s in (shape_397b(10), divided(2)))
    assert two.tokens_per_s.low < one.tokens_per_s.low
    (messages,) = (line for line in assumptions(slow, 2) if line.startswith("Messages"))
    assert "2e+03 us each, given" in messages
    assert not any("machines" in line for line in assumptions(slow))


def test_a_part_is_planned_as_it_is_cut(store: Path, tmp_path: Path) -> None:
    dst = tmp_path / "part"
    before = facts_of(store, "--machines", 2, "--dst", dst)
    whole = facts_of(store)
    assert (before["machines"], before["state"], whole["machines"]) == (2, "absent", 1)
    assert before["expert_bytes"] < 0.6 * whole["expert_bytes"]
    assert before["resident_bytes"] < 0.9 * whole["resident_bytes"]
    assert before["verdict"]["command"] == [
        "flash-moe", "slice", str(store), str(dst), "--part", "1/2",
    ]  # fmt: skip
    pack(slice_source(store, Part(1, 2)), dst)
    size = sum(map(len, contents(dst).values()))
    assert before["disk"]["needed"] == before["disk"]["store"]
    assert before["disk"]["store"] == pytest.approx(size, abs=20_000)  # the manifest
    after = facts_of(dst)
    assert (after["machines"], after["state"]) == (2, "complete")
    for name in ("expert_bytes", "resident_bytes", "record_bytes", "bytes_per_token_uncached"):
        assert before[name] == after[name], name
    assert after["verdict"]["command"][:5] == ["mlx.launch", "-n", "2", "--", "flash-moe"]
    assert facts_of(dst, "--machines", 2)["budgets"] == after["budgets"]
    streaming = open_streaming(dst, LoadOptions(), Part(1, 2))
    assert shape_of(plan_store(dst)).layers == streaming.experts.layers


def test_a_checkpoint_for_several_machines(store: Path, tmp_path: Path) -> None:
    checkpoint = store.parent / "checkpoint"
    facts = facts_of(checkpoint, "--machines", 2, "--dst", tmp_path / "part")
    assert facts["verdict"]["command"][-2:] == ["--part", "1/2"]
    assert facts["disk"]["deleting"] is None


def test_the_page(store: Path) -> None:
    text = in_process("plan", store, "--machines", 2, *GIVEN).stdout
    for line in (
        "part 1/2, figures of one machine",
        "It fits on each of 2 machines.",
        "2 machines like this one: each reads and computes 1/2 of every expert",
        "To get it, on each machine with its own number (1/2 here): flash-moe slice",
    ):
        assert line in text, line
    given = in_process("plan", store, "--machines", 2, "--collective-us", 80, *GIVEN).stdout
    assert "80 us each, given" in given
    assert f"{1e6 * COLLECTIVE.high:.0f} us" not in given


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--machines", 0), "--machines: expected at least 1, got 0"),
        (("--machines", 3), "3 parts: expected experts that divide by 3"),
        (("--machines", 2, "--collective-us", 0), "--collective-us: expected a positive number"),
    ],
)
def test_errors(store: Path, words: tuple[object, ...], error: str) -> None:
    assert error in in_process("plan", store, "--no-measure", *words).stderr


def test_a_model_that_mlx_lm_does_not_divide() -> None:
    """The demo's shared expert has one group of 64 inputs."""
    with pytest.raises(UnsupportedModelError, match=r"mlx-lm cannot divide this model by 2: .*\)"):
        slice_source(demo_model.STORE, Part(1, 2))
