"""What the tests of pulling share: checkpoints, a hub, and this process made to talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from tests.support.hub.checkpoints import Kind, write_checkpoint
from tests.support.hub.client import talk_to
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
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub(tmp_path / "blobs") as hub:
        talk_to(hub.url, monkeypatch, tmp_path / "home")
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
