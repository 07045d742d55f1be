"""Adopting record files of the original Flash-MoE: linked, checked, never copied."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flash_moe.errors import CorruptFileError, ModelNotFoundError, UnsupportedModelError
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.experts import PackedExperts, record_parts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.store.safetensors_header import INDEX_FILE
from flash_moe.store.verify import verify
from flash_moe.testing import PRESETS, write_mlx_checkpoint

PREFIX = "language_model.model.layers"
NAMES = [
    f"{projection}.{part}"
    for projection in ("gate_proj", "up_proj", "down_proj")
    for part in ("weight", "scales", "biases")
]
DTYPES = {np.dtype(np.uint32): "U32", np.dtype(np.float32): "F32"}
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tensors(tiny_mlx: Path) -> Tensors:
    return {n: a for f in tiny_mlx.glob("model*.safetensors") for n, a in load_file(f).items()}


@pytest.fixture
def packed(tensors: Tensors, tmp_path: Path) -> Path:
    """``packed_experts`` as the original writes it: components end to end, no padding."""
    path = tmp_path / "packed_experts"
    path.mkdir()
    components: list[dict[str, Any]] = []
    offset = 0
    for name in NAMES:
        one = tensors[f"{PREFIX}.0.mlp.switch_mlp.{name}"][0]
        row = {"name": name, "offset": offset, "size": one.nbytes}
        components.append({**row, "dtype": DTYPES[one.dtype], "shape": list(one.shape)})
        offset += one.nbytes
    table = {"expert_size": offset, "num_layers": 8, "num_experts": 32, "components": components}
    (path / "layout.json").write_text(json.dumps(table))
    for layer in range(8):
        stacks = [tensors[f"{PREFIX}.{layer}.mlp.switch_mlp.{name}"] for name in NAMES]
        records = (b"".join(stack[e].tobytes() for stack in stacks) for e in range(32))
        (path / f"layer_{layer:02d}.bin").write_bytes(b"".join(records))
    return path


def without_experts(root: Path, tensors: Tensors, extra: Tensors | None = None) -> Path:
    """Drop the expert tensors of a checkpoint, as someone short of disk does."""
    for file in [*root.glob("model*.safetensors"), root / INDEX_FILE]:
        file.unlink()
    rest = {n: a for n, a in tensors.items() if ".switch_mlp." not in n}
    save_file({**rest, **(extra or {})}, root / "model.safetensors")
    return root


def assert_sound(dst: Path, packed: Path, tensors: Tensors) -> None:
    assert verify(dst).problems == ()
    manifest = read_manifest(dst)
    assert manifest.source.kind == "flash-moe-original"
    experts = PackedExperts(dst, manifest)
    reader = RecordReader(experts, verify=True)
    for index, layer in enumerate(experts.layers):
        assert (layer.number, layer.n_experts) == (index, 32)
        assert layer.path == f"{PREFIX}.{index}.mlp.switch_mlp"
        record = memoryview(bytearray(layer.layout.record_bytes))
        for expert in (0, 13, 31):
            reader.read(index, expert, record)
            parts = record_parts(layer.layout, record)
            assert {n: bytes(p) for n, p in parts.items()} == {
                n: tensors[f"{layer.path}.{n}"][expert].tobytes() for n in NAMES
            }
    reader.close()


def test_record_files_are_linked(
    tiny_mlx: Path, packed: Path, tensors: Tensors, tmp_path: Path
) -> None:
    before = {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in packed.iterdir()}
    pack(open_source(tiny_mlx, adopt=packed), tmp_path / "store")
    for layer in range(8):
        stat = (tmp_path / "store" / "experts" / f"layer_{layer:03d}.bin").stat()
        assert (stat.st_ino, stat.st_mtime_ns) == before[f"layer_{layer:02d}.bin"]
    assert {f.name for f in packed.iterdir()} == before.keys()
    shutil.rmtree(packed)
    assert_sound(tmp_path / "store", packed, tensors)


def test_another_disk_gets_symbolic_links(
    tiny_mlx: Path,
    packed: Path,
    tensors: Tensors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def link(*args: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.chdir(packed.parent)
    pack(open_source(tiny_mlx, adopt=Path(packed.name)), tmp_path / "store")
    file = tmp_path / "store" / "experts" / "layer_003.bin"
    assert file.is_symlink()
    assert file.resolve() == (packed / "layer_03.bin").resolve()
    assert_sound(tmp_path / "store", packed, tensors)


def test_a_checkpoint_that_lost_its_experts_is_enough(
    mlx_copy: Path, packed: Path, tensors: Tensors, tmp_path: Path
) -> None:
    source = open_source(without_experts(mlx_copy, tensors), adopt=packed)
    pack(source, tmp_path / "store")
    assert_sound(tmp_path / "store", packed, tensors)


def test_the_router_of_a_prediction_head_is_no_layer(
    mlx_copy: Path, packed: Path, tensors: Tensors, tmp_path: Path
) -> None:
    router = {"mtp.layers.0.mlp.gate.weight": np.zeros((32, 128), np.float32)}
    source = open_source(without_experts(mlx_copy, tensors, router), adopt=packed)
    assert [layer.number for layer in source.layers] == list(range(8))


def test_a_stopped_adoption_is_continued(
    tiny_mlx: Path, packed: Path, tensors: Tensors, tmp_path: Path
) -> None:
    def on_progress(what: str, n_bytes: int) -> None:
        if what == "layer 4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(open_source(tiny_mlx, adopt=packed), tmp_path / "store", on_progress)
    result = pack(open_source(tiny_mlx, adopt=packed), tmp_path / "store")
    assert (result.layers_written, result.layers_kept) == (4, 4)
    assert_sound(tmp_path / "store", packed, tensors)


def test_the_wrong_checkpoint(packed: Path, tmp_path: Path) -> None:
    write_mlx_checkpoint(tmp_path / "other", replace(PRESETS["tiny"], seed=1))
    with pytest.raises(CorruptFileError, match=r"layer_00\.bin: expert 0: .* differs"):
        open_source(tmp_path / "other", adopt=packed)


def test_the_last_layer_is_compared_too(tiny_mlx: Path, packed: Path) -> None:
    content = bytearray((packed / "layer_07.bin").read_bytes())
    content[-1] ^= 1
    (packed / "layer_07.bin").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"layer_07\.bin: expert 31: down_proj\.biases"):
        open_source(tiny_mlx, adopt=packed)


def test_a_file_that_is_one_byte_short(tiny_mlx: Path, packed: Path) -> None:
    size = (packed / "layer_05.bin").stat().st_size
    os.truncate(packed / "layer_05.bin", size - 1)
    with pytest.raises(CorruptFileError, match=rf"layer_05.*{size} bytes, got {size - 1}"):
        open_source(tiny_mlx, adopt=packed)


@pytest.mark.parametrize("name", ["layer_05.bin", "layout.json"])
def test_a_file_is_missing(tiny_mlx: Path, packed: Path, name: str) -> None:
    (packed / name).unlink()
    with pytest.raises(ModelNotFoundError, match=name):
        open_source(tiny_mlx, adopt=packed)


BAD_LAYOUTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another number of layers": lambda t: t.update(num_layers=7),
    "no number of layers": lambda t: t.pop("num_layers"),
    "no components": lambda t: t.pop("components"),
    "number of words": lambda t: t.update(num_experts="many"),
    "names of another program": lambda t: t["components"][0].update(name="w1.weight"),
    "other shape": lambda t: t["components"][0].update(shape=[32, 32]),
}


@pytest.mark.parametrize("change", BAD_LAYOUTS.values(), ids=BAD_LAYOUTS.keys())
def test_a_layout_that_does_not_fit(
    tiny_mlx: Path, packed: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    table = json.loads((packed / "layout.json").read_text())
    change(table)
    (packed / "layout.json").write_text(json.dumps(table))
    with pytest.raises((CorruptFileError, UnsupportedModelError)):
        open_source(tiny_mlx, adopt=packed)
