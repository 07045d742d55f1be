"""What is remembered of self-tests: only what can be read back, and never a reason to fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flash_moe.ops import self_test_cache
from flash_moe.ops.self_test_cache import MAX_ENTRIES, drop_pass, has_passed, save_pass


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "deep" / "cache" / "self-test.json"
    monkeypatch.setattr(self_test_cache, "cache_file", lambda: file)
    return file


def test_remember_recall_forget(memory: Path) -> None:
    assert not has_passed("a")
    save_pass("a", {"mlx": "1"})
    save_pass("b", {"mlx": "2"})
    assert has_passed("a")
    assert json.loads(memory.read_text()) == {"passed": {"a": {"mlx": "1"}, "b": {"mlx": "2"}}}
    drop_pass("a")
    drop_pass("c")
    assert not has_passed("a")
    assert has_passed("b")
    assert [file.name for file in memory.parent.iterdir()] == [memory.name]


def test_the_oldest_go() -> None:
    for n in range(MAX_ENTRIES):
        save_pass(str(n), {})
    save_pass("0", {})  # passed again: the newest now
    save_pass("new", {})
    assert has_passed("0")
    assert has_passed("new")
    assert not has_passed("1")
    assert has_passed("2")


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"passed": 1}', '{"other": {}}'])
def test_a_file_that_is_no_memory_is_replaced(memory: Path, content: str) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_text(content)
    assert not has_passed("a")
    drop_pass("a")
    assert memory.read_text() == content
    save_pass("a", {})
    assert has_passed("a")


def test_nothing_is_left_of_a_write_that_fails(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    save_pass("a", {})
    monkeypatch.setattr(os, "replace", full)
    save_pass("b", {})
    drop_pass("a")
    assert has_passed("a")
    assert [file.name for file in memory.parent.iterdir()] == [memory.name]


def test_the_file_is_in_the_cache_directory_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    file = self_test_cache.cache_file()
    assert file.name == "self-test.json"
    assert file.parent.name == "flash_moe"
