"""Runs experiments and collects their outcomes as JSON."""

from __future__ import annotations

import gc
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe.errors import ConfigError
from flash_moe.hub.resolve import resolve
from flash_moe.lab.bench import Bench, SkippedError
from flash_moe.lab.experiment import Experiment
from flash_moe.lab.experiments import EXPERIMENTS
from flash_moe.lab.verdict import CONFIDENCE, MIN_ROUNDS
from flash_moe.memory.system import machine_memory, release_free_memory
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.stream.io_settings import WORTH, disk_of
from flash_moe.version import __version__


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments with these names, or all.

    Raises:
        ConfigError: There is no such experiment.
    """
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            "lab",
            f"--only: expected {', '.join(known)}; got {', '.join(unknown)}",
            "flash-moe lab --list describes them.",
        )
    return [known[name] for name in names or known]


def run_lab(
    store: str, scratch: Path, experiments: Sequence[Experiment], **settings: Any
) -> Iterator[dict[str, Any]]:
    """Run experiments; yield first the surroundings, then one object per experiment.

    Args:
        store: Store, checkpoint or ``"demo"``.
        scratch: Directory on the disk to measure; it gets a temporary one of 300 MB.
        settings: Fields of :class:`Bench`.

    Raises:
        ConfigError: ``rounds`` is below 1, or the directory cannot be used.
        FlashMoEError: The store cannot be opened.
    """
    if settings.get("rounds", 1) < 1:
        raise ConfigError("lab", f"rounds: expected at least 1, got {settings['rounds']}")
    path = resolve(store)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(prefix="lab-", dir=scratch)
    except OSError as error:
        raise ConfigError("lab", f"--scratch {scratch}: {error.strerror or error}") from None
    with directory as folder:
        bench = Bench(path, open_streaming(path, LoadOptions()), Path(folder), **settings)
        yield _surroundings(store, bench)
        for experiment in experiments:
            yield _measured(experiment, store, bench)
            gc.collect()
            mx.clear_cache()
            release_free_memory()


def _surroundings(store: str, bench: Bench) -> dict[str, Any]:
    return {
        "flash_moe": __version__,
        "mlx": version("mlx"),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": str(mx.default_device()),
        "memory_bytes": machine_memory(),
        "store": store,
        "disk": disk_of(bench.experts),
        "record_bytes": bench.record_bytes,
        "rounds": bench.rounds,
        "rule": {"confidence": CONFIDENCE, "least_ratio": WORTH, "least_rounds": MIN_ROUNDS},
    }


def _measured(experiment: Experiment, store: str, bench: Bench) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        result = experiment.run(bench).to_json()
    except SkippedError as reason:
        result = {"skipped": str(reason)}
    where = "" if store == "demo" else f" {store}"
    return {
        "name": experiment.name,
        "question": experiment.question,
        "claim": experiment.claim,
        "source": experiment.source,
        "command": f"flash-moe lab{where} --only {experiment.name}",
        "seconds": round(time.perf_counter() - started, 1),
        **result,
    }
