"""Packing a Hugging Face checkpoint equals mlx-lm's convert followed by packing the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from flash_moe.errors import ConfigError, PackError, UnsupportedModelError
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import read_manifest
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.verify import verify
from tests.support.directories import contents


def resident(root: Path) -> dict[str, tuple[mx.Dtype, bytes]]:
    tensors: dict[str, mx.array] = {}
    for file in sorted(root.glob("model*.safetensors")):
        tensors.update(mx.load(str(file)))
    return {
        name: (array.dtype, np.array(array.reshape(-1).view(mx.uint8)).tobytes())
        for name, array in tensors.items()
    }


def config_of(root: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((root / "config.json").read_text())
    return config


@pytest.fixture(scope="module")
def hf_store(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "from-hf"
    pack(open_source(tiny_hf, QuantizationConfig()), path)
    return path


@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (3, 32), (8, 64)])
def test_the_same_as_convert_and_pack(
    tiny_hf: Path, tmp_path: Path, bits: int, group_size: int
) -> None:
    converted, expected, got = tmp_path / "mlx", tmp_path / "expected", tmp_path / "got"
    mlx_lm.convert(
        str(tiny_hf), str(converted), quantize=True, q_bits=bits, q_group_size=group_size
    )
    pack(open_source(converted), expected)
    pack(open_source(tiny_hf, QuantizationConfig(bits, group_size)), got)
    for layer in range(8):
        name = f"experts/layer_{layer:03d}.bin"
        assert (got / name).read_bytes() == (expected / name).read_bytes()
    assert resident(got) == resident(expected)
    ours, theirs = read_manifest(got), read_manifest(expected)
    assert (ours.layouts, ours.layers) == (theirs.layouts, theirs.layers)
    assert config_of(got)["quantization"] == config_of(expected)["quantization"]
    assert verify(got).problems == ()


def test_the_config_is_that_of_convert(tiny_hf: Path, hf_store: Path, tmp_path: Path) -> None:
    mlx_lm.convert(str(tiny_hf), str(tmp_path / "mlx"), quantize=True, q_bits=4, q_group_size=64)
    config = config_of(hf_store)
    del config["model_file"]
    expected = config_of(tmp_path / "mlx")
    # mlx-lm also merges generation_config.json, which the store keeps as a file, and renames a
    # key of the rope parameters while it builds the model.
    assert (
        expected.pop("eos_token_id")
        == json.loads((hf_store / "generation_config.json").read_text())["eos_token_id"]
    )
    rope, other = (c["text_config"].pop("rope_parameters") for c in (config, expected))
    assert {**rope, "type": rope["rope_type"]} == {**other, "rope_type": other["type"]}
    assert config == expected


def test_the_rest_of_the_store(tiny_hf: Path, hf_store: Path) -> None:
    store, checkpoint = contents(hf_store), contents(tiny_hf)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert store[name] == checkpoint[name]
    assert not [name for name in store if name.endswith((".tmp", ".index.json"))]
    assert read_manifest(hf_store).source.kind == "hf"
    assert not [name for name in resident(hf_store) if "mtp" in name or "visual" in name]


@pytest.mark.parametrize("layer", [0, 5])
@pytest.mark.parametrize("fresh", [True, False], ids=["new source", "same source"])
def test_a_stopped_run_is_continued(
    tiny_hf: Path,
    hf_store: Path,
    tmp_path: Path,
    stop_at: Any,
    layer: int,
    fresh: bool,
) -> None:
    dst = tmp_path / "store"
    source = stop_at(open_source(tiny_hf, QuantizationConfig()), layer, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, dst)
    if fresh:
        source = open_source(tiny_hf, QuantizationConfig())
    result = pack(source, dst)
    assert (result.layers_written, result.layers_kept) == (8 - layer, layer)
    assert contents(dst) == contents(hf_store)


def test_other_settings_do_not_continue(tiny_hf: Path, tmp_path: Path, stop_at: Any) -> None:
    source = stop_at(open_source(tiny_hf, QuantizationConfig()), 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "store")
    with pytest.raises(PackError, match="other settings"):
        pack(open_source(tiny_hf, QuantizationConfig(bits=3)), tmp_path / "store")


@pytest.mark.parametrize("options", [{"bits": 7}, {"bits": 1}, {"group_size": 16}])
def test_bad_options(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        QuantizationConfig(**options)


def test_a_group_that_does_not_divide_the_width(tiny_hf: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"groups of 128.*64 inputs.*--group-size"):
        open_source(tiny_hf, QuantizationConfig(group_size=128))


def test_open_source_tells_the_formats_apart(tiny_hf: Path, tiny_mlx: Path) -> None:
    assert open_source(tiny_hf).source.kind == "hf"
    assert open_source(tiny_mlx).source.kind == "mlx"
    layout = open_source(tiny_hf, QuantizationConfig(bits=8, group_size=32)).layers[0].layout
    quantization = layout.quantization("up_proj")
    assert quantization is not None
    assert (quantization.bits, quantization.group_size) == (8, 32)
    with pytest.raises(ConfigError, match="quantized already"):
        open_source(tiny_mlx, QuantizationConfig(bits=4))
    with pytest.raises(ConfigError, match="keeps its bits"):
        open_source(tiny_mlx, QuantizationConfig(group_size=64), adopt=tiny_mlx)
