"""What a name means to load, plan, info, verify and rm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flash_moe import demo_model
from flash_moe.errors import ConfigError, ModelNotFoundError
from flash_moe.hub.resolve import local_path, resolve, resolve_removable, resolve_store


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FLASH_MOE_STORES", str(tmp_path / "stores"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "stores"


def test_a_path_and_the_model_in_the_package(store_copy: Path, tmp_path: Path) -> None:
    for name in (store_copy, str(store_copy)):
        assert local_path(name) == resolve(name) == resolve_store(str(name)) == store_copy
    assert local_path("demo") == resolve("demo") == resolve_store("demo") == demo_model.STORE
    (tmp_path / "demo").mkdir()
    assert resolve("demo") == resolve_store("demo") == Path("demo")


@pytest.mark.parametrize("name", ["./none", "../none", "/none", "~/none"])
def test_what_can_only_be_a_path(name: str) -> None:
    for look in (local_path, resolve):
        with pytest.raises(ModelNotFoundError, match=f"no such directory: {name}"):
            look(name)
    assert resolve_store(name) == Path(name).expanduser()  # which its reader says is none


def test_what_may_be_a_repository(places: Path) -> None:
    assert local_path("org/model") is None
    assert resolve_store("org/model") == Path("org/model")
    with pytest.raises(ModelNotFoundError, match="no such directory: no name"):
        resolve("no name")


def test_names_among_the_stores(tiny_store: Path, places: Path) -> None:
    shutil.copytree(tiny_store, places / "org--model")
    assert resolve_store("org/model") == resolve_store("org--model") == places / "org--model"
    assert resolve_removable("org/model").path == places / "org--model"
    assert resolve_removable("org--model").state == "complete"
    shutil.copytree(tiny_store, places / "again")
    name = resolve_removable("again").source  # of both: the directory that they are packed from
    with pytest.raises(ConfigError, match="expected one store, got 2: again, org--model"):
        resolve(name)
    with pytest.raises(ConfigError, match="several stores: again, org--model"):
        resolve_removable(name)
    with pytest.raises(ModelNotFoundError, match="org/none is not a store"):
        resolve_removable("org/none")


def test_what_lies_here_is_deleted_only_if_no_store_has_the_name(
    tiny_store: Path, places: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_store, tmp_path / "model")
    assert resolve_removable("model").path == Path("model")
    shutil.copytree(tiny_store, places / "model")
    assert resolve_removable("model").path == places / "model"
    assert resolve_store("model") == Path("model")
