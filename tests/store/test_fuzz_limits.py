"""Files made to hang a reader or to fill memory, read in a process of their own that is watched."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import flash_moe
from flash_moe.files.json_file import MAX_JSON_BYTES
from flash_moe.store.layout import PROJECTIONS, layout_of
from flash_moe.store.manifest import MANIFEST_FILE, LayerEntry, Manifest, Source

# Reads each file given as KIND=PATH; prints what came of it and the memory it took.
CHILD = """
import json, sys, tracemalloc
from pathlib import Path
from flash_moe.config import model_config, read_config
from flash_moe.errors import FlashMoEError
from flash_moe.pack.sources.original_flash_moe import read_layout_json
from flash_moe.store.manifest import read_manifest
from flash_moe.store.safetensors_header import read_header, read_index

readers = {"header": read_header, "index": read_index, "layout": read_layout_json}
readers["manifest"] = lambda file: read_manifest(file.parent)
readers["config"] = lambda file: model_config(read_config(file.parent))
for argument in sys.argv[1:]:
    kind, _, path = argument.partition("=")
    tracemalloc.start()
    try:
        readers[kind](Path(path))
        result = "read"
    except FlashMoEError as error:
        result = f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(json.dumps([result, peak]))
"""
# Of the longest reading here, by hundreds; only a hang takes this long.
TIMEOUT = 120
MEGABYTE = 10**6
RECORD = layout_of({f"{p}.weight": ("F32", (8, 8)) for p in PROJECTIONS})
Results = list[tuple[str, int]]


def watched(*files: tuple[str, Path]) -> Results:
    """Read files in another process; what came of each, and the most bytes Python held."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *(f"{kind}={path}" for kind, path in files)],
        env={**os.environ, "PYTHONPATH": str(Path(flash_moe.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(files)
    return [(str(result), int(peak)) for result, peak in results]


def names(root: Path) -> dict[str, Path]:
    """Kind of reader to a file for it, each in a directory of its own."""
    files = {
        "header": "model.safetensors",
        "index": "model.safetensors.index.json",
        "layout": "layout.json",
        "manifest": MANIFEST_FILE,
        "config": "config.json",
    }
    for kind in files:
        (root / kind).mkdir()
    return {kind: root / kind / name for kind, name in files.items()}


def sparse(file: Path, start: bytes, size: int) -> None:
    """A file with a start and zeros that take no space on the disk."""
    with open(file, "wb") as stream:
        stream.write(start)
        stream.truncate(size)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link to a device": lambda file: file.symlink_to("/dev/zero"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "link to nothing": lambda file: file.symlink_to("absent"),
    "directory": Path.mkdir,
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    files = names(tmp_path)
    for file in files.values():
        make(file)
    for (result, _), (kind, file) in zip(watched(*files.items()), files.items(), strict=True):
        assert result != "read", kind
        assert file.name in result


@pytest.mark.parametrize("place", ["record", "resident"])
@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_a_manifest_names_is_a_file(
    tmp_path: Path, place: str, make: Callable[[Path], None]
) -> None:
    file = tmp_path / MANIFEST_FILE
    entry = LayerEntry(0, "l.0", "record.bin", 1, 0, ("0" * 32,))
    sparse(tmp_path / "record.bin", b"", RECORD.record_bytes)
    table = Manifest("", Source("mlx", "x"), (RECORD,), (entry,), ()).to_json()
    table["resident"] = [{"file": "resident.bin", "size": 0, "checksum": "0" * 32}]
    (tmp_path / "resident.bin").touch()
    file.write_text(json.dumps(table))
    (tmp_path / f"{place}.bin").unlink()
    make(tmp_path / f"{place}.bin")
    ((result, _),) = watched(("manifest", file))
    assert result.startswith("ManifestError: ")
    assert f"{place}.bin" in result


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    files = names(tmp_path)
    for kind, file in files.items():
        start = struct.pack("<Q", 99_999_999) if kind == "header" else b""
        sparse(file, start, max(MAX_JSON_BYTES + 1, 100_000_100))
    for (result, peak), kind in zip(watched(*files.items()), files, strict=True):
        assert result != "read", kind
        assert peak < MEGABYTE, (kind, peak)


def test_a_length_that_lies_takes_no_memory(tmp_path: Path) -> None:
    files = []
    for length in (3, 99_999_999, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1):
        files.append(("header", tmp_path / f"{length}.safetensors"))
        files[-1][1].write_bytes(struct.pack("<Q", length) + b"{}")
    for result, peak in watched(*files):
        assert result.startswith("CorruptFileError: ")
        assert peak < MEGABYTE


def test_axes_without_end(tmp_path: Path) -> None:
    """Their product takes minutes, and its digits cannot be printed."""
    files = names(tmp_path)
    axes = [2**62] * 1_000_000
    header = json.dumps({"t": {"dtype": "U8", "shape": axes, "data_offsets": [0, 1]}}).encode()
    files["header"].write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    component = {"name": "up_proj.weight", "dtype": "U8", "shape": axes, "offset": 0, "size": 1}
    files["layout"].write_text(json.dumps({"expert_size": 4, "components": [component]}))
    for result, _ in watched(*((kind, files[kind]) for kind in ("header", "layout"))):
        assert "Error: " in result


def manifest_text(checksums: str, n_experts: int) -> str:
    entry = LayerEntry(0, "l.0", "a.bin", 1, 0, ("0" * 32,))
    table = Manifest("", Source("mlx", "x"), (RECORD,), (entry,), ()).to_json()
    table["layers"][0].update(n_experts=n_experts, checksums="HERE")
    return json.dumps(table).replace('"HERE"', checksums)


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path) -> None:
    """Short lists are what takes most memory for its bytes."""
    lists = "[" + "[]," * 300_000 + "[]]"
    checksums = "[" + ",".join([f'"{"0" * 32}"'] * 50_000) + "]"
    texts = {
        "manifest": [manifest_text(lists, 10**12), manifest_text(checksums, 10**12)],
        "index": [f'{{"weight_map": {{"a": {lists}}}}}', f'{{"weight_map": {lists}}}'],
        "layout": [f'{{"components": {lists}}}'],
        "config": [f'{{"model_type": "m", "num_experts": {lists}}}'],
    }
    files = []
    for kind, several in texts.items():
        for number, content in enumerate(several):
            folder = tmp_path / f"{kind}{number}"
            folder.mkdir()
            name = {"manifest": MANIFEST_FILE, "config": "config.json"}.get(kind, "x.json")
            (folder / name).write_text(content)
            files.append((kind, folder / name))
    for number, content in enumerate([f'{{"a": {lists}}}', f'{{"__metadata__": {lists}}}']):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(struct.pack("<Q", len(content)) + content.encode())
        files.append(("header", file))
    for (result, peak), (kind, file) in zip(watched(*files), files, strict=True):
        assert result != "read", kind
        assert peak < 30 * file.stat().st_size + MEGABYTE, (kind, peak)


def test_many_tensors_are_read(tmp_path: Path) -> None:
    n = 10_000
    shards = {f"layers.{i}.weight": f"model-{i % 100:05d}.safetensors" for i in range(n)}
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": shards}))
    rows = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(n)}
    header = json.dumps(rows).encode()
    sparse(tmp_path / "m.safetensors", struct.pack("<Q", len(header)) + header, 8 + len(header) + n)
    files = [("index", tmp_path / "index.json"), ("header", tmp_path / "m.safetensors")]
    for (result, peak), (_, file) in zip(watched(*files), files, strict=True):
        assert result == "read"
        assert peak < 30 * file.stat().st_size
