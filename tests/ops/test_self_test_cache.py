"""What is remembered of self-tests: only what can be read back, and never a reason to fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flash_moe.ops import self_test_cache
from flash_moe.ops.self_test_cache import MAX_ENTRIES, forget, recall, remember


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "deep" / "cache" / "self-test.json"
    monkeypatch.setattr(self_test_cache, "memory_file", lambda: file)
    return file


def test_remember_recall_forget(memory: Path) -> None:
    assert not recall("a")
    remember("a", {"mlx": "1"})
    remember("b", {"mlx": "2"})
    assert recall("a")
    assert json.loads(memory.read_text()) == {"passed": {"a": {"mlx": "1"}, "b": {"mlx": "2"}}}
    forget("a")
    forget("c")
    assert not recall("a")
    assert recall("b")
    assert [file.name for file in memory.parent.iterdir()] == [memory.name]


def test_the_oldest_go() -> None:
    for n in range(MAX_ENTRIES):
        remember(str(n), {})
    remember("0", {})  # passed again: the newest now
    remember("new", {})
    assert recall("0")
    assert recall("new")
    assert not recall("1")
    assert recall("2")


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"passed": 1}', '{"other": {}}'])
def test_a_file_that_is_no_memory_is_replaced(memory: Path, content: str) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_text(content)
    assert not recall("a")
    forget("a")
    assert memory.read_text() == content
    remember("a", {})
    assert recall("a")


def test_nothing_is_left_of_a_write_that_fails(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    remember("a", {})
    monkeypatch.setattr(os, "replace", full)
    remember("b", {})
    forget("a")
    assert recall("a")
    assert [file.name for file in memory.parent.iterdir()] == [memory.name]


def test_the_file_is_in_the_cache_directory_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    file = self_test_cache.memory_file()
    assert file.name == "self-test.json"
    assert file.parent.name == "flash_moe"
