"""The ``mid`` model that the speed benchmarks run on: 8 layers of 256 experts, 2 GB of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_MAKE = """
import sys; from pathlib import Path
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from flash_moe.pack.sources.open_source import open_source; from flash_moe.pack.packer import pack
root, name = Path(sys.argv[1]), sys.argv[2]
if not (root / f"{name}-mlx").exists():
    write_mlx_checkpoint(root / f"{name}-part", PRESETS[name])
    (root / f"{name}-part").rename(root / f"{name}-mlx")
if not (root / f"{name}-store" / "flash_moe.json").exists():
    pack(open_source(root / f"{name}-mlx"), root / f"{name}-store")
"""


def make_mid(root: Path, *, keep_checkpoint: bool = False, preset: str = "mid") -> Path:
    """Write and pack ``mid`` under ``root``, unless it exists. Return the store.

    Runs in a separate process, so that its memory is not counted in this one.

    Args:
        keep_checkpoint: Also keep the mlx checkpoint, ``root / "mid-mlx"``, for resident mlx-lm.
        preset: Another model in its place, for a trial run.
    """
    store, checkpoint = root / f"{preset}-store", root / f"{preset}-mlx"
    if not (store / "flash_moe.json").exists() or (keep_checkpoint and not checkpoint.exists()):
        subprocess.run([sys.executable, "-c", _MAKE, str(root), preset], check=True)
    if not keep_checkpoint:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return store
