"""What the tests of packing share: sources that stop half way, and processes that are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import Errors, OnBytes, PackStep
from flash_moe.pack.store_writer import StoreFiles
from tests.support.fork_server import ForkServer
from tests.support.processes import environment

StopAt = Callable[[PackSource, int, BaseException], PackSource]


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
        return replace(source, steps=tuple(steps))

    return stopping


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Runs the programs of `tests.support.killed_packs` in processes of their own."""
    output = tmp_path_factory.mktemp("forks") / "output"
    with ForkServer(environment(), output) as server:
        yield server
