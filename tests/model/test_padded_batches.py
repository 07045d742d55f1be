"""Batches with padding through whole models: nothing is read for it, and no bit changes."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator, PromptProcessingBatch
from mlx_lm.models.cache import KVCache, load_prompt_cache, make_prompt_cache, save_prompt_cache

from flash_moe import load
from flash_moe.model.padding import Padding
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.trace import read_trace
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.support.architectures import masks_new_prompts, write_model
from tests.support.resident import Resident, budget_gb, prompt_ids

PROMPTS = [prompt_ids(n, seed=n) for n in (2, 9, 5)]
PASTS = [prompt_ids(2, seed) for seed in range(3)]
N_EXPERTS = {"qwen3_moe": "num_experts", "glm4_moe": "n_routed_experts"}
N_EXPERTS |= {"deepseek_v3": "n_routed_experts", "mixtral": "num_local_experts"}
STATES = "qwen3_5_moe"
# Of those with key-value caches alone, two whose caches hold different things.
two_models = pytest.mark.parametrize("model", ["qwen3_moe", "deepseek_v3"], indirect=True)
one_of_each = pytest.mark.parametrize("model", [STATES, "qwen3_moe"], indirect=True)

Calls = list[tuple[int, set[int]]]


@pytest.fixture(scope="module", params=[STATES, *N_EXPERTS])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with so many experts that short prompts ask for few of them."""
    kind = request.param
    path = tmp_path_factory.mktemp("models") / kind
    if kind == STATES:
        geometry = dataclasses.replace(
            PRESETS["tiny"], experts=128, layers=2, full_attention_interval=2
        )
        write_mlx_checkpoint(path, geometry)
    else:
        write_model(path, kind, **{N_EXPERTS[kind]: 64}, num_hidden_layers=3)
    return path


def skip_what_mlx_lm_pads(model: Path, start: str) -> None:
    if model.name == STATES and start == "new" and not masks_new_prompts():
        pytest.skip("this mlx-lm computes padding into the states of new prompts")


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


def same_states(ours: list[Any], theirs: list[Any]) -> bool:
    mine = tree_flatten([[c.state for c in cache] for cache in ours])
    other = tree_flatten([[c.state for c in cache] for cache in theirs])
    assert len(mine) == len(other) > 0
    return all(
        mx.array_equal(a, b) if isinstance(a, mx.array) else a == b
        for (_, a), (_, b) in zip(mine, other, strict=True)
    )


def calls(trace: Path) -> Calls:
    return [(layer, set(experts)) for layer, experts in read_trace(trace).calls]


def calls_of_real_positions(model: Path, tmp_path: Path, start: str) -> Calls:
    """Of each layer and pass: what the prompts ask for by themselves."""
    rows = []
    for row, prompt in enumerate(PROMPTS):
        trace = tmp_path / f"{row}"
        with load(model, trace=trace, cache_gb=budget_gb(model, "all")) as flash:
            past = pasts(flash.model, start)
            n = len(calls(trace))
            answers(flash.model, flash.tokenizer, [prompt], past and [past[row]])
        rows.append(calls(trace)[n:])
    return [
        (max(layer for layer, _ in call), set().union(*(experts for _, experts in call)))
        for call in itertools.zip_longest(*rows, fillvalue=(-1, set()))  # one may end earlier
    ]


def asks_for_real_positions(model: Path, tmp_path: Path, start: str) -> bool:
    """Whether a padded batch asks for no more. Its texts and states are right in any case."""
    resident = Resident(model)
    theirs = answers(resident.model, resident.tokenizer, PROMPTS, pasts(resident.model, start))
    for row, past in enumerate(pasts(resident.model, start) or [None] * 3):
        alone = answers(resident.model, resident.tokenizer, [PROMPTS[row]], past and [past])
        assert alone.texts == [theirs.texts[row]]
    expected = calls_of_real_positions(model, tmp_path, start)
    trace = tmp_path / "batch"
    with load(model, trace=trace, cache_gb=budget_gb(model, "all")) as flash:
        past = pasts(flash.model, start)
        n, before = len(calls(trace)), flash.stats
        ours = answers(flash.model, flash.tokenizer, PROMPTS, past)
        stats = flash.stats - before
    assert ours.texts == theirs.texts
    assert same_states(ours.caches, theirs.caches)
    layers = read_trace(trace).header.layers
    n_bytes = sum(len(experts) * layers[i].layout.record_bytes for i, experts in expected)
    assert (stats.bytes_asked == n_bytes) == (calls(trace)[n:] == expected)
    read = {(layer, expert) for layer, experts in calls(trace)[n:] for expert in experts}
    assert stats.bytes_read <= sum(layers[i].layout.record_bytes for i, _ in read)  # each once
    return calls(trace)[n:] == expected


@pytest.mark.parametrize("start", ["new", "continued"])
def test_padding_asks_for_nothing(start: str, model: Path, tmp_path: Path) -> None:
    """Key-value caches alone do not show padding on the right; tokens are right in any case."""
    skip_what_mlx_lm_pads(model, start)
    assert asks_for_real_positions(model, tmp_path, start) == (model.name == STATES)


@pytest.mark.parametrize("model", [STATES], indirect=True)
def test_where_nothing_is_known_of_padding_it_asks_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Padding, "find", lambda self, tokens, cache: None)
    assert not asks_for_real_positions(model, tmp_path, "continued")


@one_of_each
@pytest.mark.parametrize("start", ["new", "continued"])
@pytest.mark.parametrize(("share", "step"), [("layer", 3), ("token", 2048), ("half", 3)])
def test_tokens_and_states_of_a_batch(start: str, share: str, step: int, model: Path) -> None:
    resident = Resident(model)
    prompts = [prompt_ids(n, seed=n) for n in (40, 3, 17)]
    options = {"prefill_step_size": step}
    theirs = answers(
        resident.model, resident.tokenizer, prompts, pasts(resident.model, start), **options
    )
    with load(model, cache_gb=budget_gb(model, share)) as flash:
        ours = answers(flash.model, flash.tokenizer, prompts, pasts(flash.model, start), **options)
    assert ours.texts == theirs.texts
    assert same_states(ours.caches, theirs.caches)


def watch(model: Any) -> list[np.ndarray]:
    """The padding of each pass from now on."""
    found, find = [], model._padding.find

    def watched(tokens: Any, cache: Any) -> None:
        find(tokens, cache)
        padded = model._padding._padded
        found.append(np.zeros(tokens.shape, bool) if padded is None else padded)

    model._padding.find = watched
    return found


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_prompt_in_several_passes(step: int, model: Path) -> None:
    """Some of them are all padding for some rows."""
    start = "continued" if model.name == STATES else "new"

    def in_passes(model: Any) -> list[Any]:
        past = pasts(model, start) or [make_prompt_cache(model) for _ in PROMPTS]
        batch = PromptProcessingBatch(model, [0, 1, 2], past, prefill_step_size=step)
        batch.prompt([list(p) for p in PROMPTS])
        return [batch.extract_cache(row) for row in range(3)]

    theirs = in_passes(Resident(model).model)
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        found = watch(flash.model)
        ours = in_passes(flash.model)
    lengths = np.array([len(p) for p in PROMPTS])
    padded = np.concatenate(found, axis=1) if start == "new" else np.concatenate(found[3:], axis=1)
    shown = np.arange(max(lengths)) >= lengths[:, None]
    np.testing.assert_array_equal(padded, shown & (model.name == STATES))
    assert same_states(ours, theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert [getattr(c, "offset", 0) for c in mine] == [getattr(c, "offset", 0) for c in other]


COMING = [prompt_ids(n, seed=n) for n in (3, 20, 9, 31, 2)]
WANTED = [5, 9, 9, 3, 9]


def join_a_running_batch(model: Any) -> list[list[int]]:
    """The tokens of five prompts, three of which come while two are being answered."""
    batch = BatchGenerator(model)
    uids = batch.insert(COMING[:2], WANTED[:2])
    tokens: dict[int, list[int]] = {uid: [] for uid in range(5)}
    while responses := batch.next_generated():
        for response in responses:
            tokens[response.uid].append(response.token)
        if len(uids) == 2:
            uids += batch.insert(COMING[2:], WANTED[2:])
    batch.close()
    return [tokens[uid] for uid in uids]


@two_models
def test_prompts_that_join_a_running_batch(model: Path) -> None:
    resident = Resident(model)
    theirs = join_a_running_batch(resident.model)
    assert [len(tokens) for tokens in theirs] == WANTED
    for tokens, prompt, n in zip(theirs, COMING, WANTED, strict=True):
        alone = resident.tokens(prompt, n)
        assert tokens[: len(alone)] == alone  # here a stop token ends nothing
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        assert join_a_running_batch(flash.model) == theirs


@two_models
def test_prompt_caches_in_files(model: Path, tmp_path: Path) -> None:
    """Saved from a padded batch by either model, loaded by the other, and gone on with."""
    resident = Resident(model)
    more = [prompt_ids(n, seed=90 + n) for n in (7, 2, 19)]
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        texts = []
        for mine, other in ((flash, resident), (resident, flash)):
            first = answers(mine.model, mine.tokenizer, PROMPTS, None)
            files = [tmp_path / f"{row}.safetensors" for row in range(3)]
            for file, cache in zip(files, first.caches, strict=True):
                save_prompt_cache(str(file), cache)
            loaded = [load_prompt_cache(str(file)) for file in files]
            assert {type(c) for cache in loaded for c in cache} == {KVCache}
            second = answers(other.model, other.tokenizer, more, loaded)
            texts.append((first.texts, second.texts))
    assert texts[0] == texts[1]


@two_models
@pytest.mark.parametrize("option", [{"max_kv_size": 16}, {"kv_bits": 8, "kv_group_size": 32}])
def test_other_caches_of_mlx_lm(option: dict[str, int], model: Path) -> None:
    """Windows and quantized caches that the caller asks for are what they were."""
    resident = Resident(model)
    try:
        theirs = resident.tokens(prompt_ids(40), 8, **option)
    except AttributeError:
        pytest.skip("this mlx-lm cannot quantize the keys and values of this model")
    plain = resident.tokens(prompt_ids(40), 8)
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        chunks = mlx_lm.stream_generate(
            flash.model, flash.tokenizer, prompt_ids(40), max_tokens=8, **option
        )
        assert [chunk.token for chunk in chunks] == theirs
        if "max_kv_size" in option:
            assert theirs != plain
            prompts = [*PROMPTS, prompt_ids(40)]
            ours = answers(flash.model, flash.tokenizer, prompts, None, **option)
            batch = answers(resident.model, resident.tokenizer, prompts, None, **option)
            assert ours.texts == batch.texts


@pytest.mark.parametrize("model_type", ["qwen3_next", "lfm2_moe", "gpt_oss"])
@pytest.mark.parametrize("start", ["new", "continued"])
def test_other_architectures(model_type: str, start: str, tmp_path: Path) -> None:
    """States, and key-value caches of windows."""
    write_model(tmp_path / "model", model_type)
    resident = Resident(tmp_path / "model")
    prompts = [prompt_ids(n, seed=n) for n in (40, 2, 17)]
    with load(tmp_path / "model", cache_gb=budget_gb(tmp_path / "model", "half")) as flash:
        found = watch(flash.model)
        ours = answers(flash.model, flash.tokenizer, prompts, pasts(flash.model, start))
    theirs = answers(resident.model, resident.tokenizer, prompts, pasts(resident.model, start))
    assert ours.texts == theirs.texts
    assert same_states(ours.caches, theirs.caches)
    known = model_type == "gpt_oss" or start == "continued" or masks_new_prompts()
    assert any(positions.any() for positions in found) == known


@pytest.mark.parametrize("model", [STATES], indirect=True)
def test_a_pass_that_fails_leaves_no_padding(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        seen = []

        def fails(self: ExpertBank, *args: Any, **defer: Any) -> Any:
            seen.append(flash.model._padding._padded)
            raise RuntimeError("stop")

        past = pasts(flash.model, "continued")
        monkeypatch.setattr(ExpertBank, "waves", fails)
        batch = PromptProcessingBatch(flash.model, [0, 1, 2], past)
        with pytest.raises(RuntimeError, match="stop"):
            batch.prompt([list(p) for p in PROMPTS])
        assert [found.sum() for found in seen] == [7 + 4]
        assert flash.model._padding._padded is None
