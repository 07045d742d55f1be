"""Packing an mlx checkpoint: the bytes, what is refused, and that a stopped run is continued."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flash_moe.errors import CorruptFileError, ManifestError, PackError
from flash_moe.pack.auxiliary_files import MODEL_FILE
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.experts import CheckpointExperts, read_checkpoint_tensors
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE, read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.store.verify import verify
from tests.support.directories import contents
from tests.support.fork_server import ForkServer
from tests.support.killed_packs import AFTER_BYTES

LAYER_BYTES = 32 * 16384


def test_records_and_resident_weights_are_those_of_the_checkpoint(
    tiny_mlx: Path, tiny_store: Path
) -> None:
    tensors = read_checkpoint_tensors(tiny_mlx)
    experts = CheckpointExperts.of(tensors)
    reader = RecordReader(experts)
    record = memoryview(bytearray(16384))
    for layer in range(8):
        packed = (tiny_store / "experts" / f"layer_{layer:03d}.bin").read_bytes()
        assert len(packed) == LAYER_BYTES
        for expert in range(32):
            reader.read(layer, expert, record)
            assert packed[expert * 16384 : (expert + 1) * 16384] == bytes(record)
    reader.close()
    kept = read_checkpoint_tensors(tiny_store)
    assert set(kept) == {name for name in tensors if ".switch_mlp." not in name}
    for name, entry in kept.items():
        old = tensors[name]
        assert (entry.dtype, entry.shape) == (old.dtype, old.shape)
        ours, theirs = entry.file.read_bytes(), old.file.read_bytes()
        assert (
            ours[entry.offset : entry.offset + entry.n_bytes]
            == theirs[old.offset : old.offset + old.n_bytes]
        )


def test_a_store_is_also_a_model_directory(tiny_mlx: Path, tiny_store: Path) -> None:
    store, checkpoint = contents(tiny_store), contents(tiny_mlx)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert store[name] == checkpoint[name]
    config = json.loads(store["config.json"])
    assert config.pop("model_file") == MODEL_FILE
    assert config == json.loads(checkpoint["config.json"])
    compile(store[MODEL_FILE], MODEL_FILE, "exec")
    assert not [name for name in store if name.endswith((".tmp", ".index.json"))]
    assert PARTIAL_FILE not in store


def test_progress_and_result(tiny_mlx: Path, tmp_path: Path) -> None:
    done: Counter[str] = Counter()

    def on_progress(what: str, n: int) -> None:
        done[what] += n

    source = open_source(tiny_mlx)
    result = pack(source, tmp_path / "store", on_progress)
    assert {f"layer {i}": done[f"layer {i}"] for i in range(8)} == {
        f"layer {i}": 32 * 15_360
        for i in range(8)  # without padding
    }
    assert done["resident weights"] == source.resident_bytes
    assert (result.layers_written, result.layers_kept) == (8, 0)
    assert result.expert_bytes == 8 * LAYER_BYTES
    assert result.resident_bytes == (tmp_path / "store" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
@pytest.mark.parametrize("layer", [0, 3, 7])
def test_a_stopped_run_is_continued(
    tiny_mlx: Path,
    tiny_store: Path,
    tmp_path: Path,
    stop_at: Any,
    layer: int,
    error: BaseException,
) -> None:
    dst = tmp_path / "store"
    source = stop_at(open_source(tiny_mlx), layer, error)
    with pytest.raises((KeyboardInterrupt, PackError)) as caught:
        pack(source, dst)
    if isinstance(error, OSError):
        assert f"partial store with {layer} of 8 layers" in str(caught.value)
        assert "same command again" in str(caught.value)
    with pytest.raises(ManifestError, match="partial store"):
        read_manifest(dst)
    finished = {f: f.stat() for f in (dst / "experts").glob("*.bin")}
    assert len(finished) == layer
    result = pack(open_source(tiny_mlx), dst)
    assert (result.layers_written, result.layers_kept) == (8 - layer, layer)
    assert contents(dst) == contents(tiny_store)
    for file, old in finished.items():
        now = file.stat()
        assert (now.st_mtime_ns, now.st_ino) == (old.st_mtime_ns, old.st_ino)


def test_a_killed_run_is_continued(
    forks: ForkServer, tiny_mlx: Path, tiny_store: Path, tmp_path: Path
) -> None:
    """kill -9 in every phase; each run goes on where the last one was stopped."""
    store = tmp_path / "store"
    layer = 32 * 15_360  # without padding
    for done in (0, layer // 2, layer, 3 * layer + 16_384, 8 * layer, 8 * layer + 400_000):
        assert forks.run(AFTER_BYTES, tiny_mlx, store, done) == -signal.SIGKILL
        with pytest.raises(ManifestError, match="is a partial store"):
            read_manifest(store)
    result = pack(open_source(tiny_mlx), store)
    assert (result.layers_written, result.layers_kept) == (1, 7)
    assert contents(store) == contents(tiny_store)


def test_the_same_source_can_be_packed_again(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path, stop_at: Any
) -> None:
    source = stop_at(open_source(tiny_mlx), 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "store")
    assert pack(source, tmp_path / "store").layers_kept == 2
    assert contents(tmp_path / "store") == contents(tiny_store)


def test_stopped_in_the_resident_weights_or_just_before_the_end(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    dst = tmp_path / "store"

    def on_progress(what: str, n: int) -> None:
        if what == "resident weights":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(open_source(tiny_mlx), dst, on_progress)
    assert not (dst / MANIFEST_FILE).exists()
    assert not (dst / "model.safetensors").exists()
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: _raise(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        pack(open_source(tiny_mlx), dst)
    monkeypatch.undo()
    assert (dst / PARTIAL_FILE).exists()
    assert pack(open_source(tiny_mlx), dst).layers_kept == 8
    assert contents(dst) == contents(tiny_store)


def _raise(error: BaseException) -> None:
    raise error


def test_a_finished_layer_that_was_damaged_meanwhile_is_written_again(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path, stop_at: Any
) -> None:
    dst = tmp_path / "store"
    source = stop_at(open_source(tiny_mlx), 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, dst)
    (dst / "experts" / "layer_001.bin").unlink()
    os.truncate(dst / "experts" / "layer_002.bin", LAYER_BYTES - 1)
    assert pack(open_source(tiny_mlx), dst).layers_kept == 2
    assert contents(dst) == contents(tiny_store)


def test_another_source_does_not_continue(
    tiny_mlx: Path, mlx_copy: Path, tmp_path: Path, stop_at: Any
) -> None:
    source = stop_at(open_source(tiny_mlx), 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "store")
    with pytest.raises(PackError, match="another source"):
        pack(open_source(mlx_copy), tmp_path / "store")
    shard = mlx_copy / "model-00001-of-00005.safetensors"
    before = open_source(mlx_copy).fingerprint
    os.utime(shard, ns=(0, 0))
    assert open_source(mlx_copy).fingerprint != before


def test_refused_destinations(tiny_mlx: Path, store_copy: Path, tmp_path: Path) -> None:
    source = open_source(tiny_mlx)
    with pytest.raises(PackError, match=r"complete store.*flash-moe verify"):
        pack(source, store_copy)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(PackError, match="is not empty"):
        pack(source, tmp_path / "full")
    with pytest.raises(PackError, match="is not a directory"):
        pack(source, tmp_path / "full" / "letter.txt")
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["letter.txt"]
    (tmp_path / "half").mkdir()
    for text in ("", "[]", '{"format": 2, "layers": {}}'):
        (tmp_path / "half" / PARTIAL_FILE).write_text(text)
        with pytest.raises(PackError, match="is not a journal"):
            pack(source, tmp_path / "half")


def test_a_source_that_is_cut_while_it_is_packed(mlx_copy: Path, tmp_path: Path) -> None:
    source = open_source(mlx_copy)
    for shard in mlx_copy.glob("model*.safetensors"):
        os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(CorruptFileError, match=r"ends inside tensor .* expected"):
        pack(source, tmp_path / "store")
    assert not (tmp_path / "store" / MANIFEST_FILE).exists()


def test_the_prediction_head_is_left_out(mlx_copy: Path, tiny_store: Path, tmp_path: Path) -> None:
    extra = {
        "mtp.fc.weight": np.ones((4, 4), np.float32),
        "mtp.layers.0.mlp.switch_mlp.gate_proj.weight": np.ones((4, 4, 4), np.float32),
    }
    save_file(extra, mlx_copy / "model-mtp.safetensors")
    pack(open_source(mlx_copy), tmp_path / "packed")
    assert set(read_checkpoint_tensors(tmp_path / "packed")) == set(
        read_checkpoint_tensors(tiny_store)
    )


def test_a_moved_store_is_still_sound(store_copy: Path, tmp_path: Path) -> None:
    shutil.move(store_copy, tmp_path / "elsewhere")
    assert verify(tmp_path / "elsewhere").problems == ()


def test_a_run_that_was_killed_in_its_first_journal(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / f"{PARTIAL_FILE}.tmp").write_text('{"journ')
    pack(open_source(tiny_mlx), tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tiny_store)
