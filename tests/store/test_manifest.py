"""The manifest: what is refused, and that the message says what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flash_moe.errors import ManifestError
from flash_moe.store.manifest import FORMAT, MANIFEST_FILE, PARTIAL_FILE, is_store, read_manifest

Table = dict[str, Any]


def edit(store: Path, change: Callable[[Table], None]) -> None:
    table = json.loads((store / MANIFEST_FILE).read_text())
    change(table)
    (store / MANIFEST_FILE).write_text(json.dumps(table))


def test_round_trip(tiny_store: Path) -> None:
    manifest = read_manifest(tiny_store)
    assert manifest.to_json() == json.loads((tiny_store / MANIFEST_FILE).read_text())
    assert manifest.source.kind == "mlx"
    assert manifest.source.name == "tiny-mlx"
    assert len(manifest.layouts) == 1
    assert [e.file for e in manifest.layers] == [f"experts/layer_{i:03d}.bin" for i in range(8)]
    assert [r.file for r in manifest.resident] == ["model.safetensors"]


def test_no_path_of_the_machine_is_in_a_store(tiny_store: Path) -> None:
    assert str(tiny_store.parent) not in (tiny_store / MANIFEST_FILE).read_text()
    assert str(tiny_store.parent) not in (tiny_store / "config.json").read_text()


def test_missing(tmp_path: Path) -> None:
    assert not is_store(tmp_path)
    with pytest.raises(ManifestError, match=r"no flash_moe\.json.*flash-moe pack"):
        read_manifest(tmp_path)


def test_partial(store_copy: Path) -> None:
    (store_copy / MANIFEST_FILE).rename(store_copy / PARTIAL_FILE)
    assert is_store(store_copy)
    with pytest.raises(ManifestError, match=r"partial store.*again to continue"):
        read_manifest(store_copy)


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "1", None])
def test_another_format(store_copy: Path, number: Any) -> None:
    edit(store_copy, lambda table: table.update(format=number))
    with pytest.raises(ManifestError, match=rf"expected format {FORMAT}, got {number}.*Update"):
        read_manifest(store_copy)


GARBAGE = {
    "empty": b"",
    "zeros": b"\0" * 100,
    "not UTF-8": b'{"format": "\xff"}',
    "half": b'{"format": 1, "layers": [',
    "a list": b"[1]",
    "a number": b"1",
    "no format": b"{}",
    "nested too deep": b"[" * 200_000,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage(store_copy: Path, content: bytes) -> None:
    (store_copy / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ManifestError, match="is not a manifest"):
        read_manifest(store_copy)


def components(table: Table) -> list[Table]:
    rows: list[Table] = table["layouts"][0]["components"]
    return rows


BAD_ENTRIES: dict[str, Callable[[Table], Any]] = {
    "no layers": lambda t: t.update(layers=[]),
    "layers lost": lambda t: t.pop("layers"),
    "layers a number": lambda t: t.update(layers=8),
    "layouts lost": lambda t: t.pop("layouts"),
    "resident lost": lambda t: t.pop("resident"),
    "resident of words": lambda t: t.update(resident=["model.safetensors"]),
    "source lost": lambda t: t.pop("source"),
    "writer lost": lambda t: t.pop("writer"),
    "number of words": lambda t: t["layers"][0].update(layer="first"),
    "infinite number": lambda t: t["layers"][0].update(n_experts=float("inf")),
    "layout that is not there": lambda t: t["layers"][3].update(layout=1),
    "layout below zero": lambda t: t["layers"][3].update(layout=-1),
    "a checksum too few": lambda t: t["layers"][3]["checksums"].pop(),
    "an expert too many": lambda t: t["layers"][3].update(n_experts=33),
    "a component too few": lambda t: components(t).pop(0),
    "last component lost": lambda t: t["layouts"][0].update(components=components(t)[:6]),
    "component of a wrong size": lambda t: components(t)[0].update(size=1),
    "component that overlaps": lambda t: components(t)[1].update(offset=0),
    "scales of one axis": lambda t: components(t)[1].update(shape=[128]),
    "scales of no column": lambda t: components(t)[1].update(shape=[64, 0], size=0),
    "experts outside": lambda t: t["layers"][0].update(file="../layer_000.bin"),
    "experts far outside": lambda t: t["layers"][0].update(file="experts/../../x.bin"),
    "experts at the root": lambda t: t["layers"][0].update(file="/layer_000.bin"),
    "weights outside": lambda t: t["resident"][0].update(file="../model.safetensors"),
    "weights at the root": lambda t: t["resident"][0].update(file="/model.safetensors"),
}


@pytest.mark.parametrize("change", BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_bad_entry(store_copy: Path, change: Callable[[Table], Any]) -> None:
    # What lies outside exists, so that only the check of the name can refuse it.
    for name in ("model.safetensors", "experts/layer_000.bin"):
        outside = store_copy.parent / Path(name).name
        outside.write_bytes((store_copy / name).read_bytes())
        (store_copy.parent / "x.bin").write_bytes((store_copy / name).read_bytes())
    edit(store_copy, change)
    with pytest.raises(ManifestError, match=rf"{MANIFEST_FILE}: bad entry"):
        read_manifest(store_copy)


@pytest.mark.parametrize("name", ["experts/layer_005.bin", "model.safetensors"])
def test_a_file_is_missing(store_copy: Path, name: str) -> None:
    (store_copy / name).unlink()
    with pytest.raises(ManifestError, match=rf"{name} is missing"):
        read_manifest(store_copy)


@pytest.mark.parametrize("name", ["experts/layer_005.bin", "model.safetensors"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size(store_copy: Path, name: str, change: int) -> None:
    content = (store_copy / name).read_bytes()
    (store_copy / name).write_bytes(content[:-1] if change < 0 else content + b"\0")
    size = len(content)
    with pytest.raises(ManifestError, match=rf"{name}: expected {size} bytes, got {size + change}"):
        read_manifest(store_copy)
