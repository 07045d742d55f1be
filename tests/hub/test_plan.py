"""Plans of repositories: from headers alone, and as the pull then turns out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download

from flash_moe.cli import main
from flash_moe.errors import HubError, NotMoEError, PackError, UnsupportedModelError
from flash_moe.hub.local_stores import disk_bytes
from flash_moe.hub.metadata import auxiliary_files
from flash_moe.hub.pull import open_pull
from flash_moe.hub.repository import Repository
from flash_moe.plan import planned as module
from flash_moe.plan.planned import Planned, plan_repository, plan_store
from flash_moe.plan.report import resident_kinds
from flash_moe.plan.this_machine import shape_of
from flash_moe.store.manifest import read_manifest
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.testing import PRESETS
from tests.hub.conftest import Checkpoints
from tests.support.hub.checkpoints import KINDS, Kind
from tests.support.hub.empty_checkpoints import write_empty_hf, write_empty_mlx
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.pulls import REPO, SHARDS, pull, watching

GB = 10**9
FULL = PRESETS["full"]


def disk_of(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    """Give the disk so many bytes, whatever this machine has."""
    usage = SimpleNamespace(free=int(free))
    monkeypatch.setattr(module, "shutil", SimpleNamespace(disk_usage=lambda path: usage))


def small_bytes() -> int:
    return sum(file.n_bytes for file in auxiliary_files(Repository(REPO)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_is_what_the_pull_makes(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, kind: Kind
) -> None:
    commit = hub.add_commit(REPO, checkpoints(kind))
    dst = tmp_path / "pulled"
    before = plan_repository(REPO, dst)
    assert not dst.exists()
    assert (before.name, before.commit, before.state) == (REPO, commit, "absent")
    assert before.disk.download == open_pull(REPO, dst).shards.download_bytes + small_bytes()
    shutil.rmtree(dst)  # small files
    with watching(dst) as most:
        pull(dst)
    after = plan_store(dst)
    assert (after.name, after.commit, after.state) == (REPO, commit, "complete")
    assert (after.kind, after.layers) == (before.kind, before.layers)
    assert sorted(map(repr, after.resident)) == sorted(map(repr, before.resident))
    assert shape_of(after) == shape_of(before)
    assert resident_kinds(after) == resident_kinds(before)
    weights = sum(f.stat().st_size for p in ("experts/*", SHARDS) for f in dst.glob(p))
    assert before.disk.store - small_bytes() == weights
    # Manifest, journal and config are written too, and files take whole blocks.
    assert most[-1] <= before.disk.needed + 400_000
    assert most[-1] > before.disk.store
    assert before.disk.needed - before.disk.store <= 2 * max(
        file.stat().st_size for file in checkpoints(kind).glob(SHARDS)
    )


@pytest.mark.parametrize(
    ("kind", "asked", "bits"),
    [
        ("mlx", QuantizationConfig(expert_bits=2), 2),
        ("hf-fused", QuantizationConfig(bits=8, group_size=32), 8),
        ("hf-per-expert", QuantizationConfig(expert_bits=3), 3),
    ],
)
def test_bits_are_those_of_the_store(
    hub: FakeHub,
    checkpoints: Checkpoints,
    tmp_path: Path,
    kind: Kind,
    asked: QuantizationConfig,
    bits: int,
) -> None:
    hub.add_commit(REPO, checkpoints(kind))
    before = plan_repository(REPO, tmp_path / "pulled", quantization=asked)
    q = before.layers[0].layout.quantization("down_proj")
    assert q is not None
    assert q.bits == bits
    assert before.from_bits == ((4,) if kind == "mlx" else ())
    pull(tmp_path / "pulled", **vars(asked))
    after = plan_store(tmp_path / "pulled")
    assert after.layers == before.layers
    assert resident_kinds(after) == resident_kinds(before)


def test_only_headers_and_the_config_are_fetched(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = checkpoints("mlx")
    hub.add_commit(REPO, folder)
    plan_repository(REPO, tmp_path / "pulled")
    fetched = {r.path for r in hub.log.requests() if not r.path.startswith("/api/")}
    shards = {file.name for file in folder.glob(SHARDS)}
    assert fetched == {"config.json", "model.safetensors.index.json", *shards}
    assert all(hub.log.sent(name) <= 100_000 + 200 for name in shards)  # and the redirect


def test_the_rest_of_a_stopped_pull(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> None:
    begun = hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "pulled"
    whole = plan_repository(REPO, dst)

    def strike(what: str, n_bytes: int) -> None:
        if what == "layer 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(dst, strike)
    hub.add_commit(REPO, checkpoints("hf-fused"))
    rest = plan_repository(REPO, dst)
    assert (rest.state, rest.commit) == ("partial", begun)
    assert rest.disk.download < whole.disk.download
    assert rest.disk.needed < whole.disk.needed
    assert rest.disk.store == whole.disk.store
    hub.log.clear()
    pull(dst)
    sent = hub.log.sent(SHARDS)
    small = small_bytes()
    # The headers come a second time.
    assert rest.disk.download - small <= sent <= rest.disk.download - small + 4 * 101_000
    with pytest.raises(PackError, match="is already a complete store"):
        plan_repository(REPO, dst)


def test_a_partial_store_of_other_settings_is_refused(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))

    def strike(what: str, n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(tmp_path / "pulled", strike)
    with pytest.raises(PackError, match="with other settings"):
        plan_repository(REPO, tmp_path / "pulled", quantization=QuantizationConfig(expert_bits=2))
    with pytest.raises(PackError, match="not of other/model"):
        plan_repository("other/model", tmp_path / "pulled")


def test_shards_in_the_cache_of_the_hub_are_not_counted(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    name = "model-00002-of-00004.safetensors"
    whole = plan_repository(REPO, tmp_path / "pulled").disk.download
    hf_hub_download(REPO, name, revision=commit, endpoint=hub.url, cache_dir=constants.HF_HUB_CACHE)
    left = plan_repository(REPO, tmp_path / "pulled").disk.download
    assert whole - left == hub.entry(REPO, name).size


def test_what_cannot_be_planned(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> None:
    for name, change, error in (
        ("org/dense", {"num_experts": 0}, NotMoEError),
        ("org/new", {"model_type": "qwen99_moe"}, UnsupportedModelError),
    ):
        folder = Path(shutil.copytree(checkpoints("mlx"), tmp_path / name.replace("/", "-")))
        config = json.loads((folder / "config.json").read_text())
        config["text_config"].update({k: v for k, v in change.items() if k == "num_experts"})
        config.update({k: v for k, v in change.items() if k == "model_type"})
        (folder / "config.json").write_text(json.dumps(config))
        hub.add_commit(name, folder)
        with pytest.raises(error):
            plan_repository(name, tmp_path / "pulled")
    hub.add_commit(REPO, checkpoints("mlx"))
    with pytest.raises(HubError, match="no such revision"):
        plan_repository(REPO, tmp_path / "pulled", revision="v9")
    with pytest.raises(HubError, match="no such repository"):
        plan_repository("org/none", tmp_path / "pulled")
    hub.gate(REPO, "secret")
    with pytest.raises(HubError, match="gated"):
        plan_repository(REPO, tmp_path / "pulled")


@pytest.fixture
def full(hub: FakeHub, tmp_path: Path) -> str:
    """The 397B at the hub, as far as headers go: 223 GB in 46 shards that take a megabyte here."""
    folder = write_empty_mlx(tmp_path / "full", FULL)
    assert len(list(folder.glob(SHARDS))) == 46
    assert disk_bytes(folder) < 30_000_000
    return hub.add_commit(REPO, folder, sparse=True)


def check_full(plan: Planned) -> None:
    """docs/store-format.md and docs/performance.md have these figures."""
    shape = shape_of(plan)
    assert len(shape.layers) == 60
    assert {layer.layout.record_bytes for layer in shape.layers} == {7_077_888}
    assert shape.expert_bytes == 217_432_719_360
    assert shape.token_bytes == 4_246_732_800
    assert sum(tensor.n_bytes for tensor in plan.resident) == pytest.approx(5.579e9, rel=1e-4)
    kinds = resident_kinds(plan)
    assert list(kinds) == ["4-bit, group 64", "8-bit, group 64", "BF16", "F32"]
    assert sum(kinds.values()) == sum(tensor.n_bytes for tensor in plan.resident)
    # All but the table of which a token needs one row; on a CPU its scales are float32.
    assert shape.resident_bytes - shape.touched_bytes in (572_129_280, 635_699_200)


def test_the_full_shape(
    hub: FakeHub, full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_of(monkeypatch, 300 * GB)
    plan = plan_repository(REPO, tmp_path / "pulled")
    check_full(plan)
    assert plan.commit == full
    assert plan.disk.download == pytest.approx(223.03 * GB, rel=1e-3)
    assert plan.disk.store == pytest.approx(223.03 * GB, rel=1e-3)
    assert 2 * 4.5 * GB < plan.disk.needed - plan.disk.store <= 2 * 5.4 * GB
    assert plan.disk.fits
    assert plan.smaller == ()
    # Repository, its files, config and index; a shard is asked for at the hub and at its CDN.
    assert len(hub.log.requests()) == 4 + 2 * 46
    assert hub.log.sent() < 46 * 101_000 + 1_000_000
    assert hub.log.sent("tokenizer*") == 0


def test_the_original_of_a_larger_model(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantized on the way, to what mlx-lm's converter makes of it."""
    disk_of(monkeypatch, 300 * GB)
    four = replace(PRESETS["mid"], layers=4, scale_dtype="bfloat16")
    hub.add_commit(REPO, write_empty_hf(tmp_path / "hf", four), sparse=True)
    hub.add_commit("org/mlx", write_empty_mlx(tmp_path / "mlx", four), sparse=True)
    plan = plan_repository(REPO, tmp_path / "pulled")
    ours, theirs = shape_of(plan), shape_of(plan_repository("org/mlx", tmp_path / "other"))
    assert plan.kind == "hf"
    assert ours == theirs
    names = {r.path for r in hub.log.requests(SHARDS)}
    assert hub.log.sent(SHARDS) < 2 * len(names) * 101_000


def test_fewer_bits_from_tensors_in_any_order_hold_many_shards(
    full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_of(monkeypatch, 300 * GB)
    few = plan_repository(REPO, tmp_path / "pulled", quantization=QuantizationConfig(expert_bits=2))
    assert 30 < few.disk.shards <= 46
    assert few.disk.needed > few.disk.store + 150 * GB
    assert not few.disk.fits


def test_a_disk_that_is_too_small(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = replace(FULL, layers=12)
    hub.add_commit(REPO, write_empty_mlx(tmp_path / "part", part, in_order=True), sparse=True)
    dst = tmp_path / "pulled"
    words = ["plan", REPO, "--dst", str(dst), "--no-measure"]
    for free, bits, command in (
        (60, None, f"flash-moe pull {REPO} {dst}"),
        (53, 3, f"flash-moe pull {REPO} {dst} --expert-bits 3"),
        (43, 2, f"flash-moe pull {REPO} {dst} --expert-bits 2"),
        (20, None, None),
    ):
        disk_of(monkeypatch, free * GB)
        assert main([*words, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["disk"]["fits"] == (free == 60)
        assert facts["disk"]["free"] == free * GB
        reasons = " ".join(facts["verdict"]["reasons"])
        if free < 60:
            lacks = facts["disk"]["needed"] / 1e9 - free
            assert f"lacks {lacks:.1f} GB" in reasons or f"lacks {lacks:.3g} GB" in reasons
            assert facts["verdict"]["fits"] is False
        if facts["verdict"]["fits"] or free < 60:
            assert facts["verdict"]["shell"] == command
        assert (f"With --expert-bits {bits} it fits" in reasons) == (bits is not None)
    assert "Even with --expert-bits 2 it takes 3" in reasons


def test_the_command_says_where_the_pull_goes(
    hub: FakeHub,
    checkpoints: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    monkeypatch.setenv("FLASH_MOE_STORES", str(tmp_path / "stores"))

    def facts(*words: str) -> dict[str, Any]:
        assert main(["plan", REPO, *words, "--no-measure", "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    options = ["--revision", "main", "--expert-bits", "2"]
    before = facts(*options)
    assert before["verdict"]["command"] == ["flash-moe", "pull", REPO, *options]
    assert main(before["verdict"]["command"][1:]) == 0
    capsys.readouterr()
    after = facts(*options)
    store = Path(before["disk"]["path"])
    assert read_manifest(store).source.name == REPO
    assert (before["state"], after["state"]) == ("absent", "complete")
    assert after["disk"]["path"] == str(store)
    assert after["verdict"]["command"][:3] == ["flash-moe", "generate", str(store)]
    for same in ("expert_bytes", "resident_bytes", "quantization", "budgets", "record_bytes"):
        if same != "budgets":  # what is available now moves
            assert after[same] == before[same]
    assert before["requantized_from_bits"] == [4]
    assert facts()["state"] == "absent"  # without the options it is another store
