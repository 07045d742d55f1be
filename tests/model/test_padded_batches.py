"""Batches with padding through whole models: nothing is read for it, and no bit changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import PromptProcessingBatch
from mlx_lm.models.cache import (
    ArraysCache,
    make_prompt_cache,
)

from flash_moe import load
from flash_moe.model.padding import RECURRENT, Padding
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.base import MlxCheckpoint
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.trace import read_trace
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.model.test_architectures import write_model
from tests.support.resident import Resident, budget_gb, prompt_ids


def masks_new_prompts() -> bool:
    """mlx-lm 0.31.3 computes padding into the states of new prompts, and so do we then."""
    cache = ArraysCache.merge([ArraysCache(1), ArraysCache(1)])
    cache.prepare(lengths=[1, 2])
    return not np.array(cache.make_mask(2)).all()


PROMPTS = [prompt_ids(n, seed=n) for n in (2, 9, 5)]
PASTS = [prompt_ids(2, seed) for seed in range(3)]
RECORD = 16384


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 128 experts a layer: short prompts ask for few of them."""
    path = tmp_path_factory.mktemp("models")
    write_mlx_checkpoint(path / "mlx", dataclasses.replace(PRESETS["tiny"], experts=128, layers=4))
    pack(MlxCheckpoint(path / "mlx"), path / "store")
    return path


def answers(model: Any, tokenizer: Any, prompts: list[list[int]], past: Any, **options: Any) -> Any:
    options = {"max_tokens": 4, "return_prompt_caches": True, "prompt_caches": past, **options}
    return mlx_lm.batch_generate(model, tokenizer, prompts, **options)


def pasts(model: Any, start: str) -> list[list[Any]] | None:
    """A cache for each prompt, each from a pass of its own."""
    if start == "new":
        return None
    made = []
    for ids in PASTS:
        made.append(make_prompt_cache(model))
        mx.eval(model(mx.array([ids]), cache=made[-1]))
    return made


def asked(trace: Path) -> set[tuple[int, int]]:
    return {(layer, expert) for layer, experts in read_trace(trace).calls for expert in experts}


def same_states(ours: Any, theirs: Any) -> bool:
    mine = tree_flatten([[c.state for c in cache] for cache in ours.caches])
    other = tree_flatten([[c.state for c in cache] for cache in theirs.caches])
    assert len(mine) == len(other) > 0
    return all(
        mx.array_equal(a, b) if isinstance(a, mx.array) else a == b
        for (_, a), (_, b) in zip(mine, other, strict=True)
    )


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("start", ["new", "continued"])
def test_a_batch_reads_what_its_tokens_choose(
    start: str, masked: bool, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experts of each prompt by itself, and no others; each read once."""
    if start == "new" and not masks_new_prompts():
        pytest.skip("this mlx-lm computes padding into the states of new prompts")
    resident = Resident(many / "mlx")
    theirs = answers(resident.model, resident.tokenizer, PROMPTS, pasts(resident.model, start))
    options: dict[str, Any] = {"cache_gb": budget_gb(many / "store", "all")}
    expected: set[tuple[int, int]] = set()
    for row, prompt in enumerate(PROMPTS):
        with load(many / "store", trace=tmp_path / f"{row}", **options) as flash:
            past = pasts(flash.model, start)
            alone = answers(flash.model, flash.tokenizer, [prompt], past and [past[row]])
            assert alone.texts == [theirs.texts[row]]
        expected |= asked(tmp_path / f"{row}")
    if not masked:
        monkeypatch.setattr(Padding, "find", lambda self, tokens, cache: None)
    with load(many / "store", trace=tmp_path / "batch", **options) as flash:
        ours = answers(flash.model, flash.tokenizer, PROMPTS, pasts(flash.model, start))
        stats = flash.stats
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)
    assert stats.bytes_read == len(asked(tmp_path / "batch")) * RECORD
    assert (asked(tmp_path / "batch") == expected) == masked
    assert asked(tmp_path / "batch") >= expected


@pytest.mark.parametrize("start", ["new", "continued"])
@pytest.mark.parametrize("share", ["layer", "token", "half"])
@pytest.mark.parametrize("step", [3, 2048])
def test_tokens_and_states_of_a_batch(start: str, share: str, step: int, many: Path) -> None:
    resident = Resident(many / "mlx")
    prompts = [prompt_ids(n, seed=n) for n in (40, 3, 17)]
    options = {"prefill_step_size": step}
    theirs = answers(
        resident.model, resident.tokenizer, prompts, pasts(resident.model, start), **options
    )
    with load(many / "store", cache_gb=budget_gb(many / "store", share)) as flash:
        ours = answers(flash.model, flash.tokenizer, prompts, pasts(flash.model, start), **options)
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)


def prompt_in_passes(model: Any, step: int) -> list[Any]:
    """A padded prompt in several passes, some of them all padding for some rows."""
    past = pasts(model, "continued")
    batch = PromptProcessingBatch(model, [0, 1, 2], past, prefill_step_size=step)
    batch.prompt([list(p) for p in PROMPTS])
    return [batch.extract_cache(row) for row in range(3)]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_padded_prompt_in_several_passes(step: int, many: Path) -> None:
    theirs = prompt_in_passes(Resident(many / "mlx").model, step)
    with load(many / "store", cache_gb=budget_gb(many / "store", "all")) as flash:
        for _ in range(len(PASTS)):
            ours = prompt_in_passes(flash.model, step)
    for mine, other in zip(ours, theirs, strict=True):
        a, b = (tree_flatten([c.state for c in cache]) for cache in (mine, other))
        assert all(
            mx.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True) if hasattr(x, "dtype")
        )


KINDS = [*(name for name in RECURRENT if name != "qwen3_5_moe"), "gpt_oss", "qwen3_moe"]
KINDS += ["glm4_moe", "deepseek_v3", "mixtral"]


@pytest.mark.parametrize("model_type", KINDS)
@pytest.mark.parametrize("start", ["new", "continued"])
def test_other_architectures(model_type: str, start: str, tmp_path: Path) -> None:
    """States, key-value caches of windows, and key-value caches alone."""
    write_model(tmp_path / "model", model_type)
    resident = Resident(tmp_path / "model")
    prompts = [prompt_ids(n, seed=n) for n in (40, 2, 17)]
    found = []
    with load(tmp_path / "model", cache_gb=budget_gb(tmp_path / "model", "half")) as flash:
        find = flash.model._padding.find

        def watched(tokens: Any, cache: Any) -> None:
            find(tokens, cache)
            found.append(flash.model._padding._padded is not None)

        flash.model._padding.find = watched
        ours = answers(flash.model, flash.tokenizer, prompts, pasts(flash.model, start))
    theirs = answers(resident.model, resident.tokenizer, prompts, pasts(resident.model, start))
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)
    known = model_type not in RECURRENT or start == "continued" or masks_new_prompts()
    assert any(found) == known


def test_a_pass_that_fails_leaves_no_padding(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(many / "store", cache_gb=budget_gb(many / "store", "half")) as flash:
        seen = []

        def fails(self: ExpertBank, *args: Any) -> Any:
            seen.append(flash.model._padding._padded)
            raise RuntimeError("stop")

        past = pasts(flash.model, "continued")
        monkeypatch.setattr(ExpertBank, "waves", fails)
        batch = PromptProcessingBatch(flash.model, [0, 1, 2], past)
        with pytest.raises(RuntimeError, match="stop"):
            batch.prompt([list(p) for p in PROMPTS])
        assert [found.sum() for found in seen] == [7 + 4]
        assert flash.model._padding._padded is None
