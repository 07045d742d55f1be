"""Checkpoints within a pass: the bits of passes that end there, and no expert read again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import FlashMoE, load
from flash_moe.errors import ReadError
from flash_moe.generation.steps import prefill
from flash_moe.model.streamed import StreamedModel
from flash_moe.store.reader import RecordReader
from flash_moe.stream.stats import StreamStats
from tests.model.test_layer_pass import assert_same
from tests.support import muse_spark_on_cpu
from tests.support.architectures import write_model
from tests.support.effort import first
from tests.support.model_configs import INSTALLED
from tests.support.resident import Resident, budget_gb, prompt_ids

# Models that are cut at checkpoints: windows, several caches per layer, positions or layers' states
# among the arguments of a recurrence.
CUT = {
    *("afmoe", "exaone_moe", "gemma4_text", "gpt_oss", "laguna", "llama4", "mellum"),
    *("mimo_v2_flash", "muse_spark", "step3p5"),
    *("deepseek_v32", "deepseek_v41", "longcat_flash", "minimax_m3_vl"),
    *("bailing_hybrid", "bailing_moe_linear", "kimi_k3"),
}
VARIED = ["qwen3_5_moe", "nemotron_h", "lfm2_moe", "deepseek_v3", "gpt_oss", "bailing_moe_linear"]
FAMILIES = first(len(VARIED), sorted(INSTALLED, key=lambda name: name not in VARIED))
ENDS = (10, 36, 40)


@pytest.fixture(scope="module", autouse=True)
def muse_spark() -> None:
    muse_spark_on_cpu.install()


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_have_the_bits_of_passes_that_end_there(family: str, tmp_path: Path) -> None:
    """Behind other tokens; later passes do not change the copies."""
    write_model(tmp_path, family)
    ids = prompt_ids(ENDS[-1])
    with load(tmp_path, cache_gb=budget_gb(tmp_path, "token")) as flash:
        model = flash.model
        cut, whole = make_prompt_cache(model), make_prompt_cache(model)
        for cache in (cut, whole):
            mx.eval(model(mx.array([[7, 8, 9]]), cache=cache))
        assert model.takes_marks(whole) == (family not in CUT)
        if family in CUT:
            return
        before = flash.stats
        made = model.fill(mx.array([ids]), whole, ENDS[:-1])
        mx.eval([each.state for each in whole])
        assert {layer.calls for layer in (flash.stats - before).layers} == {1}
        copies = [made[0]()]
        mx.eval([each.state for each in copies[0]])
        mx.eval(model(mx.array([[5]]), cache=whole))
        copies.append(made[1]())
        for (begin, end), copy in zip(
            itertools.pairwise([0, *ENDS]), (*copies, whole), strict=True
        ):
            mx.eval(model(mx.array([ids[begin:end]]), cache=cut))
            if end == ENDS[-1]:
                mx.eval(model(mx.array([[5]]), cache=cut))
            assert_same(copy, cut)


def run(flash: FlashMoE, ids: list[int], **options: Any) -> tuple[StreamStats, list[Any]]:
    """Prefill behind other tokens."""
    cache = make_prompt_cache(flash.model)
    mx.eval(flash.model(mx.array([[7, 8, 9]]), cache=cache))
    before = flash.stats
    seen = [each for each in prefill(flash.model, ids, cache, **options) if each.cache]
    return flash.stats - before, seen


def test_the_tokens_after_a_checkpoint_read_no_expert_again(
    tiny_store: Path, tiny_mlx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt_ids(40)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        whole, _ = run(flash, ids)
        marked, seen = run(flash, ids, marks=[20, 36, 40])
        assert marked.bytes_read == whole.bytes_read > 0
        assert [each.n_tokens for each in seen] == [40, 20, 36]
        # Another prompt continues from the checkpoint.
        other = [*ids[:36], *prompt_ids(9, seed=1)]
        made = flash.stream(other[36:], max_tokens=6, prompt_cache=seen[2].cache)
        tokens = [chunk.token for chunk in made]
        assert tokens == Resident(tiny_mlx).tokens([7, 8, 9, *other], 6)
        monkeypatch.setattr(StreamedModel, "takes_marks", lambda self, cache: False)
        cut, again = run(flash, ids, marks=[20, 36, 40])
        assert cut.bytes_read > 1.1 * marked.bytes_read
        assert [each.n_tokens for each in again] == [20, 36, 40]
        assert_same(seen[0].cache or [], again[-1].cache or [])


def test_a_failed_pass_leaves_the_modules_as_they_were(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[type] = []
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        classes = [type(module) for module in flash.model.modules()]

        def failing(*args: Any, **kwargs: Any) -> Any:
            during[:] = [type(module) for module in flash.model.modules()]
            raise ReadError("reader", "a test", layer=0, expert=0)

        monkeypatch.setattr(RecordReader, "read", failing)
        with pytest.raises(ReadError):
            list(prefill(flash.model, prompt_ids(40), make_prompt_cache(flash.model), marks=[20]))
        assert [type(module) for module in flash.model.modules()] == classes != during
