"""``flash-moe doctor --tune STORE``: measure the disk of a store and save the best I/O options."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flash_moe.plan.disk_tuning import Trial


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
    if as_json:
        facts = {
            "disk": disk,
            "trials": [
                {**asdict(t.settings), "gb_s": t.gb_s, "low": t.low, "high": t.high} for t in trials
            ],
            "best": {io: asdict(row) for io, row in best.items()},
            "used": asdict(used),
            "file": str(file),
        }
        print(json.dumps(facts, indent=2))
        return 0
    print(f"cold reads on {disk}, {streaming.model.top_k} experts at once, GB/s: median (range)")
    print("\n".join(table(trials)))
    for io, row in best.items():
        print(f"{io}: {row.threads} threads, split {row.split}, {row.gb_s:.2f} GB/s")
    print(f"saved in {file}; this model loads with {used} unless options override it")
    return 0


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
