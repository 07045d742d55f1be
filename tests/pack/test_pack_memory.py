"""Packing takes the same memory whatever the size of a shard: each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from flash_moe.pack.safetensors_writer import TensorSpec, header_of
from flash_moe.store.safetensors_header import INDEX_FILE
from flash_moe.testing import PRESETS, Geometry
from flash_moe.testing.mlx_checkpoint import mlx_config
from flash_moe.testing.random_packed import packed_tensors
from flash_moe.testing.weights import hf_layout

# Records of 0.9 MB; those of an original are four times as large.
GEOMETRY = replace(PRESETS["mid"], layers=4, scale_dtype="bfloat16")

CHILD = """
import json, sys; from pathlib import Path
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.memory.system import peak_memory
from flash_moe.pack.packer import pack
import mlx_lm
mlx_lm.load
src, dst, options = sys.argv[1:]
imported = peak_memory()
pack(open_source(Path(src), QuantizationConfig(**json.loads(options))), Path(dst))
print(peak_memory() - imported)
"""


def write_one_shard(path: Path, tensors: Iterable[TensorSpec], config: object) -> int:
    """Write a checkpoint of zeros that take no disk; returns the size of its shard."""
    path.mkdir()
    specs = [TensorSpec(t.name, t.dtype, t.shape) for t in tensors]
    head = header_of(specs, odd_offsets=True)
    size = len(head) + sum(spec.n_bytes for spec in specs)
    with open(path / "model.safetensors", "wb") as out:
        out.write(head)
        out.truncate(size)
    names = {spec.name: "model.safetensors" for spec in specs}
    (path / INDEX_FILE).write_text(json.dumps({"weight_map": names}))
    (path / "config.json").write_text(json.dumps(config))
    return size


def write(path: Path, kind: str, geometry: Geometry) -> int:
    if kind == "mlx":
        return write_one_shard(path, packed_tensors(geometry), mlx_config(geometry))
    specs = [
        TensorSpec(name, "F32" if recipe.kind == "decay" else "BF16", recipe.shape)
        for name, recipe in hf_layout(geometry).items()
    ]
    return write_one_shard(path, specs, geometry.config("bfloat16"))


def peak_of_packing(src: Path, dst: Path, options: dict[str, int]) -> int:
    """Bytes beyond those that imports take."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(src), str(dst), json.dumps(options)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    ("kind", "experts", "options", "bound"),
    [
        # 48 MB seen: four threads of 8 MB each, and what Python and the manifest take.
        ("mlx", 96, {}, 100_000_000),
        # 150 MB seen: a block of 32 MB some times over, and looking for the views of the experts.
        ("hf", 48, {"bits": 4}, 300_000_000),
    ],
)
def test_a_large_shard_takes_little_memory(
    tmp_path: Path, kind: str, experts: int, options: dict[str, int], bound: int
) -> None:
    size = write(tmp_path / "source", kind, replace(GEOMETRY, experts=experts))
    assert size > 2 * bound  # or a shard that is read whole would go unseen
    assert peak_of_packing(tmp_path / "source", tmp_path / "store", options) < bound
