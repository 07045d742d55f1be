"""Pulled stores where nobody names a place: found by ``load()``, listed, removed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from flash_moe import load
from flash_moe.errors import ConfigError, ModelNotFoundError
from flash_moe.stores import default_store, find_store, list_stores

from .checkpoints import SMALL
from .client import environment
from .conftest import Checkpoints
from .fake_hub import FakeHub
from .pulling import REPO, pull

CODE = "import sys; from flash_moe.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FLASH_MOE_STORES", str(tmp_path / "stores"))
    return tmp_path / "stores"


def flash_moe(hub: FakeHub, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        env=environment(hub.url, tmp_path / "home", COLUMNS="200"),
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_pull_load_list_and_remove(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    commit = hub.add_commit(REPO, checkpoints("mlx"))
    with pytest.raises(ModelNotFoundError, match=r"flash-moe pull org/model \(about 0 GB of disk"):
        load(REPO)
    out = flash_moe(hub, tmp_path, "pull", REPO)
    assert out.returncode == 0, out.stderr
    assert str(places / "org--model") in out.stdout
    with load(REPO, cache_gb=0.1) as model:
        assert model.model.config.n_experts == SMALL.experts
    with pytest.raises(ModelNotFoundError, match="--revision v9"):
        load(REPO, revision="v9")
    listed = flash_moe(hub, tmp_path, "ls").stdout
    for word in ("org--model", REPO, commit[:12], "complete", "1 in"):
        assert word in listed
    (row,) = json.loads(flash_moe(hub, tmp_path, "ls", "--json").stdout)
    assert row["disk_bytes"] > 500_000
    assert flash_moe(hub, tmp_path, "rm", REPO).returncode == 2  # nobody to ask
    assert places.joinpath("org--model").exists()
    out = flash_moe(hub, tmp_path, "rm", REPO, "--yes")
    assert out.stdout.startswith("deleted")
    assert not places.joinpath("org--model").exists()
    assert "no stores" in flash_moe(hub, tmp_path, "ls").stderr


def test_verify_and_info_take_the_name(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    assert flash_moe(hub, tmp_path, "pull", REPO, "--expert-bits", 3).returncode == 0
    assert "all sound" in flash_moe(hub, tmp_path, "verify", REPO).stdout
    said = flash_moe(hub, tmp_path, "info", REPO).stdout
    assert "3-bit affine" in said
    assert "lost by quantizing" in said
    facts = json.loads(flash_moe(hub, tmp_path, "info", REPO, "--json").stdout)
    assert len(facts["quantization_error"]) == SMALL.layers
    assert 0.01 < facts["quantization_error"][0]["down_proj"] < 0.5


def test_requantizing_says_what_it_costs(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    err = flash_moe(hub, tmp_path, "pull", REPO, "--expert-bits", 2).stderr
    assert "warning: the experts are quantized to 4 bits already" in err
    assert default_store(REPO, "expert-bits-2").is_dir()


def test_several_stores_of_one_repository(
    hub: FakeHub, checkpoints: Checkpoints, places: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(places / "one")
    assert find_store(REPO) == places / "one"
    pull(places / "two", expert_bits=2)
    with pytest.raises(ConfigError, match="2 stores of it: one, two"):
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
    out = flash_moe(hub, tmp_path, "rm", "half", "--yes")
    assert out.returncode == 0, out.stderr
    for wrong in ("letters", "../stores", places, tmp_path, "nothing", ""):
        out = flash_moe(hub, tmp_path, "rm", wrong, "--yes")
        assert out.returncode == 1
        assert "is no store" in out.stderr
    assert (places / "letters").is_dir()


def test_removing_asks_on_a_terminal(
    hub: FakeHub, checkpoints: Checkpoints, places: Path, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    pull(places / "one")
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(
                sys.executable,
                [sys.executable, "-c", CODE, "rm", "one"],
                environment(hub.url, tmp_path / "home"),
            )
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(fd, 1024)
        os.write(fd, answer)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
        os.close(fd)
    assert not (places / "one").exists()
