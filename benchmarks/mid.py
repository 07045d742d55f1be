"""The ``mid`` model that the speed benchmarks run on: 8 layers of 256 experts, 2 GB of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_MAKE = """
import sys; from pathlib import Path
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from flash_moe.convert import open_source; from flash_moe.store.packer import pack
root = Path(sys.argv[1])
if not (root / "mid-mlx").exists():
    write_mlx_checkpoint(root / "mid-part", PRESETS["mid"])
    (root / "mid-part").rename(root / "mid-mlx")
if not (root / "mid-store" / "flash_moe.json").exists():
    pack(open_source(root / "mid-mlx"), root / "mid-store")
"""


def make_mid(root: Path, *, keep_checkpoint: bool = False) -> Path:
    """Write and pack ``mid`` under ``root``, unless it is there. Returns the store.

    In a process of its own, so that its memory is not counted in this one.

    Args:
        keep_checkpoint: Also keep the mlx checkpoint, ``root / "mid-mlx"``, for resident mlx-lm.
    """
    store, checkpoint = root / "mid-store", root / "mid-mlx"
    if not (store / "flash_moe.json").exists() or (keep_checkpoint and not checkpoint.exists()):
        subprocess.run([sys.executable, "-c", _MAKE, str(root)], check=True)
    if not keep_checkpoint:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return store
