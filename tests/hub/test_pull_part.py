"""Pulling a part: whole shards come, a slice of every expert stays."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flash_moe.errors import ManifestError, PackError
from flash_moe.hub.pull import pulled_already
from flash_moe.hub.repair import open_repair
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.store import slice_source
from flash_moe.store.manifest import read_manifest
from flash_moe.store.part import Part
from flash_moe.store.verify import verify
from tests.hub.conftest import Checkpoints
from tests.support.architectures import skip_on_old_mlx_lm
from tests.support.directories import contents
from tests.support.hub.checkpoints import KINDS, SMALL, Kind, write_checkpoint
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.pulls import REPO, pull, watching
from tests.support.processes import in_process

PART = Part(2, 2)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Checkpoints that mlx-lm divides by two."""
    root = tmp_path_factory.mktemp("divisible")
    geometry = replace(SMALL, expert_width=128, shared_width=128, linear_v_dim=64)

    def make(kind: Kind) -> Path:
        if not (root / kind).exists():
            write_checkpoint(root / kind, kind, 4, geometry=geometry)
        return root / kind

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_part_of_the_pulled_store(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, kind: Kind
) -> None:
    if kind == "hf-per-expert":
        skip_on_old_mlx_lm("shard() of qwen3_moe")
    hub.add_commit(REPO, checkpoints(kind))
    pull(tmp_path / "part", part=PART)
    pull(tmp_path / "whole")
    pack(slice_source(tmp_path / "whole", PART), tmp_path / "sliced")
    # The manifests too, so parts that were made in different ways fit together.
    assert contents(tmp_path / "part") == contents(tmp_path / "sliced")
    assert not verify(tmp_path / "part").problems


def test_the_disk_holds_the_part_and_two_shards(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "part"
    facts = json.loads(
        in_process("plan", REPO, "--no-measure", "--json", "--dst", dst, "--machines", 2).stdout
    )
    with watching(dst) as most:
        pull(dst, part=PART)
    store = sum(map(len, contents(dst).values()))
    # Blocks are larger than the small files, and the manifest comes last.
    assert most[-1] <= facts["disk"]["needed"] + 200_000
    assert abs(facts["disk"]["store"] - store) < 50_000


def test_a_part_is_repaired_from_the_hub(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    root = tmp_path / "part"
    pull(root, part=PART)
    before = contents(root)
    for name in ("experts/layer_001.bin", "model.safetensors"):
        os.truncate(root / name, 1000)
    open_repair(root, verify(root).damaged).run()
    assert contents(root) == before


def test_parts_by_the_name_of_the_repository(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "stores"
    monkeypatch.setenv("FLASH_MOE_STORES", str(places))
    hub.add_commit(REPO, checkpoints("mlx"))
    assert in_process("pull", REPO, "--part", "1/2").returncode == 0
    assert "complete already" in in_process("pull", REPO, "--part", "1/2").stdout
    first = places / "org--model--part-1-of-2"
    with pytest.raises(PackError, match="complete store of part 1/2"):
        pulled_already(REPO, first, part=PART)
    # A part is found by its name, and refused with the reason.
    assert "all sound" in in_process("verify", REPO).stdout
    with pytest.raises(ManifestError, match="expected a whole model, got part 1/2"):
        load(REPO)
    assert in_process("pull", REPO, "--part", "2/2").returncode == 0
    assert resolve(REPO, part=Part(1, 2)) == first
    assert resolve(REPO, part=PART) == places / "org--model--part-2-of-2"
    assert resolve(places / "org--model", part=PART) == places / "org--model--part-2-of-2"
    assert len({read_manifest(path).whole for path in places.iterdir()}) == 1
    assert in_process("pull", REPO).returncode == 0
    assert resolve(REPO) == places / "org--model"
    assert resolve(REPO, part=PART) == places / "org--model--part-2-of-2"
    rows = json.loads(in_process("ls", "--json").stdout)
    assert [row["part"] for row in rows] == [None, "1/2", "2/2"]
    listed = in_process("ls", columns=200).stdout
    assert "PART" in listed
    assert "2/2" in listed
