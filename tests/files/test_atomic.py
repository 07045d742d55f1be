"""Flushing to the disk: past the memory of the drive on macOS, and never less than fsync."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from flash_moe.files.atomic import sync_directory, sync_file
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
