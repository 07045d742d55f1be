"""Atomic writes, and flushing: past the memory of the drive on macOS, never less than fsync."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from flash_moe.files.atomic import (
    atomic_file,
    leftover_files,
    sync_directory,
    sync_file,
    write_json,
)
from flash_moe.pack import store_writer

FULL = 51


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the system, which is macOS as far as this goes."""
    asked: list[str] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, what: asked.append(f"full {what}"))
    monkeypatch.setattr(os, "fsync", lambda fd: asked.append("fsync"))
    return asked


def test_macos_flushes_the_drive(calls: list[str], tmp_path: Path) -> None:
    sync_file(0)
    sync_directory(tmp_path)
    assert calls == [f"full {FULL}"] * 2


def test_a_filesystem_without_it_gets_fsync(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, what: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    sync_file(0)
    assert calls == ["fsync"]


def test_elsewhere_it_is_fsync(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fcntl, "F_FULLFSYNC")
    sync_file(0)
    assert calls == ["fsync"]


@pytest.mark.parametrize("code", [errno.ENOTSUP, 45])  # 45: of macOS, where EOPNOTSUPP is 102
def test_a_filesystem_that_cannot_reserve_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(code, "not supported")

    monkeypatch.setattr(errno, "ENOTSUP", code)
    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with open(tmp_path / "file", "wb") as file:
        store_writer._allocate(file.fileno(), 1000)


PRIVATE = [False, True]


@pytest.mark.parametrize("private", PRIVATE)
def test_write_json_replaces_and_leaves_nothing_behind(tmp_path: Path, private: bool) -> None:
    file = tmp_path / "table.json"
    write_json(file, {"a": 1}, private=private)
    write_json(file, {"a": "é"}, private=private)
    assert json.loads(file.read_text("utf-8")) == {"a": "é"}
    assert ("é" in file.read_text("utf-8")) == private
    assert [f.name for f in tmp_path.iterdir()] == ["table.json"]
    if private:
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("private", PRIVATE)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool, call: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "table.json"
    write_json(file, {"a": 1}, private=private)
    with pytest.raises(TypeError):
        write_json(file, {"a": [1, object()]}, private=private)
    monkeypatch.setattr(os, call, full)
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    with pytest.raises(OSError, match="No space left"):
        write_json(file, {"a": 2}, private=private)
    assert json.loads(file.read_text()) == {"a": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["table.json"]


def test_private_files_that_a_killed_process_left_are_found(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "table.json", private=True) as out:
        (left,) = leftover_files(tmp_path)
        out.write(b"{}")
    assert left.parent == tmp_path
    assert leftover_files(tmp_path) == []


def test_threads_that_write_a_private_file_at_once(tmp_path: Path) -> None:
    """Each has a file of its own until that is whole; the last one stays."""
    with atomic_file(tmp_path / "table.json", private=True) as out:
        out.write(b"on")
        other = threading.Thread(
            target=write_json, args=(tmp_path / "table.json", [2]), kwargs={"private": True}
        )
        other.start()
        other.join()
        assert json.loads((tmp_path / "table.json").read_bytes()) == [2]
        out.write(b"e")
    assert (tmp_path / "table.json").read_bytes() == b"one"
