"""The page cache: what is in it is seen, and what was dropped is gone."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from flash_moe.files.page_cache import cached_bytes, drop_cached

N = 64 * mmap.ALLOCATIONGRANULARITY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    with open(path, "wb") as stream:
        stream.write(os.urandom(N))
        os.fsync(stream.fileno())
    drop_cached(path)
    if cached_bytes(path, 0, N):
        pytest.skip("this filesystem lives in memory, or keeps its pages")
    return path


def test_what_is_read_is_cached_until_it_is_dropped(file: Path) -> None:
    content = file.read_bytes()
    assert cached_bytes(file, 0, N) == N
    assert cached_bytes(file, N // 2, mmap.PAGESIZE) == mmap.PAGESIZE
    drop_cached(file)
    assert cached_bytes(file, 0, N) == 0
    assert file.read_bytes() == content


def test_looking_brings_nothing_in(file: Path) -> None:
    for _ in range(2):
        assert cached_bytes(file, 0, N) == 0


def test_ranges(file: Path) -> None:
    file.read_bytes()
    assert cached_bytes(file, 0, 1) == mmap.PAGESIZE  # whole pages
    assert cached_bytes(file, 100, 0) in (0, mmap.PAGESIZE)
    assert cached_bytes(file, N, 100) == 0
    assert cached_bytes(file, N - 1, 10**9) <= mmap.ALLOCATIONGRANULARITY
