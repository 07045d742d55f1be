"""A disk that is too small: refused beforehand where it can be known, continued afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flash_moe.errors import PackError
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.base import MlxCheckpoint, PackSource
from flash_moe.pack.sources.hf import HuggingFaceCheckpoint
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.verify import verify

Read = Callable[[Path], dict[str, bytes]]
LAYER_BYTES = 32 * 16384

# A write beyond the limit of the file size fails like one on a full disk, also half way through.
CHILD = """
import resource, sys
from pathlib import Path
from flash_moe.pack.sources.open_source import open_source
from flash_moe.errors import PackError
from flash_moe.pack.packer import pack

src, dst, limit_from, limit = sys.argv[1:]
what_from, bytes_from = limit_from.split(":")
source = open_source(Path(src))
done = []

def on_progress(what, n):
    if what == what_from:
        done.append(n)
    if sum(done) >= int(bytes_from) and done:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))

on_progress("start", 1)
try:
    pack(source, Path(dst), on_progress)
except PackError as error:
    print(error)
    sys.exit(3)
"""


def pack_on_small_disk(src: Path, dst: Path, limit_from: str, limit: int) -> str:
    """Pack with a limit on file sizes; return the message.

    Args:
        limit_from: Where it begins, ``"layer 3:100"``: when 100 bytes of layer 3 are written.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(src), str(dst), limit_from, str(limit)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=False,
    )
    assert done.returncode == 3, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("limit_from", "limit", "layers"),
    [
        ("start:1", 0, {0}),  # the journal
        ("start:1", 200_000, {0}),  # the first layer
        # The middle of a later layer, unless the other threads have written it by then.
        ("layer 3:1", LAYER_BYTES // 2, {3, 4}),
        (f"layer 3:{32 * 15_360}", LAYER_BYTES - 100, {4}),  # the room for the one behind it
        ("start:1", 600_000, {8}),  # the resident weights
    ],
)
def test_a_disk_that_fills_up_while_packing(
    tiny_mlx: Path,
    tiny_store: Path,
    tmp_path: Path,
    contents: Read,
    limit_from: str,
    limit: int,
    layers: set[int],
) -> None:
    dst = tmp_path / "store"
    message = pack_on_small_disk(tiny_mlx, dst, limit_from, limit)
    assert "[pack] the disk is full" in message
    (kept,) = (n for n in layers if f"partial store with {n} of 8 layers" in message)
    assert "same command again" in message
    assert not (dst / MANIFEST_FILE).exists()
    result = pack(MlxCheckpoint(tiny_mlx), dst)
    assert result.layers_kept == kept
    assert contents(dst) == contents(tiny_store)


def test_a_disk_that_fills_up_in_the_quantized_resident_weights(
    tiny_hf: Path, tmp_path: Path
) -> None:
    dst = tmp_path / "store"
    message = pack_on_small_disk(tiny_hf, dst, "start:1", 600_000)
    assert "the disk is full" in message
    assert not (dst / MANIFEST_FILE).exists()
    pack(HuggingFaceCheckpoint(tiny_hf, QuantizationConfig()), dst)
    assert verify(dst).problems == ()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def needed(source: PackSource, dst: Path) -> int:
    return StoreFiles(dst, source.layers, source.resident).missing_bytes()


def test_too_little_free_space_is_said_before_anything_is_written(
    tiny_mlx: Path, tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst = tmp_path / "store"
    source = MlxCheckpoint(tiny_mlx)
    free = needed(source, dst) - 1
    assert free > 8 * LAYER_BYTES + source.resident_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    with pytest.raises(PackError, match=r"expected [\d.]+ MB of free disk, got") as caught:
        pack(source, dst)
    assert "run the same command again" in str(caught.value)
    assert not contents(dst)
    free += 1
    assert pack(source, dst).layers_written == 8


def test_a_continued_run_needs_space_for_the_rest_only(
    tiny_mlx: Path, tmp_path: Path, stop_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst = tmp_path / "store"
    source = stop_at(MlxCheckpoint(tiny_mlx), 6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, dst)
    free = needed(source, dst) - 1
    assert free < 2 * LAYER_BYTES + source.resident_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    with pytest.raises(PackError, match="free disk"):
        pack(source, dst)
    free += 1
    assert pack(source, dst).layers_kept == 6
