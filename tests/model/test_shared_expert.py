"""The shared expert is begun before reads are waited for, and is the same bits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from flash_moe import load
from flash_moe.errors import ReadError
from flash_moe.model.shared_expert import EarlyOutput, SharedExpert, start_early
from flash_moe.store.reader import RecordReader
from tests.support.architectures import write_model
from tests.support.resident import Resident, budget_gb, prompt_ids
from tests.support.timeout import TIMEOUT_S

N_LAYERS = 4
PROMPTS = [mx.array([prompt_ids(3, seed)]) for seed in range(4)]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[mx.array]:
    """The outputs that were begun."""
    outputs: list[mx.array] = []
    begin = SharedExpert.begin

    def watched(self: SharedExpert, x: mx.array) -> None:
        begin(self, x)
        assert self._early_output.y is not None
        outputs.append(self._early_output.y)

    monkeypatch.setattr(SharedExpert, "begin", watched)
    return outputs


def logits(path: Path, share: str) -> list[np.ndarray]:
    with load(path, cache_gb=budget_gb(path, share)) as flash:
        return [np.array(flash.model(prompt)) for prompt in PROMPTS]


def test_the_bits_are_the_same(
    tiny_mlx: Path, tiny_store: Path, begun: list[mx.array], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = Resident(tiny_mlx)
    expected = [np.array(resident.model(prompt)) for prompt in PROMPTS]
    for share in ("layer", "token", "half"):
        before = len(begun)
        np.testing.assert_array_equal(logits(tiny_store, share), expected)
        assert len(begun) > before
    monkeypatch.setattr(SharedExpert, "expects", lambda self, x: False)
    np.testing.assert_array_equal(logits(tiny_store, "layer"), expected)


def test_reads_end_after_it_has_begun(
    tiny_store: Path, begun: list[mx.array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gives nothing before the layer's shared expert is on its way."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        flash.model(PROMPTS[0])
        assert begun == []  # a block shows first what it gives its shared expert
        changed = threading.Condition()
        waited: list[bool] = []
        read, begin = RecordReader.read, SharedExpert.begin

        def begin_and_tell(self: SharedExpert, x: mx.array) -> None:
            begin(self, x)
            with changed:
                changed.notify_all()

        def slow(self: RecordReader, layer: int, *rest: Any, **options: Any) -> int:
            with changed:
                waited.append(changed.wait_for(lambda: len(begun) > layer, TIMEOUT_S))
            return read(self, layer, *rest, **options)

        monkeypatch.setattr(SharedExpert, "begin", begin_and_tell)
        monkeypatch.setattr(RecordReader, "read", slow)
        flash.model(PROMPTS[1])
        assert len(begun) == N_LAYERS
        assert len(waited) >= N_LAYERS
        assert all(waited)


def test_nothing_begins_where_nothing_is_read(tiny_store: Path, begun: list[mx.array]) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all")) as flash:
        for _ in range(3):
            before = flash.stats.misses
            flash.model(PROMPTS[0])
        assert flash.stats.misses == before
        assert begun == []


def test_nothing_stays_after_a_pass(tiny_store: Path, begun: list[mx.array]) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        for prompt in PROMPTS:
            flash.model(prompt)
            assert (flash.model._early_output.x, flash.model._early_output.y) == (None, None)


def test_nothing_stays_after_a_pass_that_fails(
    tiny_store: Path, begun: list[mx.array], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(tiny_store, "layer")
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        flash.model(PROMPTS[1])
        with monkeypatch.context() as patch:
            read = RecordReader.read

            def broken(self: RecordReader, layer: int, expert: int, *rest: Any, **o: Any) -> int:
                if layer == 3:
                    raise ReadError("store", "broken", layer=layer, expert=expert)
                return read(self, layer, expert, *rest, **o)

            patch.setattr(RecordReader, "read", broken)
            with pytest.raises(ReadError):
                flash.model(PROMPTS[0])
        assert len(begun) >= 4
        assert (flash.model._early_output.x, flash.model._early_output.y) == (None, None)
        np.testing.assert_array_equal(np.array(flash.model(PROMPTS[0])), expected[0])


@pytest.mark.parametrize(
    ("model_type", "begins"),
    [
        ("qwen2_moe", True),
        ("qwen3_next", True),
        ("glm4_moe", True),
        ("deepseek_v3", True),
        ("qwen3_moe", False),  # has none
    ],
)
def test_blocks_of_mlx_lm(
    model_type: str, begins: bool, tmp_path: Path, begun: list[mx.array]
) -> None:
    write_model(tmp_path / "model", model_type)
    resident = Resident(tmp_path / "model")
    with load(tmp_path / "model", cache_gb=budget_gb(tmp_path / "model", "token")) as flash:
        answer = flash.generate(prompt_ids(20), max_tokens=6)
        assert list(answer.token_ids) == resident.tokens(prompt_ids(20), 6)
    assert bool(begun) == begins


def test_the_tree_of_parameters_is_as_it_was(tiny_mlx: Path) -> None:
    resident = Resident(tiny_mlx).model
    with load(tiny_mlx) as flash:
        pairs = (
            [name for name, _ in tree_flatten(model.parameters()) if "switch_mlp" not in name]
            for model in (flash.model, resident)
        )
        mine, theirs = pairs
        assert mine == theirs
        leaves = (
            [
                (name, type(leaf))
                for name, leaf in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
                if "switch_mlp" not in name
            ]
            for model in (flash.model, resident)
        )
        for (name, mine), (theirs, base) in zip(*leaves, strict=True):
            assert name == theirs
            assert issubclass(mine, base)
        modules = dict(resident.named_modules())
        for name, module in flash.model.named_modules():
            if name.endswith("shared_expert"):
                assert isinstance(module, type(modules[name]))
                assert type(module) is not type(modules[name])


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Identity()

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(x) * 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared_expert = Doubling()


def test_another_input_is_computed_and_not_expected_again(begun: list[mx.array]) -> None:
    """As in blocks that give the experts and the shared expert different arrays."""
    block, slot = Block(), EarlyOutput()
    shared = start_early(block, slot)
    assert shared is not None
    x, other = mx.array([1.0]), mx.array([5.0])
    assert not shared.expects(x)
    assert block.shared_expert(x).item() == 2
    assert shared.expects(x)
    shared.begin(x)
    assert block.shared_expert(x) is begun[0]
    assert block.shared_expert(x).item() == 2  # once more, by itself
    assert begun == begun[:1]
    assert not shared.expects(x)
    assert block.shared_expert(x) is not begun[0]
    assert shared.expects(x)
    shared.begin(x)
    assert block.shared_expert(other).item() == 10
    assert (slot.x, slot.y) == (None, None)
    assert not shared.expects(x)


def test_a_shared_expert_that_comes_first_is_left_alone() -> None:
    block = Block()
    shared = start_early(block, EarlyOutput())
    assert shared is not None
    for _ in range(3):
        x = mx.array([1.0])
        assert block.shared_expert(x).item() == 2
        assert not shared.expects(x)


def test_blocks_without_a_shared_expert() -> None:
    block: Any = Block()
    block.shared_expert = None
    assert start_early(block, EarlyOutput()) is None
    block.shared_expert = nn.Linear(4, 4)  # quantizing would put another one there
    assert start_early(block, EarlyOutput()) is None
    assert type(block.shared_expert) is nn.Linear
