"""Finding the experts of a checkpoint: which bytes of which shard make each record."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flash_moe.errors import CorruptFileError, ModelNotFoundError, UnsupportedModelError
from flash_moe.store.experts import (
    INDEX_FILE,
    CheckpointExperts,
    PackedExperts,
    expert_stacks,
    layer_number,
    read_checkpoint_tensors,
    record_parts,
)
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader

STACK = "language_model.model.layers.3.mlp.switch_mlp"


def tensors_of(root: Path) -> dict[str, np.ndarray]:
    return {n: a for f in root.glob("model*.safetensors") for n, a in load_file(f).items()}


def read_record(reader: RecordReader, layer: int, expert: int) -> bytes:
    record = memoryview(bytearray(reader.experts.layers[layer].layout.record_bytes))
    reader.read(layer, expert, record)
    return bytes(record)


def test_layers_of_the_tiny_checkpoint(tiny_mlx: Path) -> None:
    experts = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))
    assert [layer.number for layer in experts.layers] == list(range(8))
    assert {layer.n_experts for layer in experts.layers} == {32}
    assert experts.layers[3].path == STACK
    assert experts.n_bytes == 8 * 32 * 16384
    assert experts.checksum(0, 0) is None


def test_records_equal_the_slices_of_the_tensors(tiny_mlx: Path) -> None:
    tensors = tensors_of(tiny_mlx)
    experts = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))
    reader = RecordReader(experts)
    for layer, info in enumerate(experts.layers):
        for expert in (0, 1, 17, 31):
            parts = record_parts(info.layout, read_record(reader, layer, expert))
            assert len(parts) == 9
            for name, part in parts.items():
                assert bytes(part) == tensors[f"{info.path}.{name}"][expert].tobytes()
    reader.close()


def test_packed_and_unpacked_answer_the_same(tiny_mlx: Path, tiny_store: Path) -> None:
    unpacked = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))
    packed = PackedExperts(tiny_store, read_manifest(tiny_store))
    assert packed.layers == unpacked.layers
    assert packed.n_bytes == unpacked.n_bytes
    one, other = RecordReader(packed, verify=True), RecordReader(unpacked)
    for layer, expert in ((0, 0), (7, 31), (4, 9)):
        assert read_record(one, layer, expert) == read_record(other, layer, expert)
        assert len(packed.segments(layer, expert)) == 1
        assert len(unpacked.segments(layer, expert)) == 9
    one.close()
    other.close()


def test_mlx_reads_the_same_tensors(tiny_mlx: Path) -> None:
    entries = read_checkpoint_tensors(tiny_mlx)
    name = f"{STACK}.down_proj.weight"
    array = mx.load(str(entries[name].file))[name]
    assert array.shape == entries[name].shape
    assert np.array(array).tobytes() == tensors_of(tiny_mlx)[name].tobytes()


def test_a_missing_shard_is_named(mlx_copy: Path) -> None:
    (mlx_copy / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"1 of 5 shards.*model-00002-of-00005"):
        read_checkpoint_tensors(mlx_copy)


def test_no_shard_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model\*\.safetensors"):
        read_checkpoint_tensors(tmp_path)


def test_an_index_that_promises_an_absent_tensor(mlx_copy: Path) -> None:
    index = json.loads((mlx_copy / INDEX_FILE).read_text())
    index["weight_map"]["ghost.weight"] = "model-00003-of-00005.safetensors"
    (mlx_copy / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CorruptFileError, match=r"ghost\.weight.*model-00003"):
        read_checkpoint_tensors(mlx_copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "\0\0"])
def test_an_index_that_is_none(mlx_copy: Path, text: str) -> None:
    (mlx_copy / INDEX_FILE).write_text(text)
    with pytest.raises(CorruptFileError, match=INDEX_FILE):
        read_checkpoint_tensors(mlx_copy)


def test_without_an_index_all_shards_count(mlx_copy: Path) -> None:
    with_index = read_checkpoint_tensors(mlx_copy)
    (mlx_copy / INDEX_FILE).unlink()
    assert read_checkpoint_tensors(mlx_copy) == with_index


def test_a_shard_that_is_cut_short_is_named(mlx_copy: Path) -> None:
    shard = mlx_copy / "model-00004-of-00005.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="model-00004-of-00005"):
        read_checkpoint_tensors(mlx_copy)


def expert_arrays(prefix: str, experts: int = 4) -> dict[str, np.ndarray]:
    return {
        f"{prefix}.gate_proj.weight": np.ones((experts, 32, 64), np.float32),
        f"{prefix}.up_proj.weight": np.ones((experts, 32, 64), np.float32),
        f"{prefix}.down_proj.weight": np.ones((experts, 64, 32), np.float32),
    }


def written(root: Path, arrays: dict[str, np.ndarray]) -> CheckpointExperts:
    save_file(arrays, root / "model.safetensors")
    return CheckpointExperts.of(read_checkpoint_tensors(root))


def test_mtp_and_dense_tensors_are_no_experts(tmp_path: Path) -> None:
    arrays = expert_arrays("model.layers.1.mlp.switch_mlp")
    arrays |= expert_arrays("mtp.layers.0.mlp.switch_mlp")
    arrays |= expert_arrays("language_model.mtp.layers.0.mlp.switch_mlp")
    arrays["model.layers.0.mlp.gate_proj.weight"] = np.ones((32, 64), np.float32)
    arrays["model.layers.1.mlp.shared_expert.gate_proj.weight"] = np.ones((32, 64), np.float32)
    experts = written(tmp_path, arrays)
    assert [(e.number, e.path) for e in experts.layers] == [(1, "model.layers.1.mlp.switch_mlp")]
    assert set(expert_stacks(read_checkpoint_tensors(tmp_path))) == {experts.layers[0].path}


def test_layers_are_in_order_of_number_not_of_name(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for number in (10, 2, 1):
        arrays |= expert_arrays(f"model.layers.{number}.mlp.switch_mlp")
    assert [layer.number for layer in written(tmp_path, arrays).layers] == [1, 2, 10]


def test_experts_that_disagree_in_number(tmp_path: Path) -> None:
    arrays = expert_arrays("model.layers.0.mlp.experts")
    arrays["model.layers.0.mlp.experts.up_proj.weight"] = np.ones((5, 32, 64), np.float32)
    with pytest.raises(UnsupportedModelError, match="same number of experts"):
        written(tmp_path, arrays)


def test_a_stack_without_one_projection_names_the_path(tmp_path: Path) -> None:
    arrays = expert_arrays("model.layers.0.mlp.experts")
    del arrays["model.layers.0.mlp.experts.down_proj.weight"]
    with pytest.raises(
        UnsupportedModelError, match=r"layers\.0\.mlp\.experts: expected .*down_proj, got"
    ):
        written(tmp_path, arrays)


def test_two_stacks_in_one_layer(tmp_path: Path) -> None:
    arrays = expert_arrays("model.layers.0.mlp.experts") | expert_arrays("model.layers.0.more")
    with pytest.raises(UnsupportedModelError, match="two expert stacks"):
        written(tmp_path, arrays)


def test_layer_numbers() -> None:
    assert layer_number("model.layers.12.mlp.switch_mlp") == 12
    assert layer_number("layers.0") == 0
    with pytest.raises(UnsupportedModelError, match="expected a layer number"):
        layer_number("model.players.3.mlp")
