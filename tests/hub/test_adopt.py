"""Adopting record files of the original Flash-MoE while the other weights are at the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flash_moe.cli.store import checks
from flash_moe.errors import ConfigError, CorruptFileError
from flash_moe.hub.pull import open_pull
from flash_moe.hub.repair import open_repair
from flash_moe.store.manifest import read_manifest
from flash_moe.store.verify import verify
from tests.hub.conftest import Checkpoints
from tests.support.directories import contents
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.pulls import REPO, SHARDS, opened, pull


@pytest.fixture
def packed(stores: Checkpoints, tmp_path: Path) -> Path:
    """``packed_experts`` with the records of the store of this checkpoint."""
    folder = tmp_path / "packed_experts"
    folder.mkdir()
    manifest = read_manifest(stores("mlx"))
    for entry in manifest.layers:
        data = (stores("mlx") / entry.file).read_bytes()
        (folder / f"layer_{entry.number:02d}.bin").write_bytes(data)
    table = manifest.layouts[0].to_json()
    table["expert_size"] = table.pop("record_bytes")
    table |= {"num_layers": len(manifest.layers), "num_experts": manifest.layers[0].n_experts}
    (folder / "layout.json").write_text(json.dumps(table))
    return folder


def test_only_the_other_weights_are_downloaded(
    hub: FakeHub,
    checkpoints: Checkpoints,
    stores: Checkpoints,
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flash_moe.hub.shards.GAP_BYTES", 0)
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "store"
    pull(dst, adopt=packed)
    ours, theirs = contents(dst), contents(stores("mlx"))
    assert {n: b for n, b in ours.items() if n != "flash_moe.json"} == {
        n: b for n, b in theirs.items() if n != "flash_moe.json"
    }
    assert verify(dst).problems == ()
    manifest = read_manifest(dst)
    assert manifest.source.kind == "flash-moe-original"
    assert "downloaded in ranges, for which the hub has no hashes" in checks(manifest)[0]
    file = dst / "experts" / "layer_001.bin"
    assert os.path.samefile(file, packed / "layer_01.bin")
    whole = sum(f.stat().st_size for f in checkpoints("mlx").glob(SHARDS))
    resident = (dst / "model.safetensors").stat().st_size
    assert hub.log.sent(SHARDS) < resident + 4 * 2 * 101_000 + 8 * 3000 < whole + 4 * 101_000


def test_a_damaged_record_of_an_adopted_store_is_repaired(
    hub: FakeHub, checkpoints: Checkpoints, packed: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "store"
    pull(dst, adopt=packed)
    before = contents(dst)
    with open(packed / "layer_02.bin", "r+b") as stream:
        stream.write(b"damaged")
    open_repair(dst, verify(dst).damaged).run()
    assert contents(dst) == before


def test_records_of_another_checkpoint(
    hub: FakeHub, checkpoints: Checkpoints, packed: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    size = (packed / "layer_03.bin").stat().st_size
    (packed / "layer_03.bin").write_bytes(bytes(size))
    with pytest.raises(CorruptFileError, match=r"layer_03\.bin: expert \d+: .* differs"):
        open_pull(REPO, tmp_path / "store", adopt=packed)
    with pytest.raises(ConfigError, match="keeps its bits"):
        opened(tmp_path / "store", adopt=packed, expert_bits=2)
