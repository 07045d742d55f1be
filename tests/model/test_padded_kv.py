"""Models with key-value caches alone: padding of a batch reads nothing, and no bit changes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.generate import BatchGenerator, PromptProcessingBatch
from mlx_lm.models.cache import KVCache, load_prompt_cache, make_prompt_cache, save_prompt_cache

from flash_moe import load
from flash_moe.stream.trace import read_trace
from tests.model.test_architectures import CONFIGS, write_model
from tests.model.test_padded_batches import answers, pasts, same_states
from tests.model.test_padding import pads
from tests.support.resident import Resident, budget_gb, prompt_ids

PROMPTS = [prompt_ids(n, seed=n) for n in (2, 12, 5)]
EXPERTS = {"qwen3_moe": "num_experts", "glm4_moe": "n_routed_experts"}
EXPERTS |= {"deepseek_v3": "n_routed_experts", "mixtral": "num_local_experts"}


@pytest.fixture(scope="module", params=EXPERTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with so many experts that short prompts ask for few of them."""
    kind = request.param
    path = tmp_path_factory.mktemp("models") / kind
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, kind, {**CONFIGS[kind], EXPERTS[kind]: 64})
        write_model(path, kind)
    return path


def calls(trace: Path) -> list[tuple[int, set[int]]]:
    return [(layer, set(experts)) for layer, experts in read_trace(trace).calls]


def each_alone(model: Path, tmp_path: Path, past: str) -> list[list[tuple[int, set[int]]]]:
    """What each prompt asks for by itself, call by call."""
    rows = []
    for row, prompt in enumerate(PROMPTS):
        trace = tmp_path / f"{row}"
        with load(model, trace=trace, cache_gb=budget_gb(model, "all")) as flash:
            before = pasts(flash.model, past)
            n = len(calls(trace))
            answers(flash.model, flash.tokenizer, [prompt], before and [before[row]])
        rows.append(calls(trace)[n:])
    return rows


@pytest.mark.parametrize("start", ["new", "continued"])
@pytest.mark.parametrize("noted", [True, False])
def test_padding_asks_for_nothing(
    start: str, noted: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of a layer asks for what its real positions ask for alone, and nothing else."""
    resident = Resident(model)
    theirs = answers(resident.model, resident.tokenizer, PROMPTS, pasts(resident.model, start))
    for row, past in enumerate(pasts(resident.model, start) or [None] * 3):
        alone = answers(resident.model, resident.tokenizer, [PROMPTS[row]], past and [past])
        assert alone.texts == [theirs.texts[row]]
    rows = each_alone(model, tmp_path, start)
    expected = [
        (max(layer for layer, _ in call), set().union(*(experts for _, experts in call)))
        for call in itertools.zip_longest(*rows, fillvalue=(-1, set()))  # one may end earlier
    ]
    if not noted:
        monkeypatch.setattr("flash_moe.model.padding._ends", lambda cache, **said: None)
    trace = tmp_path / "batch"
    with load(model, trace=trace, cache_gb=budget_gb(model, "all")) as flash:
        past = pasts(flash.model, start)
        n, before = len(calls(trace)), flash.stats
        ours = answers(flash.model, flash.tokenizer, PROMPTS, past)
        stats = flash.stats - before
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)
    layers = read_trace(trace).header.layers
    real = sum(len(experts) * layers[i].layout.record_bytes for i, experts in expected)
    assert (calls(trace)[n:] == expected) == noted
    assert (stats.bytes_asked == real) == noted


def watch(model: Any) -> list[np.ndarray]:
    """The padding of each pass from now on."""
    found, find = [], model._padding.find

    def watched(tokens: Any, cache: Any) -> None:
        find(tokens, cache)
        padded = model._padding._padded
        found.append(np.zeros(tokens.shape, bool) if padded is None else padded)

    model._padding.find = watched
    return found


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_prompt_in_several_passes(step: int, model: Path) -> None:
    def in_passes(model: Any) -> list[Any]:
        batch = PromptProcessingBatch(
            model, [0, 1, 2], [make_prompt_cache(model) for _ in PROMPTS], prefill_step_size=step
        )
        batch.prompt([list(p) for p in PROMPTS])
        return [batch.extract_cache(row) for row in range(3)]

    theirs = in_passes(Resident(model).model)
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        found = watch(flash.model)
        ours = in_passes(flash.model)
    lengths = [len(p) for p in PROMPTS]
    np.testing.assert_array_equal(np.concatenate(found, axis=1), pads(lengths, max(lengths)))
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a.offset == b.offset
            assert mx.array_equal(a.keys, b.keys)
            assert mx.array_equal(a.values, b.values)


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


def test_prompts_that_join_a_running_batch(model: Path) -> None:
    resident = Resident(model)
    theirs = join_a_running_batch(resident.model)
    assert [len(tokens) for tokens in theirs] == WANTED
    for tokens, prompt, n in zip(theirs, COMING, WANTED, strict=True):
        alone = resident.tokens(prompt, n)
        assert tokens[: len(alone)] == alone  # here a stop token ends nothing
    with load(model, cache_gb=budget_gb(model, "half")) as flash:
        found = watch(flash.model)
        assert join_a_running_batch(flash.model) == theirs
    padded = [positions for positions in found if positions.any()]
    assert [list(positions.sum(axis=1)) for positions in padded] == [[17, 0], [22, 0, 29]]


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
