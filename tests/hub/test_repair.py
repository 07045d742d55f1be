"""Repairing a pulled store: only what is damaged is fetched, and the store is as it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from flash_moe.errors import CorruptFileError, HubError, ManifestError, PackError
from flash_moe.hub.incoming import INCOMING
from flash_moe.hub.metadata import fetch_metadata
from flash_moe.hub.repair import open_repair
from flash_moe.hub.repository import Repository
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.base import as_older_versions
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.verify import verify
from tests.hub.conftest import Checkpoints
from tests.support.directories import contents
from tests.support.formats import QWEN, write
from tests.support.hub.checkpoints import Kind
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.faults import Flip, Status
from tests.support.hub.pulls import REPO, SHARDS, opened, pull
from tests.support.processes import in_process

LAYER = "experts/layer_002.bin"
RECORD = 16384


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def repair(root: Path, on_progress: Callable[[str, int], None] | None = None) -> int:
    """Verify and repair; returns the bytes that were to be downloaded."""
    found = open_repair(root, verify(root).damaged)
    found.run(on_progress)
    return found.shards.download_bytes


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit of a record": lambda root: flip(root / LAYER, 3 * RECORD + 100),
    "a record file is cut": lambda root: os.truncate(root / LAYER, 5 * RECORD - 1),
    "a record file is gone": lambda root: (root / LAYER).unlink(),
    "a bit of the resident weights": lambda root: flip(root / "model.safetensors", -1),
    "the resident weights are gone": lambda root: (root / "model.safetensors").unlink(),
    "a side file is empty": lambda root: (root / "tokenizer.json").write_bytes(b""),
    "side files are gone": lambda root: [
        (root / name).unlink() for name in ("config.json", "flash_moe_model.py", "tokenizer.json")
    ],
    "a side file and a layer": lambda root: [
        flip(root / name, 9) for name in ("tokenizer_config.json", LAYER)
    ],
    "two layers": lambda root: [flip(root / "experts" / f"layer_00{n}.bin", 9) for n in (0, 3)],
    "all": lambda root: [flip(f, -1) for f in [*root.glob("experts/*"), *root.glob("model.s*")]],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_store_is_as_it_was(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "store"
    pull(root)
    before = contents(root)
    damage(root)
    assert verify(root).problems
    repair(root)
    assert contents(root) == before
    assert verify(root).problems == ()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("hf-fused", {}), ("hf-per-expert", {"bits": 8}), ("mlx", {"expert_bits": 2}),
     ("hf-fused", {"expert_bits": 3, "group_size": 32})],
)  # fmt: skip
def test_what_is_quantized_on_the_way(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, kind: Kind, options: dict[str, int]
) -> None:
    hub.add_commit(REPO, checkpoints(kind))
    root = tmp_path / "store"
    pull(root, **options)
    before = contents(root)
    flip(root / LAYER, 1000)
    flip(root / "model.safetensors", -1)
    repair(root)
    assert contents(root) == before


def test_only_what_is_needed_is_downloaded(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_moe.hub.shards.GAP_BYTES", 0)
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "store"
    pull(root)
    flip(root / LAYER, 0)
    layer = (root / LAYER).stat().st_size
    hub.log.clear()
    promised = repair(root)
    # The layer without padding, and headers.
    assert 0.9 * layer < promised < layer + 60_000
    headers = 4 * 101_000  # and redirects
    assert promised <= hub.log.sent(SHARDS) <= promised + headers


def test_a_stopped_repair_goes_on(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "store"
    pull(root)
    before = contents(root)
    DAMAGES["all"](root)

    def strike(what: str, n_bytes: int) -> None:
        if what == "layer 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(root, strike)
    with pytest.raises(ManifestError, match=r"is missing.*--repair"):
        read_manifest(root)
    repair(root)
    assert contents(root) == before


def test_a_hub_that_sends_other_bytes(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Of parts of a shard the hub's own hash says nothing; the checksums of the store do."""
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "store"
    pull(root)
    before = contents(root)
    (root / LAYER).unlink()
    found = open_repair(root, verify(root).damaged)
    for entry in {e for step in found.source.steps for e in step.entries}:
        hub.faults.add(Flip(pattern=entry.file.name, offset=entry.offset + 7, times=1))
    with pytest.raises(CorruptFileError, match="bytes that differ from the packed ones"):
        found.run()
    hub.faults.clear()
    assert verify(root).damaged == {LAYER}
    repair(root)
    assert contents(root) == before


def test_a_store_that_was_made_from_a_disk(store_copy: Path) -> None:
    (store_copy / "experts" / "layer_001.bin").unlink()
    with pytest.raises(PackError, match="not pulled from the hub"):
        repair(store_copy)


def test_a_repository_that_is_another_one_now(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "store"
    pull(root)
    flip(root / LAYER, 0)
    before = contents(root)
    name = "model-00001-of-00004.safetensors"
    hub.replace_file(REPO, name, (checkpoints("mlx") / name).read_bytes() + b"0")
    with pytest.raises((PackError, CorruptFileError)):
        repair(root)
    hub.faults.add(Status(status=404, times=None))
    with pytest.raises(HubError):
        repair(root)
    assert contents(root) == before


def test_the_command(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "store"
    pull(root)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return in_process("verify", root, *arguments)

    assert run("--repair").returncode == 0
    flip(root / LAYER, 4 * RECORD)
    found = run()
    assert found.returncode == 1
    assert "1 damaged" in found.stdout
    assert "layer 2, expert 4" in found.stderr
    mended = run("--repair")
    assert mended.returncode == 0, mended.stderr
    assert "1 files repaired" in mended.stdout
    assert run().stdout.strip().endswith("all sound")


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "left out"])
@pytest.mark.parametrize("older", [True, False], ids=["older", "new"])
def test_weights_that_mlx_lm_does_not_load(
    hub: FakeHub, tmp_path: Path, keep: bool, older: bool
) -> None:
    """Older versions wrote them with the others."""
    if older and keep:
        pytest.skip("older versions had no choice")
    vision = {"vision_tower.blocks.0.weight": mx.ones((64, 100))}
    path = write(tmp_path / "model", QWEN, lambda w: w | vision)
    hub.add_commit(REPO, path)
    root = tmp_path / "store"
    found = opened(root, keep=keep)
    source = found.source
    if older:
        checkpoint, _ = fetch_metadata(Repository(REPO), root / INCOMING)
        source = as_older_versions(source, checkpoint)
    pack(source, root, shards=found.shards)
    if older:
        manifest = json.loads((root / MANIFEST_FILE).read_text())
        del manifest["unused"]
        (root / MANIFEST_FILE).write_text(json.dumps(manifest))
    before = {n: b for n, b in contents(root).items() if n != MANIFEST_FILE}
    damaged = root / ("unused.safetensors" if keep else "model.safetensors")
    flip(damaged, -1)
    repair(root)
    assert {n: b for n, b in contents(root).items() if n != MANIFEST_FILE} == before
    assert verify(root).problems == ()
    assert (read_manifest(root).unused is None) == older
