"""Helpers of the store tests: whole directories as bytes, and a source that stops half way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flash_moe.store.source import PackSource

Contents = dict[str, bytes]
StopAt = Callable[[PackSource, int, BaseException], None]


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], Contents]:
    """Every file of a directory: relative name to bytes."""

    def read(root: Path) -> Contents:
        files = (f for f in sorted(root.rglob("*")) if f.is_file())
        return {str(f.relative_to(root)): f.read_bytes() for f in files}

    return read


@pytest.fixture
def stop_at() -> StopAt:
    """Make ``records`` of a source raise after five records of one layer."""

    def patch(source: PackSource, layer: int, error: BaseException) -> None:
        whole = source.records

        def records(index: int) -> Iterator[memoryview]:
            for number, record in enumerate(whole(index)):
                if index == layer and number == 5:
                    source.records = whole  # type: ignore[method-assign]
                    raise error
                yield record

        source.records = records  # type: ignore[method-assign]

    return patch
