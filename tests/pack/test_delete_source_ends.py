"""Deleting the source: killed at any step, the store is the same; and nothing else is deleted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flash_moe.errors import ConfigError
from flash_moe.pack.shard_supply import KEPT, DeletedShards, check_beside
from flash_moe.pack.sources.base import MlxCheckpoint
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE
from tests.support.hub.pulls import differences
from tests.support.processes import flash_moe

# For each line of "source, store, n": packs as the command does, in a process of its own that kills
# itself before the n-th step that a crash could come between. Imports are made once.
PACKER = """
import os, signal, sys, traceback; from pathlib import Path
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.packer import pack
from flash_moe.pack.shard_supply import KEPT, DeletedShards
from flash_moe.pack.sources.base import MlxCheckpoint

def counted(function, left):
    def call(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

def run(src, dst, steps):
    left = [steps]
    for name in ("fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name), left))
    kept = dst / KEPT
    checkpoint = local_checkpoint(src, kept if kept.is_dir() else None)
    pack(MlxCheckpoint(checkpoint), dst, shards=DeletedShards(checkpoint.shards, kept))

for line in sys.stdin:
    src, dst, steps = line.rstrip().split("\\t")
    child = os.fork()
    if child == 0:
        try:
            run(Path(src), Path(dst), int(steps))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
FINISHED, NEVER = 0, 10**9
Run = Callable[[Path, Path, int], int]


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("model*.safetensors"))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Packs a source into a store, killed before a step. Returns the exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", PACKER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    into, out = process.stdin, process.stdout
    assert into is not None
    assert out is not None

    def packed(src: Path, dst: Path, steps: int) -> int:
        into.write(f"{src}\t{dst}\t{steps}\n")
        into.flush()
        code = int(out.readline())
        assert code in (FINISHED, -signal.SIGKILL)  # the trace is on standard error
        return code

    yield packed
    into.close()
    assert process.wait() == 0
    out.close()


@pytest.mark.parametrize("first", range(1, 5))
def test_killed_at_every_step(
    run: Run, tiny_mlx: Path, tiny_store: Path, tmp_path: Path, first: int
) -> None:
    """A quarter of the steps each: every fourth, each in a run of its own."""
    for steps in range(first, 1000, 4):
        source, dst = tmp_path / f"source-{steps}", tmp_path / f"made-{steps}"
        shutil.copytree(tiny_mlx, source)
        killed = run(source, dst, steps) != FINISHED
        complete = (dst / MANIFEST_FILE).exists() and not (dst / PARTIAL_FILE).exists()
        if killed and not complete:
            assert run(source, dst, NEVER) == FINISHED
        assert differences_but_kept(dst, tiny_store) == [], steps
        assert shards(source) == []
        shutil.rmtree(source)
        shutil.rmtree(dst)
        if not killed:
            assert steps > 60  # five shards and eight layers have so many
            return


def differences_but_kept(one: Path, other: Path) -> list[str]:
    """A run that is killed when the store is complete may leave the headers."""
    return [name for name in differences(one, other) if not name.startswith(f"{KEPT}/")]


def test_killed_again_and_again_and_what_is_left_of_headers(
    run: Run, mlx_copy: Path, tiny_store: Path, tmp_path: Path
) -> None:
    dst, draw = tmp_path / "made", random.Random(7)
    runs = 1
    while run(mlx_copy, dst, draw.randrange(1, 60)) != FINISHED:
        runs += 1
        if (dst / MANIFEST_FILE).exists() and not (dst / PARTIAL_FILE).exists():
            break
    assert runs > 3
    (dst / KEPT).mkdir(exist_ok=True)
    again = flash_moe("pack", tiny_store, dst, "--delete-source")
    assert again.returncode != 0
    assert differences(dst, tiny_store) == []


def test_room_is_counted_only_where_it_is_made(mlx_copy: Path, tmp_path: Path) -> None:
    checkpoint = local_checkpoint(mlx_copy)
    source = MlxCheckpoint(checkpoint)
    files = StoreFiles(tmp_path / "made", source.layers, source.resident)
    deleted = DeletedShards(checkpoint.shards, tmp_path / "made" / KEPT)
    alone = deleted.extra_disk(source, files)
    assert alone <= 0
    (tmp_path / "links").mkdir()
    for shard in shards(mlx_copy):
        os.link(shard, tmp_path / "links" / shard.name)
    assert deleted.extra_disk(source, files) == 0
    shutil.rmtree(tmp_path / "links")
    assert deleted.extra_disk(source, files) == alone


def test_a_link_to_elsewhere_goes_alone(run: Run, tiny_mlx: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_mlx, tmp_path / "data")
    (tmp_path / "source").mkdir()
    for file in (tmp_path / "data").iterdir():
        os.symlink(file, tmp_path / "source" / file.name)
    before = shards(tmp_path / "data")
    assert run(tmp_path / "source", tmp_path / "made", NEVER) == FINISHED
    assert shards(tmp_path / "source") == []
    assert shards(tmp_path / "data") == before


def test_a_killed_run_leaves_no_blob_behind(run: Run, tiny_mlx: Path, tmp_path: Path) -> None:
    """The blob goes before the link, so that a link is all that can be left."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for number, file in enumerate(sorted(tiny_mlx.iterdir())):
        shutil.copy(file, blobs / str(number))
        os.symlink(blobs / str(number), snapshot / file.name)
    shard = shards(snapshot)[0]
    blob = shard.resolve()
    deleted = DeletedShards([shard], tmp_path / "made" / KEPT)
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
    out = flash_moe("pack", mlx_copy, mlx_copy / place, "--delete-source")
    assert out.returncode != 0
    assert "whose shards are to be deleted" in out.stderr
    assert sorted(mlx_copy.rglob("*")) == before


def test_a_destination_beside_the_shards_is_taken(mlx_copy: Path) -> None:
    check_beside(shards(mlx_copy), mlx_copy.parent / "store")
    link = mlx_copy.parent / "link"
    os.symlink(mlx_copy, link)
    with pytest.raises(ConfigError, match="lies in"):
        check_beside(shards(mlx_copy), link / "store")


def test_an_adopted_store_deletes_nothing(mlx_copy: Path, tmp_path: Path) -> None:
    before = sorted(mlx_copy.iterdir())
    out = flash_moe(
        "pack", mlx_copy, tmp_path / "made", "--adopt", tmp_path / "packed", "--delete-source"
    )
    assert out.returncode != 0
    assert "--delete-source" in out.stderr
    assert sorted(mlx_copy.iterdir()) == before
    assert not (tmp_path / "made").exists()
