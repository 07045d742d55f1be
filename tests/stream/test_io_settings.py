"""Where the settings of the reader come from: the user, what was measured, the defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_moe.store.experts import CheckpointExperts, PackedExperts, read_checkpoint_tensors
from flash_moe.store.manifest import read_manifest
from flash_moe.stream import io_settings as module
from flash_moe.stream.io_settings import (
    IoSettings,
    Measured,
    disk_of,
    io_settings,
    load_measured,
    save_measured,
    settings_file,
)

SLOW, FAST = Measured(16, 4, 1.0), Measured(4, 2, 2.0)


@pytest.fixture
def experts(tiny_store: Path) -> PackedExperts:
    return PackedExperts(tiny_store, read_manifest(tiny_store))


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "settings_file", lambda: tmp_path / "deep" / "io.json")


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot hold the experts."""
    monkeypatch.setattr(module, "machine_memory", lambda: 1000)


def test_defaults(experts: PackedExperts) -> None:
    assert io_settings(experts) == IoSettings("buffered", 8, None)
    assert io_settings(experts, io="direct", threads=3, split=2) == IoSettings("direct", 3, 2)


def test_what_was_measured_is_the_default_and_arguments_win(experts: PackedExperts) -> None:
    file = save_measured(disk_of(experts), {"buffered": SLOW, "direct": FAST})
    assert file == module.settings_file()
    assert load_measured(disk_of(experts)) == {"buffered": SLOW, "direct": FAST}
    assert load_measured("another disk") == {}
    # it fits in memory, so the page cache is worth more than a fast disk
    assert io_settings(experts) == IoSettings("buffered", 16, 4)
    assert io_settings(experts, threads=2) == IoSettings("buffered", 2, 4)
    assert io_settings(experts, split=1) == IoSettings("buffered", 16, 1)
    assert io_settings(experts, io="direct") == IoSettings("direct", 4, 2)


@pytest.mark.usefixtures("small_memory")
def test_direct_unasked(experts: PackedExperts, tiny_mlx: Path) -> None:
    disk = disk_of(experts)
    assert io_settings(experts).io == "buffered"  # nothing was measured
    save_measured(disk, {"buffered": SLOW, "direct": FAST})
    assert io_settings(experts) == IoSettings("direct", 4, 2)
    assert io_settings(experts, io="buffered") == IoSettings("buffered", 16, 4)
    # a model that cannot be read so never is
    unpacked = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))
    assert disk_of(unpacked) == disk
    assert io_settings(unpacked) == IoSettings("buffered", 16, 4)
    for gb_s in (1.0, 1.03, float("nan")):
        save_measured(disk, {"buffered": SLOW, "direct": Measured(4, 2, gb_s)})
        assert io_settings(experts).io == "buffered"
    save_measured(disk, {"direct": FAST})
    assert io_settings(experts) == IoSettings("buffered", 8, None)


def table(disk: str, entry: Any) -> str:
    return json.dumps({"disks": {disk: entry}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"disks": 3}',
        '{"disks": []}',
        "\x00",
        *(
            {"buffered": row}
            for row in (
                None,
                {},
                7,
                {"threads": 0, "split": 1, "gb_s": 1},
                {"threads": 5000, "split": 1, "gb_s": 1},
                {"threads": 4, "split": 1000, "gb_s": 1},
                {"threads": "many", "split": 1, "gb_s": 1},
                {"threads": 1e400, "split": 1, "gb_s": 1},
            )
        ),
        7,
        None,
    ],
    ids=str,
)
def test_a_file_that_is_damaged_counts_as_empty(experts: PackedExperts, text: Any) -> None:
    file = module.settings_file()
    file.parent.mkdir()
    whole = text if isinstance(text, str) else table(disk_of(experts), text)
    file.write_text(whole)
    assert io_settings(experts) == IoSettings("buffered", 8, None)
    save_measured(disk_of(experts), {"buffered": SLOW})
    assert io_settings(experts) == IoSettings("buffered", 16, 4)


def test_settings_that_the_last_release_saved(experts: PackedExperts) -> None:
    file = module.settings_file()
    file.parent.mkdir()
    file.write_text(table(disk_of(experts), {"cached": vars(SLOW), "direct": vars(FAST)}))
    assert load_measured(disk_of(experts)) == {"buffered": SLOW, "direct": FAST}


def test_other_disks_are_kept(experts: PackedExperts) -> None:
    save_measured("one", {"buffered": SLOW})
    save_measured("two", {"buffered": FAST})
    save_measured("one", {"direct": FAST})
    assert load_measured("one") == {"direct": FAST}
    assert load_measured("two") == {"buffered": FAST}
    assert [f.name for f in module.settings_file().parent.iterdir()] == ["io.json"]


def test_a_disk_has_one_name(experts: PackedExperts, tiny_store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tiny_store)
    assert disk_of(PackedExperts(link, read_manifest(link))) == disk_of(experts)
    assert disk_of(experts) == disk_of(experts)


def test_the_file_is_in_the_cache_directory() -> None:
    assert settings_file().name == "io.json"
    assert settings_file().parent.name == "flash_moe"
