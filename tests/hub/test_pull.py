"""Pulling from a hub: the store of a local pack, on a disk that holds it and two shards."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download

from flash_moe.errors import ConfigError, HubError, PackError, UnsupportedModelError
from flash_moe.hub.local_stores import disk_bytes
from flash_moe.hub.pull import open_pull
from flash_moe.hub.shards import HubShards, peak_disk
from flash_moe.pack.packer import pack
from flash_moe.store.manifest import PARTIAL_FILE, read_manifest
from flash_moe.store.verify import verify
from tests.hub.conftest import Checkpoints
from tests.support.directories import contents, differences
from tests.support.hub.checkpoints import KINDS, Kind
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.pulls import REPO, SHARDS, opened, pull, watching

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


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("mlx", {"max_shards": 1}, 1),
        ("mlx", {"max_shards": 2}, 2),
        ("mlx", {"max_shards": 3}, 3),
        ("mlx", {"max_shards": 1, "expert_bits": 2}, 4),
        ("mlx", {"max_shards": 2, "expert_bits": 2}, 4),
        ("hf-fused", {"max_shards": 1}, 1),
        ("hf-fused", {"max_shards": 2, "expert_bits": 3}, 2),
        ("hf-per-expert", {"max_shards": 1}, 1),
        ("hf-per-expert", {"max_shards": 2}, 2),
    ],
)
def test_the_disk_holds_the_store_and_so_many_shards(
    hub: FakeHub,
    checkpoints: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    options: dict[str, Any],
    expected: int,
) -> None:
    """As many as were counted beforehand, and no more than that of disk."""
    hub.add_commit(REPO, checkpoints(kind))
    dst, held, most_held, whole = tmp_path / "pulled", set(), [0], HubShards.release

    def get(self: HubShards, shard: Path) -> None:
        held.add(shard)
        most_held.append(max(most_held[-1], len(held)))
        _get(self, shard)

    def release(self: HubShards, shard: Path) -> None:
        whole(self, shard)
        held.discard(shard)

    _get = HubShards._get
    monkeypatch.setattr(HubShards, "_get", get)
    monkeypatch.setattr(HubShards, "release", release)
    found = opened(dst, **options)
    n_shards, n_bytes = found.shards.peak_disk(found.source)
    assert n_shards == expected
    with watching(dst) as most:
        pack(found.source, dst, shards=found.shards)
    assert most_held[-1] <= n_shards
    assert most_held[-1] == expected
    # The small files are there twice for a moment.
    small = sum(f.stat().st_size + BLOCK for f in checkpoints(kind).glob("*.js*"))
    assert most[-1] <= disk_bytes(dst) + n_bytes + n_shards * BLOCK + small
    assert most[-1] > disk_bytes(dst)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("max_shards", [1, 2, 3])
def test_what_is_held_is_foreseen(seed: int, max_shards: int) -> None:
    """The taking of shards as ``ready`` does it, in any order of arrival, against the count."""
    draw = random.Random(seed)
    order = [Path(f"{n}") for n in range(draw.randint(1, 8))]
    sizes = {shard: draw.randint(1, 9) for shard in order}
    steps = [
        SimpleNamespace(shards=frozenset(draw.sample(order, draw.randint(1, min(3, len(order))))))
        for _ in range(draw.randint(1, 8))
    ]
    needed = set().union(*(step.shards for step in steps))
    order = [shard for shard in order if shard in needed]
    count, n_bytes = peak_disk(steps, order, max_shards, sizes)  # type: ignore[arg-type]
    seen = []
    for _ in range(10):
        queue, coming, here, done = list(order), [], set(), set()
        while queue or coming:
            while queue and (len(coming) + len(here) < max_shards or not coming):
                coming.append(queue.pop(0))
                now = {*coming, *here}
                seen.append((len(now), sum(sizes[shard] for shard in now)))
            here.add(coming.pop(draw.randrange(len(coming))))
            done |= {n for n, step in enumerate(steps) if step.shards <= here}
            left = [step for n, step in enumerate(steps) if n not in done]
            here -= here - set().union(*(step.shards for step in left))
    assert max(n for n, _ in seen) == count
    assert max(n for _, n in seen) <= n_bytes


def test_a_disk_that_is_too_small_for_what_is_held(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    found = opened(tmp_path / "pulled", expert_bits=2)
    sizes = sorted(f.stat().st_size for f in checkpoints("mlx").glob(SHARDS))
    store = found.source.expert_bytes + found.source.resident_bytes
    usage = SimpleNamespace(free=store + sum(sizes[-2:]) + 50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PackError, match="free disk"):
        pack(found.source, tmp_path / "pulled", shards=found.shards)


def test_progress_adds_up(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    downloaded: list[int] = []
    packed: list[int] = []
    found = open_pull(REPO, tmp_path / "pulled", on_bytes=downloaded.append)
    pack(found.source, tmp_path / "pulled", lambda w, n: packed.append(n), shards=found.shards)
    assert sum(downloaded) == found.shards.download_bytes
    assert sum(packed) == found.source.n_bytes


def test_progress_of_a_continued_pull_adds_up(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Shards that are done are neither downloaded nor counted."""
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "pulled"
    first = open_pull(REPO, dst, max_shards=1)
    done: list[Path] = []

    def release(self: HubShards, shard: Path) -> None:
        done.append(shard)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HubShards, "release", release)
        with pytest.raises(KeyboardInterrupt):
            pack(first.source, dst, shards=first.shards)
    downloaded: list[int] = []
    found = open_pull(REPO, dst, on_bytes=downloaded.append)
    assert 0 < found.download_bytes < first.download_bytes / 2
    pack(found.source, dst, shards=found.shards)
    assert sum(downloaded) == found.download_bytes


def test_a_damaged_shard_in_the_cache_of_the_hub_is_named(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    name = "model-00002-of-00004.safetensors"
    cache = constants.HF_HUB_CACHE
    cached = Path(hf_hub_download(REPO, name, revision=commit, endpoint=hub.url, cache_dir=cache))
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.resolve().write_bytes(content)
    with pytest.raises(HubError) as caught:
        pull(tmp_path / "pulled")
    assert f"{cached} in the hub's local cache is damaged" in str(caught.value)
    cached.resolve().unlink()
    pull(tmp_path / "pulled")
    assert differences(tmp_path / "pulled", stores("mlx")) == []


def test_shards_of_which_nothing_is_needed_are_not_downloaded(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder = Path(shutil.copytree(checkpoints("mlx"), tmp_path / "more"))
    (folder / "model.safetensors.index.json").unlink()
    extra = {"vision_tower.fc.weight": np.ones((512, 512), np.float32)}
    save_file(extra, folder / "model-vision.safetensors")
    hub.add_commit(REPO, folder)
    pull(tmp_path / "pulled")
    assert differences(tmp_path / "pulled", stores("mlx")) == []
    assert hub.log.sent("model-vision.safetensors") <= 2 * 100_000


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
    with pytest.raises(PackError, match="with other settings"):
        pull(dst, expert_bits=2)
    assert contents(dst).keys() == before.keys()
    pull(dst)
    with pytest.raises(PackError, match="is already a complete store"):
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


@pytest.mark.parametrize(
    "options", [{"max_shards": 0}, {"max_shards": 1000}, {"bits": 4}, {"expert_bits": 7}]
)
def test_options_that_are_refused(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, options: dict[str, Any]
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    with pytest.raises(ConfigError):
        opened(tmp_path / "pulled", **options)
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
