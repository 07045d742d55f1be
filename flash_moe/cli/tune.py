"""``flash-moe doctor --tune STORE``: measure the disk of a store and save the best I/O options."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flash_moe.plan.disk_tuning import Trial
    from flash_moe.plan.forecast import Forecast, Machine


def run(path_or_repo: str, as_json: bool) -> int:
    """Measure the disk, save the best settings and print them."""
    from dataclasses import asdict

    from rich.progress import Progress

    from flash_moe.errors import FlashMoEError
    from flash_moe.hub.resolve import resolve
    from flash_moe.model.open import open_streaming
    from flash_moe.options.loading import LoadOptions
    from flash_moe.plan.disk_tuning import best_of, tune
    from flash_moe.store.manifest import part_held
    from flash_moe.stream.io_settings import disk_of, io_settings, save_measured

    path = resolve(path_or_repo)
    streaming = open_streaming(path, LoadOptions(), part_held(path))
    experts = streaming.experts
    with Progress(transient=True, disable=as_json or not sys.stdout.isatty()) as progress:
        task = progress.add_task("reading")
        trials = tune(
            experts,
            streaming.model.top_k,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    best = best_of(trials)
    disk = disk_of(experts)
    try:
        file = save_measured(disk, best)
    except OSError as error:
        raise FlashMoEError("tune", f"cannot save the settings: {error}") from None
    used = io_settings(experts)
    gpu = on_gpu(path, max(trial.gb_s for trial in trials))
    if as_json:
        facts = {
            "disk": disk,
            "trials": [
                {**asdict(t.settings), "gb_s": t.gb_s, "low": t.low, "high": t.high} for t in trials
            ],
            "best": {io: asdict(row) for io, row in best.items()},
            "used": asdict(used),
            "file": str(file),
            "gpu": gpu and {name: asdict(part) for name, part in gpu._asdict().items()},
        }
        print(json.dumps(facts, indent=2))
        return 0
    print(f"cold reads on {disk}, {streaming.model.top_k} experts at once, GB/s: median (range)")
    print("\n".join(table(trials)))
    for io, row in best.items():
        print(f"{io}: {row.threads} threads, split {row.split}, {row.gb_s:.2f} GB/s")
    print(f"saved in {file}; this model loads with {used} unless options override it")
    if gpu is not None:
        from flash_moe.cli.plan_text import expected_speed, speed_facts

        print("\n".join(f"{name}: {fact}" for name, fact in speed_facts(gpu.machine).items()))
        print(f"{expected_speed(gpu.forecast)}; other sizes: flash-moe plan {path_or_repo}")
    return 0


class OnGpu(NamedTuple):
    """Measured rates of a GPU and its host, and the forecast for the default bank."""

    machine: Machine
    forecast: Forecast


def on_gpu(path: Path, disk_gb_s: float) -> OnGpu | None:
    """Measure the tiers behind a GPU, and forecast; ``None`` without one, or without a store.

    Args:
        disk_gb_s: Measured cold reads.
    """
    from dataclasses import replace

    from flash_moe.compat.cudart import cuda_runtime
    from flash_moe.plan.figure import Figure
    from flash_moe.plan.forecast import budgets, forecast
    from flash_moe.plan.planned import plan_store
    from flash_moe.plan.this_machine import machine_of, shape_of, tiers_of
    from flash_moe.store.manifest import is_store

    if cuda_runtime() is None or not is_store(path):
        return None
    planned = plan_store(path)
    shape = shape_of(planned)
    disk = Figure(1e9 * disk_gb_s, "measured", "cold random reads of this store")
    machine = machine_of(shape, path, disk=disk.value, tiers=tiers_of(shape))
    machine = replace(machine, read_bytes_per_s=disk)
    return OnGpu(machine, forecast(shape, machine, budgets(shape, machine)[None]))


def table(trials: Sequence[Trial]) -> list[str]:
    """Format trials: one row per number of threads, one column per mode and split."""
    columns = list(dict.fromkeys((t.settings.io, t.settings.split) for t in trials))
    cells = {
        (t.settings.threads, t.settings.io, t.settings.split): (
            f"{t.gb_s:.2f} ({t.low:.2f}-{t.high:.2f})"
        )
        for t in trials
    }
    names = [io if split == 1 else f"{io}, split {split}" for io, split in columns]
    lines = [f"{'threads':>7}  " + "  ".join(f"{name:>18}" for name in names)]
    for threads in sorted({t.settings.threads for t in trials}):
        row = [cells.get((threads, *column), "") for column in columns]
        lines.append(f"{threads:>7}  " + "  ".join(f"{cell:>18}" for cell in row))
    return lines


def saved_lines(disks: dict[str, Any]) -> list[str]:
    """Format the saved settings of each disk for the report of the doctor."""
    lines = []
    for disk, entry in disks.items():
        modes = [
            f"{io} {row.get('threads')} threads, split {row.get('split')}, {row.get('gb_s')} GB/s"
            for io, row in (entry.items() if isinstance(entry, dict) else ())
            if isinstance(row, dict)
        ]
        if modes:
            lines.append(f"{disk}: {'; '.join(modes)}")
    return lines or ["not measured yet: flash-moe doctor --tune STORE"]
