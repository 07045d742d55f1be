"""Pulling from a hub: the store of a local pack, on a disk that holds it and two shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download

from flash_moe.errors import ConfigError, HubError, PackError, UnsupportedModelError
from flash_moe.pull import open_pull
from flash_moe.store.manifest import PARTIAL_FILE, read_manifest
from flash_moe.store.packer import pack
from flash_moe.store.verify import verify
from flash_moe.stores import disk_bytes

from .checkpoints import KINDS, Kind
from .conftest import Checkpoints
from .fake_hub import FakeHub
from .pulling import REPO, SHARDS, contents, differences, pull, watching

BLOCK = 4096


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_is_that_of_a_local_pack(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path, kind: Kind
) -> None:
    folder, dst = checkpoints(kind), tmp_path / "pulled"
    commit = hub.add_commit(REPO, folder)
    pull(dst)
    assert differences(dst, stores(kind)) == []
    assert verify(dst).problems == ()
    ours, theirs = read_manifest(dst), read_manifest(stores(kind))
    assert (ours.layers, ours.resident) == (theirs.layers, theirs.resident)
    assert (ours.source.kind, ours.source.name, ours.source.revision) == (
        theirs.source.kind, REPO, commit,
    )  # fmt: skip
    names = sorted(f.name for f in folder.glob(SHARDS))
    assert [f.name for f in ours.source.files] == names
    for file in ours.source.files:
        assert file.sha256 == hub.entry(REPO, file.name).sha256
        # Once for the header, once whole.
        assert file.n_bytes <= hub.log.sent(file.name) < file.n_bytes + 150_000


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_disk_holds_the_store_and_so_many_shards(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path, jobs: int
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    shards = [f.stat().st_size + BLOCK for f in checkpoints("mlx").glob(SHARDS)]
    with watching(tmp_path / "pulled") as most:
        pull(tmp_path / "pulled", jobs=jobs)
    # The small files are there twice for a moment.
    small = sum(f.stat().st_size + BLOCK for f in checkpoints("mlx").glob("*.js*"))
    assert most[-1] <= disk_bytes(stores("mlx")) + jobs * max(shards) + small
    assert most[-1] > disk_bytes(stores("mlx"))


def test_progress_adds_up(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    downloaded: list[int] = []
    packed: list[int] = []
    found = open_pull(REPO, tmp_path / "pulled", on_bytes=downloaded.append)
    pack(found.source, tmp_path / "pulled", lambda w, n: packed.append(n), shards=found.shards)
    assert sum(downloaded) == found.shards.download_bytes
    assert sum(packed) == found.source.n_bytes


def test_shards_of_which_nothing_is_needed_are_not_downloaded(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder = Path(shutil.copytree(checkpoints("mlx"), tmp_path / "more"))
    (folder / "model.safetensors.index.json").unlink()
    extra = {"mtp.fc.weight": np.ones((512, 512), np.float32)}
    save_file(extra, folder / "model-mtp.safetensors")
    hub.add_commit(REPO, folder)
    pull(tmp_path / "pulled")
    assert differences(tmp_path / "pulled", stores("mlx")) == []
    assert hub.log.sent("model-mtp.safetensors") <= 2 * 100_000


def test_a_shard_in_the_cache_of_the_hub_is_used_and_kept(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    name = "model-00002-of-00004.safetensors"
    cached = Path(
        hf_hub_download(
            REPO, name, revision=commit, endpoint=hub.url, cache_dir=constants.HF_HUB_CACHE
        )
    )
    hub.log.clear()
    pull(tmp_path / "pulled")
    assert differences(tmp_path / "pulled", stores("mlx")) == []
    assert hub.log.sent(name) == 0
    assert cached.exists()


def test_expert_bits_from_the_original(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("hf-fused"))
    pull(tmp_path / "pulled", expert_bits=3)
    manifest = read_manifest(tmp_path / "pulled")
    (layout,) = manifest.layouts
    assert {q.bits for p in ("gate_proj", "up_proj", "down_proj") if (q := layout.quantization(p))}
    assert all(0.001 < e < 0.1 for layer in manifest.layers for e in (layer.error or {}).values())
    assert all(layer.error and len(layer.error) == 3 for layer in manifest.layers)


def test_a_moved_branch_does_not_move_a_pull_that_began(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    begun = hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "pulled"

    def strike(what: str, n_bytes: int) -> None:
        if what == "layer 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(dst, strike)
    assert hub.add_commit(REPO, checkpoints("hf-fused")) != begun
    pull(dst)
    assert differences(dst, stores("mlx")) == []
    assert read_manifest(dst).source.revision == begun


def test_another_repository_or_revision_does_not_continue(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    hub.add_tag(REPO, "v1")
    dst = tmp_path / "pulled"
    with pytest.raises(KeyboardInterrupt):
        pull(dst, _interrupt)
    before = contents(dst)
    with pytest.raises(PackError, match="partial store of org/model at main, not of other/model"):
        open_pull("other/model", dst)
    with pytest.raises(PackError, match="not of org/model at v1"):
        open_pull(REPO, dst, revision="v1")
    with pytest.raises(PackError, match="of other settings"):
        pull(dst, expert_bits=2)
    assert contents(dst).keys() == before.keys()
    pull(dst)
    with pytest.raises(PackError, match="already is a complete store"):
        pull(dst)


def _interrupt(what: str, n_bytes: int) -> None:
    raise KeyboardInterrupt


def test_revisions_and_tags(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    hub.add_tag(REPO, "v1")
    hub.add_commit(REPO, checkpoints("hf-fused"))
    pull(tmp_path / "pulled", revision="v1")
    assert differences(tmp_path / "pulled", stores("mlx")) == []
    with pytest.raises(HubError, match="no such revision"):
        open_pull(REPO, tmp_path / "other", revision="v2")


@pytest.mark.parametrize("options", [{"jobs": 0}, {"jobs": 1000}, {"bits": 4}, {"expert_bits": 7}])
def test_options_that_are_refused(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, options: dict[str, Any]
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    with pytest.raises(ConfigError):
        open_pull(REPO, tmp_path / "pulled", **options)
    assert not (tmp_path / "pulled" / PARTIAL_FILE).exists()


def test_a_repository_without_weights(
    hub: FakeHub, tmp_path: Path, checkpoints: Checkpoints
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(checkpoints("mlx") / "config.json", folder)
    hub.add_commit(REPO, folder)
    with pytest.raises(UnsupportedModelError, match=r"no model\*\.safetensors"):
        open_pull(REPO, tmp_path / "pulled")


@pytest.mark.parametrize("name", ["", "a/b/c", "../up", "org/"])
def test_names_that_are_none(hub: FakeHub, tmp_path: Path, name: str) -> None:
    with pytest.raises(HubError, match="repository"):
        open_pull(name, tmp_path / "pulled")
