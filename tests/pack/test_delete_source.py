"""Packing on a disk that does not hold both: each shard goes when it is packed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_moe.errors import ModelNotFoundError
from flash_moe.hub.local_stores import disk_bytes
from flash_moe.pack.packer import pack
from flash_moe.pack.shard_supply import KEPT, DeletedShards
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE
from tests.support.hub.checkpoints import write_checkpoint
from tests.support.hub.pulls import differences, watching
from tests.support.processes import COMMAND, environment, flash_moe

Read = Callable[[Path], dict[str, bytes]]


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("model*.safetensors"))


def pack_and_delete(
    root: Path, dst: Path, on_progress: Callable[[str, int], None] | None = None
) -> None:
    kept = dst / KEPT
    checkpoint = local_checkpoint(root, kept if kept.is_dir() else None)
    pack(open_source(checkpoint), dst, on_progress, shards=DeletedShards(checkpoint.shards, kept))


def test_the_store_is_the_same_and_the_shards_are_gone(
    mlx_copy: Path, tiny_store: Path, tmp_path: Path
) -> None:
    others = {f.name for f in mlx_copy.iterdir()} - {f.name for f in shards(mlx_copy)}
    pack_and_delete(mlx_copy, tmp_path / "made")
    assert differences(tmp_path / "made", tiny_store) == []
    assert not (tmp_path / "made" / KEPT).exists()
    assert {f.name for f in mlx_copy.iterdir()} == others


def test_the_disk_holds_less_than_both(tmp_path: Path) -> None:
    """Of a checkpoint whose layers lie one behind the other, as all large ones."""
    source = write_checkpoint(tmp_path / "source", "hf-fused", 6)
    pack(open_source(source), tmp_path / "whole")
    store = disk_bytes(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    before = disk_bytes(tmp_path)
    largest = max(f.stat().st_size for f in shards(source))
    checkpoint = local_checkpoint(source)
    deleted = DeletedShards(checkpoint.shards, tmp_path / "made" / KEPT)
    opened = open_source(checkpoint)
    files = StoreFiles(tmp_path / "made", opened.layers, opened.resident)
    extra = deleted.extra_disk(opened, files)
    assert -store < extra < -0.2 * store
    with watching(tmp_path) as most:
        pack(opened, tmp_path / "made", shards=deleted)
    slack = 60 * 4096  # small files, headers
    assert before < most[-1] <= before + store + extra + slack
    assert most[-1] < before + store - 0.2 * store + slack
    assert disk_bytes(tmp_path) < store + largest


@pytest.mark.parametrize("what", ["layer 0", "layer 4", "resident weights"])
def test_a_stopped_run_is_continued_without_what_is_gone(
    mlx_copy: Path, tiny_store: Path, tmp_path: Path, what: str
) -> None:
    seen: list[int] = []

    def strike(now: str, n_bytes: int) -> None:
        seen.append(n_bytes)
        if now == what and len(shards(mlx_copy)) <= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_and_delete(mlx_copy, tmp_path / "made", strike)
    assert 0 < len(shards(mlx_copy)) <= 3
    pack_and_delete(mlx_copy, tmp_path / "made")
    assert differences(tmp_path / "made", tiny_store) == []
    assert shards(mlx_copy) == []


def test_the_command_killed_again_and_again(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path
) -> None:
    source, dst = Path(shutil.copytree(tiny_mlx, tmp_path / "source")), tmp_path / "made"
    draw = random.Random(4)
    for _ in range(8):
        process = subprocess.Popen(
            [*COMMAND, "pack", source, dst, "--delete-source"],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not dst.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (dst / MANIFEST_FILE).exists():
            break
    if not (dst / MANIFEST_FILE).exists() or (dst / KEPT).exists():
        out = flash_moe("pack", source, dst, "--delete-source")
        assert out.returncode == 0, out.stderr
    assert differences(dst, tiny_store) == []
    assert shards(source) == []


def test_without_the_option_it_goes_on_too(
    mlx_copy: Path, tiny_store: Path, tmp_path: Path
) -> None:
    def strike(now: str, n_bytes: int) -> None:
        if len(shards(mlx_copy)) <= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_and_delete(mlx_copy, tmp_path / "made", strike)
    left = shards(mlx_copy)
    assert left
    out = flash_moe("pack", mlx_copy, tmp_path / "made")
    assert out.returncode == 0, out.stderr
    assert differences(tmp_path / "made", tiny_store) == []
    assert shards(mlx_copy) == left


def test_a_shard_that_somebody_else_removed(mlx_copy: Path, tmp_path: Path) -> None:
    def strike(now: str, n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_and_delete(mlx_copy, tmp_path / "made", strike)
    shards(mlx_copy)[-1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"00005-of-00005\.safetensors is missing"):
        pack_and_delete(mlx_copy, tmp_path / "made")


def test_in_the_cache_of_the_hub_the_blobs_go_too(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path
) -> None:
    blobs = tmp_path / "models--org--tiny" / "blobs"
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny_mlx.iterdir())):
        shutil.copy(file, blobs / str(number))
        os.symlink(blobs / str(number), snapshot / file.name)
    pack_and_delete(snapshot, tmp_path / "made")
    assert differences(tmp_path / "made", tiny_store) == []
    assert shards(snapshot) == []
    assert len(list(blobs.iterdir())) == len(list(snapshot.iterdir())) > 0
