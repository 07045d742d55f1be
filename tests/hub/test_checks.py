"""Checkpoints that cannot load are refused before the first byte; others load as mlx-lm loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from flash_moe import load
from flash_moe.errors import FlashMoEError
from flash_moe.hub.pull import open_pull
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.plan.planned import plan_checkpoint, plan_repository
from flash_moe.store.manifest import read_manifest
from flash_moe.store.safetensors_header import INDEX_FILE
from tests.support.directories import differences
from tests.support.formats import (
    GLM,
    KIMI_K3,
    OLMOE,
    QWEN,
    STEP,
    Weights,
    assert_same_bits,
    awq,
    quantized_by,
    renamed,
    write,
)
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.pulls import REPO, pull
from tests.support.resident import Resident, budget_gb, prompt_ids

NORM = "model.norm.weight"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def sharded(path: Path, *, index: bool = True) -> Path:
    """Divide a checkpoint into two shards with an index."""
    file = path / "model.safetensors"
    weights: Weights = dict(mx.load(str(file)))
    names = sorted(weights)
    weight_map = {}
    for number in range(2):
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        part = {n: weights[n] for n in names[number::2]}
        mx.save_safetensors(str(path / name), part)
        weight_map |= dict.fromkeys(part, name)
    file.unlink()
    if index:
        (path / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    return path


def edit_index(path: Path, change: Callable[[dict[str, str]], object]) -> Path:
    index = json.loads((path / INDEX_FILE).read_text())
    change(index["weight_map"])
    (path / INDEX_FILE).write_text(json.dumps(index))
    return path


def edit_shard(path: Path, number: int, edit: Callable[[Weights], object]) -> Path:
    file = path / f"model-{number:05d}-of-00002.safetensors"
    weights: Weights = dict(mx.load(str(file)))
    mx.eval(weights)
    edit(weights)
    mx.save_safetensors(str(file), weights)
    return path


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda w: {name: array for name, array in w.items() if name not in names}


def stale_copy(path: Path, *, index: bool = True) -> Path:
    """An older tensor of the same name in the other shard."""
    sharded(write(path, GLM), index=index)
    shards = {n: f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)}
    owner = next(n for n in shards if NORM in dict(mx.load(str(path / shards[n]))))
    return edit_shard(path, 3 - owner, lambda w: w.update({NORM: mx.ones(64, mx.bfloat16)}))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a tensor that the model needs is in the index only": (
        lambda p: edit_shard(sharded(write(p, GLM)), 1, lambda w: w.pop(min(w))),
        r"is in the index, but not in its file model-00001",
    ),
    "a tensor that nothing needs is in the index only": (
        lambda p: edit_index(
            sharded(write(p, GLM)),
            lambda m: m.update({"ghost.weight": "model-00002-of-00002.safetensors"}),
        ),
        r"tensor ghost\.weight is in the index, but not in its file model-00002",
    ),
    "two copies without an index": (lambda p: stale_copy(p, index=False), "and in model-00002"),
    "a tied head that is quantized": (
        lambda p: write(
            p, QWEN, changes={"text_config": {**QWEN["text_config"], "tie_word_embeddings": True}}
        ),
        r"no place for language_model\.lm_head\.biases, language_model\.lm_head\.scales",
    ),
    "only quantization_config": (
        lambda p: write(p, GLM, drop=("quantization",)),
        "quantization_config has no 'quant_method'",
    ),
    "a tensor is missing": (
        lambda p: write(p, GLM, without(NORM)),
        r"the checkpoint lacks model\.norm\.weight",
    ),
    "an expert projection is missing": (
        lambda p: write(p, GLM, without("model.layers.1.mlp.switch_mlp.up_proj.scales")),
        r"up_proj",
    ),
    "a tensor of no module": (
        lambda p: write(p, GLM, lambda w: {**w, "model.extra.weight": mx.ones(3)}),
        r"no place for model\.extra\.weight",
    ),
    "another number of experts": (
        lambda p: write(p, GLM, changes={"n_routed_experts": 8}),
        r"expects \[8.*the checkpoint has \[16",
    ),
    "another width": (
        lambda p: write(p, GLM, changes={"hidden_size": 128}),
        "expects .*the checkpoint has",
    ),
    "bits of the config that are not those of the tensors": (
        lambda p: write(
            p,
            GLM,
            changes={
                "quantization": {
                    "group_size": 32,
                    "bits": 4,
                    "model.layers.1.mlp.switch_mlp.up_proj": {"group_size": 32, "bits": 8},
                }
            },
        ),
        "expects .*the checkpoint has",
    ),
    "experts of AWQ": (
        lambda p: write(p, OLMOE, awq(*LINEAR), quantize=False, changes=quantized_by("awq")),
        r"experts\.0\.down_proj(?s:.*)reads AWQ weights of attention, but not of experts",
    ),
    "experts of GPTQ": (
        lambda p: write(p, OLMOE, awq(*LINEAR), quantize=False, changes=quantized_by("gptq")),
        r"experts\.0\.down_proj(?s:.*)reads GPTQ weights of attention, but not of experts",
    ),
    "GPTQ with an order of groups": (
        lambda p: write(
            p, OLMOE, awq("q_proj", more=("g_idx",)), quantize=False, changes=quantized_by("gptq")
        ),
        r"q_proj\.g_idx in weights(?s:.*)or the original in bf16 with --bits 4",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_load_is_not_made(
    make: Callable[[Path], Path], message: str, hub: FakeHub, tmp_path: Path
) -> None:
    path, dst = make(tmp_path / "model"), tmp_path / "store"
    hub.add_commit(REPO, path)
    errors = []
    for attempt in (
        lambda: plan_checkpoint(path, dst),
        lambda: open_source(path),
        lambda: load(path),
        lambda: plan_repository(REPO, dst),
        lambda: open_pull(REPO, dst),
    ):
        with pytest.raises(FlashMoEError, match=message) as error:
            attempt()
        errors.append(error.value)
    assert len({type(error) for error in errors}) == 1
    assert not list(tmp_path.glob("store/**/*.safetensors"))
    assert not (dst / "flash_moe.partial.json").exists()


def extra_shard(path: Path) -> Path:
    """A shard that the index does not name, with an old tensor and one of no module."""
    sharded(write(path, GLM))
    old = {NORM: mx.ones(64, mx.bfloat16), "adapter.weight": mx.ones(4)}
    mx.save_safetensors(str(path / "model-old.safetensors"), old)
    return path


def extra_layer(w: Weights) -> Weights:
    """As GLM is published: the prediction head is one more layer."""
    last = {n: array for n, array in w.items() if n.startswith("model.layers.1.")}
    return w | {n.replace("layers.1.", "layers.2."): array for n, array in last.items()}


# Name to (checkpoint, the same one as it should be).
ACCEPTED: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path]]] = {
    "an older copy of a tensor": (stale_copy, lambda p: write(p, GLM)),
    "a shard that the index does not name": (extra_shard, lambda p: write(p, GLM)),
    "one more layer": (
        lambda p: write(p, GLM, extra_layer),
        lambda p: write(p, GLM),
    ),
    "stacks under other names": (
        lambda p: write(
            p, KIMI_K3, renamed((r"\.mlp\.switch_mlp\.", ".block_sparse_moe.switch_mlp."))
        ),
        lambda p: write(p, KIMI_K3),
    ),
}


@pytest.mark.parametrize(("make", "clean"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_mlx_lm_loads_is_made(
    make: Callable[[Path], Path], clean: Callable[[Path], Path], hub: FakeHub, tmp_path: Path
) -> None:
    path, expected = make(tmp_path / "model"), clean(tmp_path / "clean")
    hub.add_commit(REPO, path)
    pack(open_source(path), tmp_path / "packed")
    pull(tmp_path / "pulled")
    assert_same_bits(expected, tmp_path / "packed")
    assert differences(tmp_path / "packed", tmp_path / "pulled") == []
    tokens = Resident(expected).tokens(prompt_ids(9), 4)
    for source in (path, tmp_path / "packed"):
        with load(source, cache_gb=budget_gb(source, "half")) as flash:
            assert list(flash.generate(prompt_ids(9), max_tokens=4).token_ids) == tokens


def test_an_original_whose_stacks_look_like_those_of_mlx(tmp_path: Path) -> None:
    """Step-3.5: sanitize renames its stacks, and shifts its norms only if it does."""
    names = renamed(
        (r"\.mlp\.switch_mlp\.", ".moe."),
        (r"\.mlp\.gate\.gate\.", ".moe.gate."),
        (r"\.mlp\.gate\.router_bias", ".moe.router_bias"),
        (r"\.mlp\.share_expert\.", ".share_expert."),
    )
    path = write(tmp_path / "model", STEP, names, quantize=False)
    pack(open_source(path), tmp_path / "store")
    assert read_manifest(tmp_path / "store").source.kind == "hf"
    with load(tmp_path / "store") as flash:
        assert flash.generate(prompt_ids(9), max_tokens=2).token_ids
