"""Helpers of the store tests: whole directories as bytes, and a source that stops half way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import Errors, OnBytes, Work
from flash_moe.pack.store_writer import StoreFiles

Contents = dict[str, bytes]
StopAt = Callable[[PackSource, int, BaseException], None]


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], Contents]:
    """Every file of a directory: relative name to bytes."""

    def read(root: Path) -> Contents:
        files = (f for f in sorted(root.rglob("*")) if f.is_file())
        return {str(f.relative_to(root)): f.read_bytes() for f in files}

    return read


class Stopping(Work):
    """A step that is struck once, when it has written everything."""

    def __init__(self, work: Work, error: BaseException) -> None:
        self.work, self.error = work, [error]
        self.entries, self.layer, self.n_bytes = work.entries, work.layer, work.n_bytes
        self.in_threads = work.in_threads

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        self.work.run(files, on_bytes)
        if self.error:
            raise self.error.pop()
        return {}


@pytest.fixture
def stop_at() -> StopAt:
    """Make packing of a source raise in one layer."""

    def patch(source: PackSource, layer: int, error: BaseException) -> None:
        index = next(i for i, work in enumerate(source.works) if work.layer == layer)
        works = list(source.works)
        works[index] = Stopping(works[index], error)
        source.works = works

    return patch
