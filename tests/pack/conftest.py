"""What the tests of packing share: sources that stop half way, and processes that are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import Errors, OnBytes, Work
from flash_moe.pack.store_writer import StoreFiles
from tests.support.fork_server import ForkServer
from tests.support.processes import environment

StopAt = Callable[[PackSource, int, BaseException], None]


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


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Runs the programs of `tests.support.killed_packs` in processes of their own."""
    output = tmp_path_factory.mktemp("forks") / "output"
    with ForkServer(environment(), output) as server:
        yield server
