"""Engines on the tiny store with half its layers, and the model by itself to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.generation.engine import Engine
from tests.support import shallow
from tests.support.engine_answers import TIMEOUT_S

tiny_mlx = shallow.tiny_mlx
tiny_store = shallow.tiny_store


@pytest.fixture(scope="module")
def alone(tiny_store: Path) -> Iterator[FlashMoE]:
    with load(tiny_store, cache_gb=0.01) as flash:
        yield flash


@pytest.fixture
def engines(tiny_store: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def start(cache_gb: float = 0.01, **options: Any) -> Engine:
        limits = {"concurrency": 16, "max_queue": 0, "cache_entries": 8, "cache_bytes": 10**9}
        made.append(Engine(lambda: load(tiny_store, cache_gb=cache_gb), **{**limits, **options}))
        assert made[-1].loaded.wait(TIMEOUT_S)
        return made[-1]

    yield start
    for engine in made:
        engine.close()


@pytest.fixture
def engine(engines: Callable[..., Engine]) -> Engine:
    return engines()
