"""Pulled stores where nobody names a place: found by ``load()``, listed, removed."""

from __future__ import annotations

import json
import os
import pty
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flash_moe import load
from flash_moe.errors import ConfigError, ModelNotFoundError, PackError
from flash_moe.files.lock import locked
from flash_moe.hub import local_stores
from flash_moe.hub.local_stores import default_store, list_stores
from flash_moe.hub.pull import working_on
from flash_moe.hub.resolve import find_store
from flash_moe.store.quantization import QuantizationConfig
from tests.hub.conftest import Checkpoints
from tests.support.directories import contents
from tests.support.hub.checkpoints import SMALL
from tests.support.hub.client import hub_environment
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.faults import Status
from tests.support.hub.pulls import REPO, SHARDS, pull
from tests.support.processes import COMMAND, in_process


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FLASH_MOE_STORES", str(tmp_path / "stores"))
    return tmp_path / "stores"


def test_pull_load_list_and_remove(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    with pytest.raises(
        ModelNotFoundError, match=r"flash-moe pull org/model \(about [\d.]+ MB of disk"
    ):
        load(REPO)
    out = in_process("pull", REPO)
    assert out.returncode == 0, out.stderr
    assert str(places / "org--model") in out.stdout
    with load(REPO, cache_gb=0.1) as model:
        assert model.model.config.n_experts == SMALL.experts
    with pytest.raises(ModelNotFoundError, match="--revision v9"):
        load(REPO, revision="v9")
    listed = in_process("ls", columns=200).stdout
    for word in ("org--model", REPO, commit[:12], "complete", "1 in"):
        assert word in listed
    (row,) = json.loads(in_process("ls", "--json").stdout)
    assert row["disk_bytes"] > 500_000
    assert in_process("rm", REPO).returncode == 2  # nobody to ask
    assert places.joinpath("org--model").exists()
    out = in_process("rm", REPO, "--yes")
    assert out.stdout.startswith("deleted")
    assert not places.joinpath("org--model").exists()
    assert "no stores" in in_process("ls", columns=200).stderr


def test_load_of_what_is_not_pulled_does_not_wait(
    hub: FakeHub, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    monkeypatch.setattr("flash_moe.hub.retry._report", lambda error, wait: pytest.fail("waited"))
    for pattern in ("config.json", "/api/*"):
        hub.faults.add(Status(pattern=pattern, status=429, retry_after=4, times=None))
        with pytest.raises(ModelNotFoundError, match=r"pull org/model \(details: flash-moe plan"):
            load(REPO)
        hub.faults.clear()


def test_verify_and_info_take_the_name(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    assert in_process("pull", REPO, "--expert-bits", 3).returncode == 0
    assert "all sound" in in_process("verify", REPO).stdout
    said = in_process("info", REPO).stdout
    assert "3-bit affine" in said
    assert "quantization error" in said
    facts = json.loads(in_process("info", REPO, "--json").stdout)
    assert len(facts["quantization_error"]) == SMALL.layers
    assert 0.01 < facts["quantization_error"][0]["down_proj"] < 0.5


def test_requantizing_says_what_it_costs(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    err = in_process("pull", REPO, "--expert-bits", 2).stderr
    assert "warning: the experts are quantized to 4 bits already" in err
    assert default_store(REPO, QuantizationConfig(expert_bits=2)).is_dir()
    assert (places / "org--model--expert-bits-2").is_dir()


@pytest.mark.parametrize("absolute", [True, False])
def test_removing_a_link_removes_the_store_behind_it(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path, absolute: bool
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(tmp_path / "other" / "disk")
    places.mkdir()
    target = tmp_path / "other" / "disk" if absolute else Path("../other/disk")
    (places / "org--model").symlink_to(target)
    assert find_store(REPO) == places / "org--model"
    out = in_process("rm", REPO, "--yes")
    assert out.returncode == 0, out.stderr
    assert str(tmp_path / "other" / "disk") in out.stdout
    assert not os.path.lexists(places / "org--model")
    assert not (tmp_path / "other" / "disk").exists()


def test_the_revision_that_was_asked_for(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    other = hub.add_commit(REPO, checkpoints("hf-fused"), "dev")
    assert in_process("pull", REPO).returncode == 0
    for revision in (None, "main", commit):
        assert find_store(REPO, revision) == places / "org--model"
    assert find_store(REPO, "dev") is None
    said = f"at main, commit {commit}.*flash-moe pull org/model DST --revision dev"
    with pytest.raises(ModelNotFoundError, match=said):
        load(REPO, revision="dev")
    again = in_process("pull", REPO, "--revision", "dev")
    assert again.returncode == 1
    assert f"commit {commit[:12]} (main), and dev is now {other[:12]}" in again.stderr
    assert "Name another directory" in again.stderr
    assert in_process("pull", REPO, tmp_path / "d", "--revision", "dev").returncode == 0


def test_a_complete_store_is_pulled_again(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    assert in_process("pull", REPO).returncode == 0
    before = contents(places)
    hub.log.clear()
    for options in ([], ["--revision", "main"], ["--revision", commit]):
        again = in_process("pull", REPO, *options)
        assert again.returncode == 0, again.stderr
        assert f"complete already, from {REPO} at {commit[:12]}" in again.stdout
    assert hub.log.sent(SHARDS) == 0
    dst = places / "org--model"
    for arguments in (["org/other", dst], [REPO, dst, "--expert-bits", 2]):
        out = in_process("pull", *arguments)
        assert out.returncode == 1
        assert "is already a complete store of" in out.stderr
    hub.add_commit(REPO, checkpoints("hf-fused"))
    out = in_process("pull", REPO)
    assert out.returncode == 1
    assert "and main is" in out.stderr
    assert contents(places) == before


def test_a_refused_pull_leaves_nothing(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "dense"
    shutil.copytree(checkpoints("mlx"), dense)
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    (dense / "config.json").write_text(json.dumps(config))
    hub.add_commit("org/dense", dense)
    hub.add_commit(REPO, checkpoints("mlx"))
    hub.log.clear()
    no_shards = [REPO, "--max-shards", "0"]
    for words in (["org/dense"], [REPO, "--expert-bits", "7"], ["org/none"], no_shards):
        out = in_process("pull", *words)
        assert out.returncode == 1, out.stdout
        assert not places.exists()
    assert hub.log.sent(SHARDS) == 0
    assert hub.log.sent("tokenizer.json") == 0


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("command", ["pull", "pack"])
def test_a_folder_of_somebody_elses_is_left_alone(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, command: str, beside: bool
) -> None:
    """Pulls have a folder of this name, and delete it when they are done."""
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = tmp_path / "mine"
    (dst / "incoming").mkdir(parents=True)
    (dst / "incoming" / "photo.jpg").write_text("precious")
    if beside:
        (dst / "letter.txt").write_text("dear")
    source = REPO if command == "pull" else str(checkpoints("mlx"))
    out = in_process(command, source, str(dst))
    assert out.returncode == 1
    assert "empty directory" in out.stderr
    assert (dst / "incoming" / "photo.jpg").read_text() == "precious"
    assert len(list(dst.rglob("*"))) == 2 + beside


def test_a_disk_that_is_too_small_keeps_nothing(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    usage = SimpleNamespace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PackError, match="free disk"), working_on(places / "store"):
        pull(places / "store")
    assert not places.exists()


def test_one_at_a_time(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, places: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = places / "org--model"
    busy = f"another flash-moe process uses {dst}"
    with locked(dst):
        for words in (["pull", REPO], ["pack", checkpoints("mlx"), dst]):
            out = in_process(*words)
            assert out.returncode == 1
            assert busy in out.stderr
    assert not places.exists()
    assert in_process("pull", REPO).returncode == 0
    before = contents(dst)
    (dst / "experts" / "layer_000.bin").write_bytes(b"")
    with locked(dst):
        for words in (["rm", "org--model", "--yes"], ["verify", REPO, "--repair"]):
            out = in_process(*words)
            assert out.returncode == 1
            assert busy in out.stderr
    assert "experts/layer_000.bin" in contents(dst)
    assert in_process("verify", dst, "--repair").returncode == 0
    assert contents(dst) == before


def test_stores_are_found_while_others_are_written(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that go away between the listing of a directory and the look at them."""
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(places / "one")
    pull(places / "half")
    (places / "half" / "flash_moe.json").rename(places / "half" / "flash_moe.partial.json")
    walk = os.walk

    def losing(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, below, names in walk(top):
            yield folder, below, [*names, "gone.tmp"]

    monkeypatch.setattr(os, "walk", losing)
    assert [s.path.name for s in list_stores()] == ["half", "one"]
    monkeypatch.setattr(local_stores, "disk_bytes", lambda path: pytest.fail("measured"))
    assert find_store(REPO) == places / "one"


def test_a_store_that_is_completed_while_it_is_listed(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(places / "one")
    there, asked = os.path.lexists, []

    def lexists(path: Path) -> bool:  # the journal is there when it is looked for, and gone then
        asked.append(path)
        return len(asked) == 1 or there(path)

    monkeypatch.setattr(os.path, "lexists", lexists)
    assert find_store(REPO) == places / "one"
    assert len(asked) == 2


def test_several_stores_of_one_repository(
    hub: FakeHub, checkpoints: Checkpoints, places: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(places / "one")
    assert find_store(REPO) == places / "one"
    pull(places / "two", expert_bits=2)
    with pytest.raises(ConfigError, match="expected one store, got 2: one, two"):
        find_store(REPO)
    pull(default_store(REPO))
    assert find_store(REPO) == default_store(REPO)
    assert find_store("org/other") is None


def test_partial_and_damaged_stores_are_listed(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))

    def strike(what: str, n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(places / "half", strike)
    pull(places / "hurt")
    (places / "hurt" / "experts" / "layer_000.bin").unlink()
    (places / "letters").mkdir()
    assert [(s.path.name, s.source, s.state) for s in list_stores()] == [
        ("half", REPO, "partial"),
        ("hurt", "hurt", "damaged"),
    ]
    out = in_process("rm", "half", "--yes")
    assert out.returncode == 0, out.stderr
    for wrong in ("letters", "../stores", places, tmp_path, "nothing", ""):
        out = in_process("rm", wrong, "--yes")
        assert out.returncode == 1
        assert "is not a store" in out.stderr
    assert (places / "letters").is_dir()


def test_verify_and_info_of_a_partial_or_damaged_store(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    """Named by its repository, it is not said to be missing."""
    hub.add_commit(REPO, checkpoints("mlx"))
    dst = default_store(REPO)

    def strike(what: str, n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(dst, strike)
    for command in ("verify", "info"):
        out = in_process(command, REPO)
        assert out.returncode == 1
        assert "is a partial store. Run the same flash-moe pull" in out.stderr
    pull(dst)
    (dst / "experts" / "layer_000.bin").unlink()
    out = in_process("verify", REPO)
    assert out.returncode == 1
    assert "1 damaged" in out.stdout


def test_removing_asks_on_a_terminal(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(places / "one")
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(
                COMMAND[0],
                [*COMMAND, "rm", "one"],
                hub_environment(hub.url, tmp_path / "home"),
            )
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(fd, 1024)
        os.write(fd, answer)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
        os.close(fd)
    assert not (places / "one").exists()
