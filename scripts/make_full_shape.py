"""Write a store in the exact shape of the 397B with random weights, at a sixth of its size.

    python scripts/make_full_shape.py DST [--distinct 8]

All 60 layers have their 512 experts of 7 MB, but only --distinct record files are written: layer n
is a hard link to layer n modulo that number, which takes 35 GB instead of 223. So computation,
cache and reads have the size of the real model. The page cache of the system differs, since it
holds more of 29 GB than of 217: measure with direct reads. ``--parts 2`` also writes the parts for
two machines, to ``DST--part-1-of-2`` and so on. ``--geometry`` takes the other presets too, and
``--layers`` another number of layers. Needs a filesystem with hard links, and a few hundred MB of
memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from flash_moe.errors import FlashMoEError
from flash_moe.files.atomic import write_json
from flash_moe.pack.packer import pack
from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.store import slice_source
from flash_moe.pack.steps import Errors, OnBytes, PackStep
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import RecordLayout, layout_of
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.manifest_entries import Source
from flash_moe.store.part import Part
from flash_moe.testing import PRESETS, Geometry, write_tokenizer
from flash_moe.testing.mlx_checkpoint import mlx_config
from flash_moe.testing.random_packed import MLX_TEXT_PREFIX, packed_tensors

# A scale takes fifty times as long to draw as a random word, so only a few experts get their own.
N_SCALES = 8


def experts_path(layer: int) -> str:
    return f"{MLX_TEXT_PREFIX}layers.{layer}.mlp.switch_mlp"


class RandomModel(PackSource):
    """The experts of the first layers of a geometry, and all of its other weights.

    Args:
        folder: An empty directory, for the tokenizer on its way into the store.
        n_layers: Layers whose experts are written.
    """

    def __init__(self, geometry: Geometry, folder: Path, n_layers: int) -> None:
        write_tokenizer(folder, geometry.vocab)
        self._seed = geometry.seed
        self._layout, self._records = _first_records(geometry)
        layers = tuple(
            ExpertLayer(i, experts_path(i), geometry.experts, self._layout) for i in range(n_layers)
        )
        tensors = (t for t in packed_tensors(geometry) if ".mlp.switch_mlp." not in t.name)
        resident = tuple(sorted(tensors, key=lambda t: t.name))
        n_bytes = geometry.experts * self._layout.record_bytes
        super().__init__(
            source=Source("mlx", "random weights"),
            root=folder,
            config=mlx_config(geometry),
            layers=layers,
            resident=resident,
            steps=(
                *(RandomLayer((), layer, n_bytes, self) for layer in range(n_layers)),
                *(RandomTensor((), None, tensor.n_bytes, tensor) for tensor in resident),
            ),
            fingerprint=xxhash.xxh3_128_hexdigest(repr((geometry, n_layers)).encode()),
        )

    def records(self, layer: int) -> Iterator[memoryview]:
        random = np.random.SFC64([self._seed, layer])  # raw words of it: seven times as fast
        for expert in range(self.layers[layer].n_experts):
            record = self._records[expert % len(self._records)]
            for c in self._layout.components:
                if c.dtype == "U32":
                    words = random.random_raw(-(-c.n_bytes // 8)).view(np.uint8)
                    record[c.offset : c.offset + c.n_bytes] = words[: c.n_bytes]
            yield memoryview(record)


@dataclass(frozen=True)
class RandomLayer(PackStep):
    """Draws the records of a layer."""

    layer: int
    source: RandomModel

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        for expert, record in enumerate(self.source.records(self.layer)):
            files.write_records(self.layer, expert, record)
            on_bytes(len(record))
        return {}


@dataclass(frozen=True)
class RandomTensor(PackStep):
    """Draws a resident tensor."""

    tensor: TensorSource

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        offset = 0
        for chunk in self.tensor.chunks():
            files.write_tensor(self.tensor.name, offset, chunk)
            offset += len(chunk)
            on_bytes(len(chunk))
        return {}


def _first_records(geometry: Geometry) -> tuple[RecordLayout, npt.NDArray[np.uint8]]:
    """The layout of a record, and ``[N_SCALES, record]`` with scales but without words."""
    small = replace(geometry, experts=min(N_SCALES, geometry.experts), top_k=1)
    prefix = experts_path(0) + "."
    tensors = {
        t.name.removeprefix(prefix): t for t in packed_tensors(small) if t.name.startswith(prefix)
    }
    layout = layout_of({name: (t.dtype, t.shape[1:]) for name, t in tensors.items()})
    records = np.zeros((small.experts, layout.record_bytes), np.uint8)
    for c in layout.components:
        if c.dtype != "U32":
            data = np.frombuffer(b"".join(tensors[c.name].chunks()), np.uint8)
            records[:, c.offset : c.offset + c.n_bytes] = data.reshape(small.experts, -1)
    return layout, records


def link_layers(dst: Path, n_layers: int) -> None:
    """Give a store of a few layers all of its layers."""
    manifest = read_manifest(dst)
    written = manifest.layers
    linked = []
    for number in range(len(written), n_layers):
        twin = written[number % len(written)]
        file = f"experts/layer_{number:03d}.bin"
        os.link(dst / twin.file, dst / file)
        linked.append(replace(twin, number=number, path=experts_path(number), file=file))
    manifest = replace(manifest, layers=(*written, *linked))
    write_json(dst / MANIFEST_FILE, manifest.to_json())


def make_parts(whole: Path, parts: int, n_layers: int) -> None:
    """Slice a store of a few layers for so many machines, and give each part all layers."""
    started = time.perf_counter()
    for number in range(1, parts + 1):
        part = Part(number, parts)
        dst = Path(f"{whole}{part.suffix}")
        pack(slice_source(whole, part), dst)
        link_layers(dst, n_layers)
    print(f"{parts} parts in {time.perf_counter() - started:.0f} s")


def make(dst: Path, geometry: Geometry, distinct: int, parts: int) -> None:
    """Write the store and print its size and the rate."""
    started = time.perf_counter()
    began: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = RandomModel(geometry, Path(folder), distinct)
        packing = time.perf_counter()

        def note(what: str, n_bytes: int) -> None:
            began.setdefault(what, time.perf_counter())

        done = pack(source, dst, note)
    packed = time.perf_counter()
    if parts:
        make_parts(dst, parts, geometry.layers)
    link_layers(dst, geometry.layers)
    between = began["resident weights"]
    for what, n_bytes, seconds in (
        ("record files", done.expert_bytes, between - packing),
        ("resident weights", done.resident_bytes, packed - between),
    ):
        print(f"{what:17} {n_bytes / 1e9:8.2f} GB in {seconds:6.1f} s", end="")
        print(f", {n_bytes / seconds / 1e6:.0f} MB/s")
    all_experts = done.expert_bytes // distinct * geometry.layers
    print(
        f"{dst}: {geometry.layers} layers of {geometry.experts} experts in {distinct} record "
        f"files; {done.expert_bytes + done.resident_bytes:,} bytes on disk that read as "
        f"{all_experts + done.resident_bytes:,}; {time.perf_counter() - started:.0f} s"
    )


def main() -> int:
    """Make the store; user errors are one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dst", type=Path, metavar="DST", help="new or empty directory")
    parser.add_argument("--distinct", type=int, default=8, metavar="N", help="record files (8)")
    parser.add_argument("--geometry", choices=sorted(PRESETS), default="full")
    parser.add_argument("--layers", type=int, help="layers of the model (those of the geometry)")
    parser.add_argument("--parts", type=int, default=0, metavar="N", help="also write N parts")
    args = parser.parse_args()
    geometry = PRESETS[args.geometry]
    geometry = replace(geometry, layers=args.layers or geometry.layers)
    if not 1 <= args.distinct <= geometry.layers:
        parser.error(f"--distinct: expected 1 to {geometry.layers}, got {args.distinct}")
    if args.dst.exists() and (not args.dst.is_dir() or any(args.dst.iterdir())):
        print(f"error: {args.dst} exists and is not an empty directory", file=sys.stderr)
        return 1
    try:
        make(args.dst, geometry, args.distinct, args.parts)
    except (FlashMoEError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
