"""Helpers of the store tests: whole directories as bytes, and a source that stops half way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import Errors, OnBytes, PackStep
from flash_moe.pack.store_writer import StoreFiles

Contents = dict[str, bytes]
StopAt = Callable[[PackSource, int, BaseException], PackSource]


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], Contents]:
    """Every file of a directory: relative name to bytes."""

    def read(root: Path) -> Contents:
        files = (f for f in sorted(root.rglob("*")) if f.is_file())
        return {str(f.relative_to(root)): f.read_bytes() for f in files}

    return read


class Stopping(PackStep):
    """A step that is struck once, when it has written everything."""

    def __init__(self, step: PackStep, error: BaseException) -> None:
        super().__init__(step.entries, step.layer, step.n_bytes)
        self.step, self.error = step, [error]

    @property
    def in_threads(self) -> bool:  # type: ignore[override]
        return self.step.in_threads

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        self.step.run(files, on_bytes)
        if self.error:
            raise self.error.pop()
        return {}


@pytest.fixture
def stop_at() -> StopAt:
    """The same source, of which packing raises in one layer."""

    def stopping(source: PackSource, layer: int, error: BaseException) -> PackSource:
        index = next(i for i, step in enumerate(source.steps) if step.layer == layer)
        steps = list(source.steps)
        steps[index] = Stopping(steps[index], error)
        return source.with_steps(steps)

    return stopping
