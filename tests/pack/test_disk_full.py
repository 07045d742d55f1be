"""A disk that is too small: refused beforehand where it can be known, continued afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flash_moe.errors import PackError
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.verify import verify
from tests.support.directories import contents
from tests.support.fork_server import ForkServer
from tests.support.killed_packs import DISK_IS_FULL, SMALL_DISK

LAYER_BYTES = 32 * 16384


def pack_on_small_disk(forks: ForkServer, src: Path, dst: Path, limit_from: str, limit: int) -> str:
    """Pack with a limit on file sizes from some progress on; returns the message."""
    code = forks.run(SMALL_DISK, src, dst, limit_from, limit)
    assert code == DISK_IS_FULL, forks.output.read_text()
    return forks.output.read_text()


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
    forks: ForkServer,
    tiny_mlx: Path,
    tiny_store: Path,
    tmp_path: Path,
    limit_from: str,
    limit: int,
    layers: set[int],
) -> None:
    dst = tmp_path / "store"
    message = pack_on_small_disk(forks, tiny_mlx, dst, limit_from, limit)
    assert "[pack] the disk is full" in message
    (kept,) = (n for n in layers if f"partial store with {n} of 8 layers" in message)
    assert "same command again" in message
    assert not (dst / MANIFEST_FILE).exists()
    result = pack(open_source(tiny_mlx), dst)
    assert result.layers_kept == kept
    assert contents(dst) == contents(tiny_store)


def test_a_disk_that_fills_up_in_the_quantized_resident_weights(
    forks: ForkServer, tiny_hf: Path, tmp_path: Path
) -> None:
    dst = tmp_path / "store"
    message = pack_on_small_disk(forks, tiny_hf, dst, "start:1", 600_000)
    assert "the disk is full" in message
    assert not (dst / MANIFEST_FILE).exists()
    pack(open_source(tiny_hf, QuantizationConfig()), dst)
    assert verify(dst).problems == ()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def needed(source: PackSource, dst: Path) -> int:
    return StoreFiles(dst, source.layers, source.resident).missing_bytes()


def test_too_little_free_space_is_said_before_anything_is_written(
    tiny_mlx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst = tmp_path / "store"
    source = open_source(tiny_mlx)
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
    source = stop_at(open_source(tiny_mlx), 6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pack(source, dst)
    free = needed(source, dst) - 1
    assert free < 2 * LAYER_BYTES + source.resident_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    with pytest.raises(PackError, match="free disk"):
        pack(source, dst)
    free += 1
    assert pack(source, dst).layers_kept == 6
