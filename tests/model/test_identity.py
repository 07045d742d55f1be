"""Streamed tokens equal those of resident mlx-lm, exactly, for every way to run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache

from flash_moe import load
from flash_moe.errors import BudgetError
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.stream.slab import Slab
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.support.resident import Resident, budget_gb, prompt_ids

N_TOKENS = 12
view = Slab._view
slow = pytest.mark.slow
LENGTHS = (1, 2, 37, 150)


@pytest.fixture(scope="module")
def resident(tiny_mlx: Path) -> Resident:
    return Resident(tiny_mlx)


@pytest.fixture(scope="module")
def expected(resident: Resident) -> dict[int, list[int]]:
    return {n: resident.tokens(prompt_ids(n), N_TOKENS) for n in LENGTHS}


@slow
@pytest.mark.parametrize(
    ("kind", "share"),
    [*(("packed", share) for share in ("layer", "token", "half", "all")), ("direct", "token")],
)
def test_any_cache_size(
    kind: str, share: str, tiny_store: Path, tiny_mlx: Path, expected: dict[int, list[int]]
) -> None:
    path = tiny_store if kind == "packed" else tiny_mlx
    with load(path, cache_gb=budget_gb(path, share)) as flash:
        for n, tokens in expected.items():
            assert list(flash.generate(prompt_ids(n), max_tokens=N_TOKENS).token_ids) == tokens
        # and once more on a warm bank
        assert list(flash.generate(prompt_ids(37), max_tokens=N_TOKENS).token_ids) == expected[37]


@slow
@pytest.mark.parametrize("share", ["token", "half"])
def test_lookahead_changes_no_token(
    share: str, tiny_store: Path, expected: dict[int, list[int]]
) -> None:
    cache_gb = budget_gb(tiny_store, share)
    with load(tiny_store, cache_gb=cache_gb, lookahead=True) as flash:
        for n, tokens in expected.items():
            assert list(flash.generate(prompt_ids(n), max_tokens=N_TOKENS).token_ids) == tokens
        stats = flash.stats
        assert 0.3 < stats.recall <= 1  # one in eight would be chance
        assert stats.bytes_read >= stats.wasted_bytes
        # Only a bank with more than one token's slots has room for guesses.
        assert (stats.bytes_read > stats.misses * 16384) == (share == "half")


def test_lookahead_needs_slots_for_each_layer(tiny_store: Path) -> None:
    with pytest.raises(BudgetError, match="lookahead"):
        load(tiny_store, cache_gb=budget_gb(tiny_store, "layer"), lookahead=True)


def test_views_made_for_each_call(
    tiny_store: Path, expected: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out on a machine where views do not see later writes."""
    monkeypatch.setattr("flash_moe.model.streamed.keep_views", lambda option: False)
    made = []
    monkeypatch.setattr(Slab, "_view", lambda *args: made.append(0) or view(*args))
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half")) as flash:
        assert list(flash.generate(prompt_ids(37), max_tokens=N_TOKENS).token_ids) == expected[37]
    assert len(made) >= 9 * 4 * N_TOKENS  # nine components, four layers, each token


@pytest.mark.parametrize("share", ["layer", "token", "half", "all"])
def test_logits_are_the_same_bits(share: str, tiny_store: Path, resident: Resident) -> None:
    ids = prompt_ids(37)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, share)) as flash:
        streamed = np.array(flash.model(mx.array([ids])))
    np.testing.assert_array_equal(streamed, resident.logits(ids))


@slow
@pytest.mark.parametrize("step", [1, 7, 64, 149])
def test_prefill_split_anywhere(
    step: int, tiny_store: Path, expected: dict[int, list[int]]
) -> None:
    n = 37 if step == 1 else 150
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        answer = flash.generate(prompt_ids(n), max_tokens=N_TOKENS, prefill_step=step)
    assert list(answer.token_ids) == expected[n]


@slow
def test_a_prompt_that_needs_all_experts_many_times(tiny_store: Path, resident: Resident) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        answer = flash.generate(prompt_ids(300), max_tokens=4)
    assert list(answer.token_ids) == resident.tokens(prompt_ids(300), 4)


@slow
@pytest.mark.parametrize("share", ["token", "half"])
def test_under_mlx_lm_generate(
    share: str, tiny_store: Path, expected: dict[int, list[int]]
) -> None:
    model, tokenizer = load(tiny_store, cache_gb=budget_gb(tiny_store, share))
    for n, tokens in expected.items():
        answers = mlx_lm.stream_generate(model, tokenizer, prompt_ids(n), max_tokens=N_TOKENS)
        assert [answer.token for answer in answers] == tokens
    text = mlx_lm.generate(model, tokenizer, prompt_ids(37), max_tokens=N_TOKENS)
    assert text == model.generate(prompt_ids(37), max_tokens=N_TOKENS).text
    model.close()


@slow
@pytest.mark.parametrize("share", ["layer", "half"])
def test_batch_of_unequal_prompts(share: str, tiny_store: Path, resident: Resident) -> None:
    prompts = [prompt_ids(n, seed=n) for n in (5, 37, 120)]
    options: dict[str, Any] = {"max_tokens": 8, "return_prompt_caches": True}
    with load(tiny_store, cache_gb=budget_gb(tiny_store, share)) as flash:
        ours = mlx_lm.batch_generate(flash.model, flash.tokenizer, prompts, **options)
        alone = [list(flash.generate(p, max_tokens=8).token_ids) for p in prompts]
    theirs = mlx_lm.batch_generate(resident.model, resident.tokenizer, prompts, **options)
    assert ours.texts == theirs.texts
    assert alone == [resident.tokens(p, 8) for p in prompts]
    mine = tree_flatten([[c.state for c in cache] for cache in ours.caches])
    other = tree_flatten([[c.state for c in cache] for cache in theirs.caches])
    assert len(mine) == len(other) > 0
    for (name, a), (_, b) in zip(mine, other, strict=True):
        assert (a is None and b is None) or mx.array_equal(a, b), name


def test_saved_prompt_cache(tiny_store: Path, tmp_path: Path, resident: Resident) -> None:
    first, second = prompt_ids(50), prompt_ids(20, seed=1)
    whole = make_prompt_cache(resident.model)
    resident.tokens(first, 1, prompt_cache=whole)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        cache = make_prompt_cache(flash.model)
        flash.generate(first, max_tokens=4, prompt_cache=cache)
        save_prompt_cache(str(tmp_path / "cache.safetensors"), cache)
        direct = flash.generate(second, max_tokens=8, prompt_cache=cache)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        cache = load_prompt_cache(str(tmp_path / "cache.safetensors"))
        answer = flash.generate(second, max_tokens=8, prompt_cache=cache)
    assert answer.token_ids == direct.token_ids
    # The cache holds the prompt and all tokens but the last, which no pass has seen.
    four = resident.tokens(first, 4)
    assert list(answer.token_ids) == resident.tokens([*first, *four[:3], *second], 8)


VARIANTS: list[dict[str, Any]] = [
    {"bits": 2},
    {"bits": 3, "group_size": 32},
    {"bits": 6},
    {"bits": 8, "group_size": 32},
    {"bits": 4, "scale_dtype": "bfloat16"},
    {"bits": None},
]


@slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_other_quantizations(variant: dict[str, Any], tmp_path: Path) -> None:
    geometry = dataclasses.replace(
        PRESETS["tiny"], layers=4, experts=16, expert_width=64, **variant
    )
    write_mlx_checkpoint(tmp_path / "mlx", geometry)
    pack(open_source(tmp_path / "mlx"), tmp_path / "store")
    resident = Resident(tmp_path / "mlx")
    for path in (tmp_path / "mlx", tmp_path / "store"):
        with load(path, cache_gb=budget_gb(path, "half")) as flash:
            for n in (2, 37):
                answer = flash.generate(prompt_ids(n), max_tokens=N_TOKENS)
                assert list(answer.token_ids) == resident.tokens(prompt_ids(n), N_TOKENS)


@slow
def test_top_k_override(tmp_path: Path) -> None:
    geometry = dataclasses.replace(PRESETS["tiny"], layers=4, top_k=10)
    write_mlx_checkpoint(tmp_path / "mlx", geometry)
    text_config = {**geometry.config()["text_config"], "num_experts_per_tok": 4}
    reduced = Resident(tmp_path / "mlx", text_config=text_config)
    full = Resident(tmp_path / "mlx")
    ids = prompt_ids(37)
    with load(tmp_path / "mlx", cache_gb=budget_gb(tmp_path / "mlx", "token"), top_k=4) as flash:
        assert flash.model.top_k == 4
        answer = flash.generate(ids, max_tokens=N_TOKENS)
    assert list(answer.token_ids) == reduced.tokens(ids, N_TOKENS)
    assert reduced.tokens(ids, N_TOKENS) != full.tokens(ids, N_TOKENS)
    # 4 of 10 experts per token: fewer bytes, counted
    assert answer.stats.stream.hits + answer.stats.stream.misses > 0
