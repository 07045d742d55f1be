"""What the tests of pulling share: checkpoints, a hub, and this process made to talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flash_moe.hub import retry
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from tests.support.hub.checkpoints import Kind, write_checkpoint
from tests.support.hub.client import go_online
from tests.support.hub.fake_hub import FakeHub

Checkpoints = Callable[[Kind], Path]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    made: dict[Kind, Path] = {}
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: Kind) -> Path:
        if kind not in made:
            made[kind] = write_checkpoint(root / kind, kind, 4)
        return made[kind]

    return make


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_online(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(retry, "WAITS", (0.0,) * 5)


@pytest.fixture
def hub(online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub(tmp_path / "blobs") as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                            hub.url + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
        yield hub


@pytest.fixture(scope="session")
def stores(
    checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Kind], Path]:
    """Each kind packed from this disk. Do not change them."""
    made: dict[Kind, Path] = {}
    root = tmp_path_factory.mktemp("stores")

    def make(kind: Kind) -> Path:
        if kind not in made:
            pack(open_source(checkpoints(kind)), root / kind)
            made[kind] = root / kind
        return made[kind]

    return make
