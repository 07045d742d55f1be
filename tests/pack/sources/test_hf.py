"""Originals of several architectures, shard by shard, equal mlx-lm's convert of the whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest

from flash_moe.pack.convert.steps import ConvertExperts, ConvertTensor, SanitizeTensors
from flash_moe.pack.packer import pack
from flash_moe.pack.shard_source import HEADERS_DIR, DeletedShards
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import read_manifest
from flash_moe.store.quantization import QuantizationConfig
from tests.support.hf_originals import KINDS, write_original


def resident(root: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(root.glob("model*.safetensors"))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_convert_and_pack(tmp_path: Path, kind: str) -> None:
    original = write_original(tmp_path / "hf", kind)
    mlx_lm.convert(str(original), str(tmp_path / "mlx"), quantize=True)
    pack(open_source(tmp_path / "mlx"), tmp_path / "expected")
    source = open_source(original, QuantizationConfig())
    pack(source, tmp_path / "got")
    ours, theirs = read_manifest(tmp_path / "got"), read_manifest(tmp_path / "expected")
    assert (ours.layouts, ours.layers) == (theirs.layouts, theirs.layers)
    assert resident(tmp_path / "got") == resident(tmp_path / "expected")
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("got", "expected")]
    assert configs[0]["quantization"] == configs[1]["quantization"]
    # No expert is taken by computing a whole layer, and little else is.
    kinds = Counter(type(step) for step in source.steps)
    n_shards = 1 if kind == "muse_spark" else 3  # of a projection: stacks are in one
    n_projections = len(ours.layouts[0].projections)
    assert kinds[ConvertExperts] > (n_projections - 1) * n_shards * len(source.layers)
    assert kinds[ConvertTensor] > kinds[SanitizeTensors]
    computed = [step for step in source.steps if isinstance(step, SanitizeTensors)]
    assert not any(step.experts for step in computed)


@pytest.mark.parametrize(
    "config",
    [
        {"dtype": "bfloat16"},
        {"torch_dtype": "float16", "dtype": "bfloat16"},
        {"torch_dtype": "auto", "text_config": {"dtype": "bfloat16"}},
        {"text_config": {"dtype": "bfloat16"}},
        {},
    ],
    ids=str,
)
def test_the_dtype_is_that_of_convert(tmp_path: Path, config: dict[str, Any]) -> None:
    original = write_original(tmp_path / "hf", "olmoe", n_shards=1)
    file = original / "model-00001-of-00001.safetensors"
    tensors = {name: array.astype(mx.float32) for name, array in dict(mx.load(str(file))).items()}
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)
    table = json.loads((original / "config.json").read_text())
    del table["torch_dtype"]
    (original / "config.json").write_text(json.dumps(table | config))
    mlx_lm.convert(str(original), str(tmp_path / "mlx"), quantize=True)
    pack(open_source(tmp_path / "mlx"), tmp_path / "expected")
    pack(open_source(original), tmp_path / "got")
    ours, theirs = read_manifest(tmp_path / "got"), read_manifest(tmp_path / "expected")
    assert (ours.layouts, ours.layers) == (theirs.layouts, theirs.layers)
    assert resident(tmp_path / "got") == resident(tmp_path / "expected")


def test_shards_are_not_needed_twice(tmp_path: Path) -> None:
    """The tensors of every layer lie in every shard; each shard is gone when it was read."""
    original = write_original(tmp_path / "hf", "qwen3_next", n_shards=5, shuffle=3)
    pack(open_source(original, QuantizationConfig(expert_bits=3)), tmp_path / "expected")
    source = open_source(original, QuantizationConfig(expert_bits=3))
    left: list[int] = []

    def on_progress(what: str, n_bytes: int) -> None:
        left.append(len(list(original.glob("model*.safetensors"))))

    shards = DeletedShards(
        sorted(original.glob("model*.safetensors")), tmp_path / "got" / HEADERS_DIR
    )
    pack(source, tmp_path / "got", on_progress, shards=shards)
    assert sorted(set(left)) == [1, 2, 3, 4, 5]
    ours, theirs = read_manifest(tmp_path / "got"), read_manifest(tmp_path / "expected")
    assert [e.checksums for e in ours.layers] == [e.checksums for e in theirs.layers]
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert one.error is not None
        assert dict(one.error) == pytest.approx(dict(other.error or {}), rel=1e-12)
    assert resident(tmp_path / "got") == resident(tmp_path / "expected")


def test_a_layer_that_is_no_view_is_computed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an architecture whose sanitize computes with its experts."""
    original = write_original(tmp_path / "hf", "qwen3_moe")
    pack(open_source(original, QuantizationConfig()), tmp_path / "expected")
    monkeypatch.setattr("flash_moe.pack.sources.conversion.ViewFinder.find", lambda *args: {})
    source = open_source(original, QuantizationConfig())
    assert not any(isinstance(step, ConvertExperts) for step in source.steps)
    pack(source, tmp_path / "got")
    ours, theirs = read_manifest(tmp_path / "got"), read_manifest(tmp_path / "expected")
    assert ours.layers == theirs.layers
