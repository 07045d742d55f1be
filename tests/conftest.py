"""Shared fixtures: the tiny checkpoints, made once a run; and the header of the report."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# No test may reach for the hub, also where the machine has a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests of prompt caches on disk pass their directory.
os.environ["FLASH_MOE_PROMPT_CACHE_DISK_GB"] = "0"

import mlx.core as mx
from mlx_lm.utils import load_tokenizer

from flash_moe.testing import PRESETS, write_tokenizer
from tests.support.tiny_models import model_fixtures

pytest_plugins = ["tests.support.effort", "tests.support.tiers"]

# A shell that starts the tests in the background has them ignore Ctrl-C, nohup has them ignore a
# closed terminal, and their children would do so too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


gc.disable()  # until all is collected: nothing of it is garbage, and each worker collects all


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_report_header() -> str:
    from importlib.metadata import version

    return (
        f"mlx {version('mlx')} on {mx.default_device()}, mlx-lm {version('mlx-lm')}, "
        f"Metal: {'yes' if mx.metal.is_available() else 'no'}, "
        f"free disk {shutil.disk_usage('.').free / 1e9:.0f} GB"
    )


tiny_hf, tiny_mlx, tiny_store = model_fixtures(PRESETS["tiny"])


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy tokenizer as files. Do not change them."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, 512)
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Any:
    """The toy tokenizer: thinking, and calls in the format of Qwen3.5."""
    return load_tokenizer(tokenizer_path, {})


@pytest.fixture
def store_copy(tiny_store: Path, tmp_path: Path) -> Path:
    """A packed tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_store, tmp_path / "store"))


@pytest.fixture
def mlx_copy(tiny_mlx: Path, tmp_path: Path) -> Path:
    """A tiny mlx checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_mlx, tmp_path / "mlx"))


@pytest.fixture(scope="session", autouse=True)
def no_measured_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models load with the defaults, whatever was tuned on this machine."""
    from flash_moe.stream import io_settings

    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path_factory.mktemp("settings") / "io.json"
        patch.setattr(io_settings, "settings_file", lambda: file)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_pressure() -> Iterator[None]:
    """Banks keep their size, whatever else runs on this machine."""
    from flash_moe.memory.pressure import PressureWatch
    from flash_moe.model import streamed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "PressureWatch", lambda: PressureWatch(lambda n_bytes: 0))
        yield


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A handler that a test left behind could end the process of a later one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
