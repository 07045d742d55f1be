"""A place for sessions."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sessions"
    monkeypatch.setenv("FLASH_MOE_SESSIONS", str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that tools may see."""
    path = tmp_path / "folder"
    (path / "docs").mkdir(parents=True)
    (path / "docs" / "guide.md").write_text("# Guide\n")
    (path / "docs" / "notes.txt").write_text("one\ntwo\n")
    return path
