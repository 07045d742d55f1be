"""Stores of a part, cut from a store: complete, resumable, checked, and refused alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flash_moe import load
from flash_moe.errors import (
    ChecksumError,
    ConfigError,
    CorruptFileError,
    ManifestError,
    PackError,
    UnsupportedModelError,
)
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.sources.store import slice_source
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import MANIFEST_FILE, Manifest, read_manifest
from flash_moe.store.part import Part
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.verify import verify
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.pack.conftest import StopAt
from tests.support.directories import contents, differences
from tests.support.formats import record_tensors
from tests.support.processes import in_process, one_line

# Experts and, in mlx-lm, all other weights divide by four.
GEOMETRY = replace(
    PRESETS["tiny"], layers=4, experts=6, expert_width=256, shared_width=256, kv_heads=4,
    linear_k_heads=4, linear_k_dim=64, linear_v_dim=64, head_dim=64, scale_dtype="bfloat16",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "wide"
    write_mlx_checkpoint(path, GEOMETRY)
    return path


@pytest.fixture(scope="module")
def store(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose experts divide by four. Do not change it."""
    path = tmp_path_factory.mktemp("stores") / "wide"
    pack(open_source(checkpoint), path)
    return path


@pytest.fixture(scope="module")
def half(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its second half. Do not change it."""
    path = tmp_path_factory.mktemp("parts") / "half"
    pack(slice_source(store, Part(2, 2)), path)
    return path


def slice_to(store: Path, dst: Path, part: str) -> Manifest:
    pack(slice_source(store, Part.parse(part)), dst)
    return read_manifest(dst)


def test_the_command(store: Path, half: Path, tmp_path: Path) -> None:
    out = in_process("slice", store, tmp_path / "one", "--part", "1/2")
    assert out.returncode == 0, out.stderr
    assert "4 layers packed" in out.stdout
    assert "all sound" in in_process("verify", tmp_path / "one").stdout
    assert "1/2 of every expert" in in_process("info", tmp_path / "one").stdout
    facts = json.loads(in_process("info", tmp_path / "one", "--json").stdout)
    assert facts["part"] == "1/2"
    assert facts["whole"] == read_manifest(half).whole
    assert json.loads(in_process("info", store, "--json").stdout)["part"] is None
    again = one_line(in_process("slice", store, tmp_path / "one", "--part", "1/2").stderr)
    assert "is already a complete store" in again
    wrong = in_process("slice", store, tmp_path / "two", "--part", "2")
    assert wrong.returncode == 2
    assert "expected I/N, such as 1/2 or 2/2, got '2'" in wrong.stderr
    assert in_process("slice", store, tmp_path / "two", "--part", "1/3").returncode == 1
    assert not (tmp_path / "two").exists()


def test_parts_are_the_whole(store: Path, half: Path, tmp_path: Path) -> None:
    first = slice_to(store, tmp_path / "one", "1/2")
    second = read_manifest(half)
    assert (first.part, second.part) == (Part(1, 2), Part(2, 2))
    assert first.whole == second.whole
    assert first.resident == second.resident == read_manifest(store).resident
    assert not verify(tmp_path / "one").problems
    whole, *parts = map(record_tensors, (store, tmp_path / "one", half))
    layout = read_manifest(store).layouts[0]
    for name, data in whole.items():
        component = layout.component(*name.split(".")[-2:])
        assert component is not None
        shape = (GEOMETRY.experts, *component.shape)
        down = ".down_proj." in name
        pieces = [
            np.frombuffer(part[name], np.uint8).reshape(
                GEOMETRY.experts, shape[1] if down else shape[1] // 2, -1
            )
            for part in parts
        ]
        assert np.concatenate(pieces, -1 if down else 1).tobytes() == data, name


def test_a_quarter_of_a_half_is_the_direct_quarter(store: Path, half: Path, tmp_path: Path) -> None:
    slice_to(store, tmp_path / "direct", "3/4")
    slice_to(half, tmp_path / "cut", "3/4")
    assert contents(tmp_path / "direct") == contents(tmp_path / "cut")
    with pytest.raises(ConfigError, match="expected a part of part 2/2, such as 3/4 or 4/4"):
        slice_source(half, Part(1, 4))
    with pytest.raises(UnsupportedModelError, match=r"6 parts: .* in part 2/2 .*work: 4, 8"):
        slice_source(half, Part(4, 6))


def test_a_stopped_run_continues(store: Path, half: Path, tmp_path: Path, stop_at: StopAt) -> None:
    source = slice_source(store, Part(2, 2))
    with pytest.raises(PackError, match="2 of 4 layers"):
        pack(stop_at(source, 2, OSError("pulled")), tmp_path / "dst")
    assert in_process("verify", tmp_path / "dst").returncode == 1
    with pytest.raises(PackError, match="another source or with other settings"):
        pack(slice_source(store, Part(1, 2)), tmp_path / "dst")
    result = pack(slice_source(store, Part(2, 2)), tmp_path / "dst")
    assert (result.layers_written, result.layers_kept) == (2, 2)
    assert contents(tmp_path / "dst") == contents(half)


def test_damage_of_the_source_is_seen(store: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "store"))
    for name in ("model.safetensors", "experts/layer_002.bin"):
        content = bytearray((damaged / name).read_bytes())
        content[-20000] ^= 1
        (damaged / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"model.safetensors: expected checksum \w+, got"):
        slice_source(damaged, Part(1, 2))
    shutil.copy(store / "model.safetensors", damaged)
    with pytest.raises(ChecksumError, match=r"layer_002.bin: expected checksum"):
        pack(slice_source(damaged, Part(1, 2)), tmp_path / "dst")
    assert not (tmp_path / "dst" / MANIFEST_FILE).exists()
    shutil.copy(store / "experts/layer_002.bin", damaged / "experts")
    pack(slice_source(damaged, Part(1, 2)), tmp_path / "dst")
    assert not verify(tmp_path / "dst").problems


def test_damage_of_a_part_is_seen(half: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(half, tmp_path / "half"))
    content = bytearray((root / "experts/layer_001.bin").read_bytes())
    content[-1] ^= 1
    (root / "experts/layer_001.bin").write_bytes(content)
    assert verify(root).damaged == {"experts/layer_001.bin"}
    message = in_process("verify", root, "--repair").stderr
    assert f"Delete it and run: flash-moe slice STORE {root} --part 2/2" in message


def test_only_the_right_part_opens(store: Path, half: Path, checkpoint: Path) -> None:
    with pytest.raises(
        ManifestError,
        match=r"expected a whole model, got part 2/2 of every expert. Run it on 2 machines, each "
        r"with its own part: mlx.launch -n 2 -- flash-moe generate",
    ):
        load(half)
    assert json.loads(in_process("doctor", half, "--json").stdout)["model"]["path"] == str(half)
    options = LoadOptions()
    streaming = open_streaming(half, options, Part(2, 2))
    assert streaming.experts.layers[0].layout.expert_width == GEOMETRY.expert_width // 2
    for path, got in ((half, "part 2/2"), (store, "a whole model"), (checkpoint, "a whole model")):
        with pytest.raises(ManifestError, match=rf"expected part 1/2 of .*, got {got}.* slice"):
            open_streaming(path, options, Part(1, 2))


def test_older_versions_refuse_a_part(half: Path, tmp_path: Path) -> None:
    row = json.loads((half / MANIFEST_FILE).read_text())
    assert (row["format"], row["part"], len(row["whole"])) == (2, [2, 2], 32)
    root = Path(shutil.copytree(half, tmp_path / "half"))
    for change in ({"format": 1}, {"part": [3, 2]}, {"part": [1]}, {"part": "1/2"}, {"whole": 7}):
        (root / MANIFEST_FILE).write_text(json.dumps({**row, **change}))
        with pytest.raises(ManifestError, match=r"expected format 2, got 1|bad entry"):
            read_manifest(root)


def test_the_digest_tells_models_apart(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    """Only the experts of the other model differ; name and resident weights are equal."""
    other = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
    for shard in other.glob("model*.safetensors"):
        content = bytearray(shard.read_bytes())
        at = content.index(b"switch_mlp.gate_proj.weight")
        entry = content[at : at + 200]
        begin = int(entry.split(b'"data_offsets":[')[1].split(b",")[0])
        content[8 + int.from_bytes(content[:8], "little") + begin] ^= 1
        shard.write_bytes(content)
        break
    pack(open_source(other), tmp_path / "other")
    changed, first = read_manifest(tmp_path / "other"), read_manifest(store)
    assert changed.resident == first.resident
    assert changed.layers != first.layers
    digests = {
        slice_to(tmp_path / "other", tmp_path / "a", "1/2").whole,
        slice_to(store, tmp_path / "b", "1/2").whole,
    }
    for number, source in enumerate((checkpoint, other)):
        for part in (1, 2):
            dst = tmp_path / f"{number}-{part}"
            pack(open_source(source, part=Part(part, 2)), dst)
            digests.add(read_manifest(dst).whole)
    assert len(digests) == 4


def test_a_checkpoint_packed_as_a_part(checkpoint: Path, half: Path, tmp_path: Path) -> None:
    out = in_process("pack", checkpoint, tmp_path / "part", "--part", "2/2")
    assert out.returncode == 0, out.stderr
    assert differences(tmp_path / "part", half) == []
    refused = in_process("pack", checkpoint, tmp_path / "x", "--part", "2/2", "--delete-source")
    assert "--delete-source would delete what the other parts are made of" in refused.stderr
    assert list(checkpoint.glob("model*.safetensors"))
    refused = in_process("pack", checkpoint, tmp_path / "x", "--part", "2/2", "--adopt", tmp_path)
    assert "expected no --adopt with --part" in refused.stderr


def test_quantization_errors_are_those_of_whole_experts(checkpoint: Path, tmp_path: Path) -> None:
    quantization = QuantizationConfig(expert_bits=2)
    pack(open_source(checkpoint, quantization), tmp_path / "store")
    pack(open_source(checkpoint, quantization, part=Part(1, 2)), tmp_path / "packed")
    slice_to(tmp_path / "store", tmp_path / "sliced", "1/2")
    assert differences(tmp_path / "packed", tmp_path / "sliced") == []
    errors = [
        [layer.error for layer in read_manifest(tmp_path / name).layers]
        for name in ("store", "packed", "sliced")
    ]
    assert errors[0] == errors[1] == errors[2]
    assert errors[0][0] is not None


def test_disk_and_reads_are_a_share(store: Path, half: Path) -> None:
    whole, part = (PackedExperts(root, read_manifest(root)) for root in (store, half))
    payloads = [experts.layers[0].layout.payload_bytes for experts in (whole, part)]
    assert payloads[0] == 2 * payloads[1]
    files = [sum(f.stat().st_size for f in root.glob("experts/*")) for root in (store, half)]
    assert files == [whole.n_bytes, part.n_bytes]
