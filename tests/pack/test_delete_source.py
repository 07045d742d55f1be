"""Packing on a disk that does not hold both: each shard goes when it is packed.

Killed at any step, the next run makes the same store; and nothing else is deleted.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_moe.errors import ConfigError, ModelNotFoundError
from flash_moe.hub.local_stores import disk_bytes
from flash_moe.pack.packer import pack
from flash_moe.pack.shard_source import HEADERS_DIR, DeletedShards, check_outside
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE
from tests.support.directories import differences
from tests.support.effort import repetitions
from tests.support.fork_server import COMMAND, ForkServer
from tests.support.hub.checkpoints import write_checkpoint
from tests.support.hub.pulls import watching
from tests.support.killed_packs import BEFORE_STEP
from tests.support.processes import in_process

FINISHED, KILLED, NEVER = 0, -signal.SIGKILL, 10**9


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("model*.safetensors"))


def pack_and_delete(
    root: Path, dst: Path, on_progress: Callable[[str, int], None] | None = None
) -> None:
    kept = dst / HEADERS_DIR
    checkpoint = local_checkpoint(root, kept if kept.is_dir() else None)
    pack(open_source(checkpoint), dst, on_progress, shards=DeletedShards(checkpoint.shards, kept))


def test_the_store_is_the_same_and_the_shards_are_gone(
    mlx_copy: Path, tiny_store: Path, tmp_path: Path
) -> None:
    others = {f.name for f in mlx_copy.iterdir()} - {f.name for f in shards(mlx_copy)}
    pack_and_delete(mlx_copy, tmp_path / "made")
    assert differences(tmp_path / "made", tiny_store) == []
    assert not (tmp_path / "made" / HEADERS_DIR).exists()
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
    deleted = DeletedShards(checkpoint.shards, tmp_path / "made" / HEADERS_DIR)
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
    out = in_process("pack", mlx_copy, tmp_path / "made")
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


def is_complete(dst: Path) -> bool:
    return (dst / MANIFEST_FILE).exists() and not (dst / PARTIAL_FILE).exists()


def differences_but_kept(one: Path, other: Path) -> list[str]:
    """A run that is killed when the store is complete may leave the headers."""
    return [name for name in differences(one, other) if not name.startswith(f"{HEADERS_DIR}/")]


def test_killed_at_every_step(
    forks: ForkServer, tiny_mlx: Path, tiny_store: Path, tmp_path: Path
) -> None:
    """Each in a run of its own; with --full at all steps that a crash can come between."""
    for step in range(1, 1000, repetitions(15, full=1)):
        source, dst = tmp_path / f"source-{step}", tmp_path / f"made-{step}"
        shutil.copytree(tiny_mlx, source)
        code = forks.run(BEFORE_STEP, source, dst, step)
        assert code in (FINISHED, KILLED), forks.output.read_text()
        if not is_complete(dst):
            assert forks.run(BEFORE_STEP, source, dst, NEVER) == FINISHED, forks.output.read_text()
        assert differences_but_kept(dst, tiny_store) == [], step
        assert shards(source) == []
        shutil.rmtree(source)
        shutil.rmtree(dst)
        if code == FINISHED:
            assert step > 60  # five shards and eight layers have so many
            return


def test_killed_again_and_again_and_what_is_left_of_headers(
    forks: ForkServer, mlx_copy: Path, tiny_store: Path, tmp_path: Path
) -> None:
    dst, draw = tmp_path / "made", random.Random(7)
    runs = 1
    while forks.run(BEFORE_STEP, mlx_copy, dst, draw.randrange(1, 60)) != FINISHED:
        runs += 1
        if is_complete(dst):
            break
    assert runs > 3
    (dst / HEADERS_DIR).mkdir(exist_ok=True)
    (dst / HEADERS_DIR / "left.safetensors").touch()
    again = in_process("pack", mlx_copy, dst, "--delete-source")
    assert "already a complete store" in again.stderr
    assert differences(dst, tiny_store) == []


def test_the_command_killed_again_and_again(
    forks: ForkServer, mlx_copy: Path, tiny_store: Path, tmp_path: Path
) -> None:
    dst, draw = tmp_path / "made", random.Random(4)
    for _ in range(8):
        forks.start(COMMAND, "pack", mlx_copy, dst, "--delete-source")
        while not dst.exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.08))
        forks.kill()
        assert forks.wait() in (FINISHED, KILLED)
        if (dst / MANIFEST_FILE).exists():
            break
    if not (dst / MANIFEST_FILE).exists() or (dst / HEADERS_DIR).exists():
        code = forks.run(COMMAND, "pack", mlx_copy, dst, "--delete-source")
        assert code == FINISHED, forks.output.read_text()
    assert differences(dst, tiny_store) == []
    assert shards(mlx_copy) == []


def test_room_is_counted_only_where_it_is_made(mlx_copy: Path, tmp_path: Path) -> None:
    checkpoint = local_checkpoint(mlx_copy)
    source = open_source(checkpoint)
    files = StoreFiles(tmp_path / "made", source.layers, source.resident)
    deleted = DeletedShards(checkpoint.shards, tmp_path / "made" / HEADERS_DIR)
    alone = deleted.extra_disk(source, files)
    assert alone <= 0
    (tmp_path / "links").mkdir()
    for shard in shards(mlx_copy):
        os.link(shard, tmp_path / "links" / shard.name)
    assert deleted.extra_disk(source, files) == 0
    shutil.rmtree(tmp_path / "links")
    assert deleted.extra_disk(source, files) == alone


def test_a_link_to_elsewhere_goes_alone(tiny_mlx: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_mlx, tmp_path / "data")
    (tmp_path / "source").mkdir()
    for file in (tmp_path / "data").iterdir():
        os.symlink(file, tmp_path / "source" / file.name)
    before = shards(tmp_path / "data")
    pack_and_delete(tmp_path / "source", tmp_path / "made")
    assert shards(tmp_path / "source") == []
    assert shards(tmp_path / "data") == before


def in_cache_of_the_hub(checkpoint: Path, root: Path) -> tuple[Path, Path]:
    """A checkpoint as huggingface_hub keeps it: blobs, and a snapshot of links to them."""
    blobs = root / "models--org--tiny" / "blobs"
    snapshot = root / "models--org--tiny" / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        shutil.copy(file, blobs / str(number))
        os.symlink(blobs / str(number), snapshot / file.name)
    return blobs, snapshot


def test_in_the_cache_of_the_hub_the_blobs_go_too(
    tiny_mlx: Path, tiny_store: Path, tmp_path: Path
) -> None:
    blobs, snapshot = in_cache_of_the_hub(tiny_mlx, tmp_path)
    pack_and_delete(snapshot, tmp_path / "made")
    assert differences(tmp_path / "made", tiny_store) == []
    assert shards(snapshot) == []
    assert len(list(blobs.iterdir())) == len(list(snapshot.iterdir())) > 0


def test_a_killed_run_leaves_no_blob_behind(tiny_mlx: Path, tmp_path: Path) -> None:
    """The blob goes before the link, so that a link is all that can be left."""
    blobs, snapshot = in_cache_of_the_hub(tiny_mlx, tmp_path)
    shard = shards(snapshot)[0]
    blob = shard.resolve()
    deleted = DeletedShards([shard], tmp_path / "made" / HEADERS_DIR)
    blob.unlink()  # as a run that was killed between the two
    deleted.release(shard)
    assert not shard.is_symlink()
    other = shards(snapshot)[0]
    blob = other.resolve()
    deleted.release(other)
    assert not blob.exists()
    assert not other.is_symlink()
    assert len(list(blobs.iterdir())) == len(list(snapshot.iterdir())) > 0


@pytest.mark.parametrize("place", [".", "store", "a/b"])
def test_a_destination_among_the_shards_is_refused(mlx_copy: Path, place: str) -> None:
    before = sorted(mlx_copy.rglob("*"))
    out = in_process("pack", mlx_copy, mlx_copy / place, "--delete-source")
    assert out.returncode != 0
    assert "whose shards will be deleted" in out.stderr
    assert sorted(mlx_copy.rglob("*")) == before


def test_a_destination_beside_the_shards_is_taken(mlx_copy: Path) -> None:
    check_outside(shards(mlx_copy), mlx_copy.parent / "store")
    link = mlx_copy.parent / "link"
    os.symlink(mlx_copy, link)
    with pytest.raises(ConfigError, match="lies in"):
        check_outside(shards(mlx_copy), link / "store")


def test_an_adopted_store_deletes_nothing(mlx_copy: Path, tmp_path: Path) -> None:
    before = sorted(mlx_copy.iterdir())
    out = in_process(
        "pack", mlx_copy, tmp_path / "made", "--adopt", tmp_path / "packed", "--delete-source"
    )
    assert out.returncode != 0
    assert "--delete-source" in out.stderr
    assert sorted(mlx_copy.iterdir()) == before
    assert not (tmp_path / "made").exists()
