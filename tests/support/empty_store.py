"""A small store of sparse files: a manifest with all possible entries, and no weights."""

from __future__ import annotations

from pathlib import Path

from flash_moe.store.layout import PROJECTIONS, layout_of
from flash_moe.store.manifest import MANIFEST_FILE, Manifest
from flash_moe.store.manifest_entries import LayerEntry, ResidentFile, Source, SourceFile
from tests.support.fuzzing import encoded

PLAIN = layout_of({f"{p}.weight": ("F32", (8, 8)) for p in PROJECTIONS})
MIXED = layout_of(
    {
        f"{projection}.{part}": ("U32" if part == "weight" else "F32", (64, 64 // per_column))
        for projection in PROJECTIONS
        for part, per_column in (("weight", 8), ("scales", 64), ("biases", 64))
    }
)
SHA256 = "0123456789abcdef" * 4
SOUND = Manifest(
    "flash_moe 1",
    Source("hf", "a/b", "main", (SourceFile("model-1.safetensors", SHA256, 9),)),
    (PLAIN, MIXED),
    (
        LayerEntry(1, "model.layers.1.mlp", "experts/layer_001.bin", 2, 0, ("a" * 32, "b" * 32)),
        LayerEntry(
            number=4,
            path="model.layers.4.mlp",
            file="experts/layer_004.bin",
            n_experts=1,
            layout=1,
            checksums=("c" * 32,),
            error={"gate_proj": 0.25, "up_proj": 0.0, "down_proj": 1e-9},
        ),
    ),
    (ResidentFile("model.safetensors", 5, "d" * 32),),
)


def make_store(root: Path) -> Path:
    """A store whose files have the right sizes and no content."""
    (root / "experts").mkdir(parents=True)
    make_file(root / "experts/layer_001.bin", 2 * PLAIN.record_bytes)
    make_file(root / "experts/layer_004.bin", MIXED.record_bytes)
    make_file(root / "model.safetensors", 5)
    (root / MANIFEST_FILE).write_bytes(encoded(SOUND.to_json()))
    return root


def make_file(file: Path, n_bytes: int) -> None:
    with open(file, "wb") as stream:
        stream.truncate(n_bytes)
