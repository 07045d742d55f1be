"""The manifest, fuzzed and with single lies: valid, with its files beside it, or an error."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.errors import ManifestError
from flash_moe.store.layout import COMPONENT_NAMES, MAX_RECORD_BYTES, PROJECTIONS
from flash_moe.store.manifest import MANIFEST_FILE, Manifest, read_manifest
from flash_moe.store.manifest_entries import LayerEntry, ResidentFile, Source, SourceFile
from tests.support.empty_store import MIXED, PLAIN, SHA256, SOUND, make_file, make_store
from tests.support.fuzzing import (
    BAD_NAMES,
    FUZZ,
    FUZZ_VALID,
    damaged_bytes,
    damaged_json,
    encoded,
    must_refuse,
    parsed,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "outside" / "store")


def read(root: Path, content: bytes) -> Manifest | None:
    (root / MANIFEST_FILE).write_bytes(content)
    return parsed(lambda: read_manifest(root), ManifestError)


def assert_sound(root: Path, manifest: Manifest) -> None:
    """All that the rest of the package takes for granted."""
    numbers = [e.number for e in manifest.layers]
    assert numbers == sorted(set(numbers))
    names = [*(e.file for e in manifest.layers), *(r.file for r in manifest.resident)]
    assert len(set(names)) == len(names)
    for name in names:
        inside = Path(os.path.normpath(root / name))
        assert inside == root / name
        assert inside.is_relative_to(root)
    for e in manifest.layers:
        assert type(e.number) is type(e.n_experts) is type(e.layout) is int
        assert len(e.checksums) == e.n_experts > 0
        assert all(len(c) == 32 and set(c) <= set("0123456789abcdef") for c in e.checksums)
        layout = manifest.layouts[e.layout]
        assert (root / e.file).stat().st_size == e.n_experts * layout.record_bytes
        if e.error is not None:
            assert all(math.isfinite(x) and x >= 0 for x in e.error.values())
    for layout in manifest.layouts:
        end = 0
        for c in layout.components:
            assert c.name in COMPONENT_NAMES
            assert all(type(n) is int and n > 0 for n in c.shape)
            assert c.offset >= end
            end = c.offset + c.n_bytes
        assert end <= layout.record_bytes <= MAX_RECORD_BYTES
    for resident in manifest.resident:
        assert (root / resident.file).stat().st_size == resident.n_bytes
    table = json.loads(json.dumps(manifest.to_json(), allow_nan=False))
    assert Manifest.from_json(table) == manifest
    assert isinstance(hash(manifest), int)


def test_the_sound_one_is_read(store: Path) -> None:
    manifest = read_manifest(store)
    assert manifest == SOUND
    assert hash(manifest) == hash(SOUND)
    assert_sound(store, manifest)


@FUZZ
@given(content=damaged_bytes(encoded(SOUND.to_json())))
def test_damaged_bytes(store: Path, content: bytes) -> None:
    manifest = read(store, content)
    if manifest is not None:
        assert_sound(store, manifest)


@FUZZ
@given(table=damaged_json(SOUND.to_json()))
def test_damaged_values(store: Path, table: Any) -> None:
    manifest = read(store, encoded(table))
    if manifest is not None:
        assert_sound(store, manifest)


hashes = st.text("0123456789abcdef", min_size=32, max_size=32)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=9)
names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,9}(/[a-z_][A-Z.]{0,5})?", fullmatch=True)
errors = st.dictionaries(st.sampled_from(PROJECTIONS), st.floats(0, 1e30), min_size=1)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest by the format."""
    files = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    n_layers = draw(st.integers(1, len(files)))
    layouts = draw(st.permutations([PLAIN, MIXED]))
    layers = []
    for number, file in enumerate(files[:n_layers]):
        sums = tuple(draw(st.lists(hashes, min_size=1, max_size=3)))
        layout, error = draw(st.integers(0, 1)), draw(st.none() | errors)
        layers.append(LayerEntry(3 * number, f"l.{number}", file, len(sums), layout, sums, error))
    sizes = st.integers(0, 2**63 - 1)
    sources = st.builds(SourceFile, names, st.none() | st.just(SHA256), sizes)
    return Manifest(
        draw(lines),
        Source(
            *(draw(lines), draw(lines), draw(st.none() | lines)),
            tuple(draw(st.lists(sources, max_size=2, unique_by=lambda f: f.name))),
        ),
        tuple(layouts),
        tuple(layers),
        tuple(ResidentFile(f, draw(sizes), draw(hashes)) for f in files[n_layers:]),
    )


@FUZZ_VALID
@given(manifest=manifests())
def test_every_manifest_by_the_format_is_read(manifest: Manifest) -> None:
    again = Manifest.from_json(json.loads(encoded(manifest.to_json())))
    assert again == manifest
    assert hash(again) == hash(manifest)


def test_what_is_not_there_is_not_written() -> None:
    row = replace(SOUND.layers[1], error=None).to_json()
    assert "error" not in row
    assert LayerEntry.from_json(row, 2).error is None
    row = replace(SOUND.source, files=()).to_json()
    assert row == {"kind": "hf", "name": "a/b", "revision": "main"}
    assert Source.from_json(row).files == ()


def test_errors_of_projections_cannot_be_changed_and_are_checked_when_made() -> None:
    given_errors = {"gate_proj": 0.5}
    entry = replace(SOUND.layers[0], error=given_errors)
    given_errors["gate_proj"] = 0.75
    assert entry.error == {"gate_proj": 0.5}
    assert hash(entry) == hash(replace(SOUND.layers[0], error={"gate_proj": 0.5}))
    assert entry != replace(SOUND.layers[0], error={"gate_proj": 0.75})
    with pytest.raises(TypeError):
        entry.error["gate_proj"] = 1.0  # type: ignore[index]
    with pytest.raises(ValueError, match="gate_proj"):
        replace(entry, error={"gate_proj": math.nan})


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:30])
@pytest.mark.parametrize("place", ["layers", "resident", "source"])
def test_names_that_leave_the_directory(store: Path, name: str, place: str) -> None:
    """What the name points to exists and has the right size, where it can."""
    make_file(store.parent / "x.bin", 5 if place == "resident" else 2 * PLAIN.record_bytes)
    table = SOUND.to_json()
    rows = table["source"]["files"] if place == "source" else table[place]
    rows[0]["file"] = name
    (store / MANIFEST_FILE).write_bytes(encoded(table))
    must_refuse(lambda: read_manifest(store), ManifestError, match=f"{MANIFEST_FILE}: bad entry")


def more(name: str, *shape: int) -> dict[str, Any]:
    """A component of 32 bytes behind all that ``PLAIN`` has."""
    return {"name": name, "dtype": "F32", "shape": shape or [8], "offset": 8192, "size": 32}


Change = tuple[list[Any], Any]
# Path to a value, and what it becomes.
LIES: dict[str, Change] = {
    "format of true": (["format"], True),
    "format of 1.0": (["format"], 1.0),
    "format of a long text": (["format"], "\x1b[2J" * 1000),
    "another checksum": (["checksum"], "sha256"),
    "number of a half": (["layers", 0, "layer"], 1.5),
    "number of a whole float": (["layers", 0, "layer"], 1.0),
    "number in text": (["layers", 0, "layer"], "1"),
    "number of true": (["layers", 0, "layer"], True),
    "number below zero": (["layers", 0, "layer"], -1),
    "number of 4001 digits": (["layers", 0, "layer"], 10**4000),
    "two layers of a number": (["layers", 0, "layer"], 4),
    "layers in another order": (["layers", 0, "layer"], 5),
    "two layers of a path": (["layers", 0, "path"], "model.layers.4.mlp"),
    "two layers of a file": (["layers", 0, "file"], "experts/layer_004.bin"),
    "layer and weights of a file": (["resident", 0, "file"], "experts/layer_004.bin"),
    "path of a number": (["layers", 0, "path"], 3),
    "path of two lines": (["layers", 0, "path"], "a\nb"),
    "no experts": (["layers", 0, "n_experts"], 0),
    "a trillion experts": (["layers", 0, "n_experts"], 10**12),
    "layout behind the last": (["layers", 0, "layout"], 2),
    "layout below zero": (["layers", 0, "layout"], -1),
    "layout of false": (["layers", 0, "layout"], False),
    "checksums in a text": (["layers", 0, "checksums"], "ab"),
    "short checksum": (["layers", 0, "checksums", 0], "a" * 31),
    "checksum with a line end": (["layers", 0, "checksums", 0], "a" * 32 + "\n"),
    "checksum of large letters": (["layers", 0, "checksums", 0], "A" * 32),
    "checksum of a number": (["layers", 0, "checksums", 0], 12),
    "size of a text": (["resident", 0, "size"], "5"),
    "size below zero": (["resident", 0, "size"], -5),
    "error below zero": (["layers", 1, "error", "up_proj"], -0.5),
    "infinite error": (["layers", 1, "error", "up_proj"], math.inf),
    "error that is no number": (["layers", 1, "error", "up_proj"], math.nan),
    "error of true": (["layers", 1, "error", "up_proj"], True),
    "error of a text": (["layers", 1, "error"], "none"),
    "error of nothing": (["layers", 1, "error"], {}),
    "error of another part": (["layers", 1, "error", "router"], 0.5),
    "hash of 63 digits": (["source", "files", 0, "sha256"], SHA256[1:]),
    "source size of a float": (["source", "files", 0, "size"], 9.0),
    "revision of a list": (["source", "revision"], ["main"]),
    "writer a terminal obeys": (["writer"], "\x1b]0;x\x07"),
    "record of no bytes": (["layouts", 0, "record_bytes"], 0),
    "record of 2^60 bytes": (["layouts", 0, "record_bytes"], 2**60),
    "record of a float": (["layouts", 0, "record_bytes"], float(PLAIN.record_bytes)),
    "axes of a text": (["layouts", 0, "components", 0, "shape"], "88"),
    "axis of a float": (["layouts", 0, "components", 0, "shape", 0], 8.0),
    "negative axes": (["layouts", 0, "components", 0, "shape"], [-8, -8]),
    "offset below zero": (["layouts", 0, "components", 0, "offset"], -4),
    "unknown component": (["layouts", 0, "components", 3], more("gate_proj.zeros")),
    "component twice": (["layouts", 0, "components", 3], more("down_proj.weight")),
    "component of three axes": (["layouts", 0, "components", 3], more("up_proj.bias", 1, 2, 4)),
    "dtype of a list": (["layouts", 0, "components", 0, "dtype"], ["F32"]),
    "words for floats": (["layouts", 0, "components", 0, "dtype"], "U32"),
    "scales of words": (["layouts", 1, "components", 1, "dtype"], "U32"),
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
def test_lies_are_refused(store: Path, change: Change) -> None:
    path, value = change
    table: Any = json.loads(encoded(SOUND.to_json()))
    container = table
    for key in path[:-1]:
        container = container[key]
    if isinstance(container, list):
        container[path[-1] : path[-1] + 1] = [value]  # or one more
    else:
        container[path[-1]] = value
    (store / MANIFEST_FILE).write_bytes(encoded(table))
    must_refuse(lambda: read_manifest(store), ManifestError, match=MANIFEST_FILE)


def test_a_layer_has_experts(store: Path) -> None:
    table = SOUND.to_json()
    table["layers"][0].update(n_experts=0, checksums=[])
    make_file(store / SOUND.layers[0].file, 0)
    (store / MANIFEST_FILE).write_bytes(encoded(table))
    must_refuse(lambda: read_manifest(store), ManifestError, match="n_experts: expected 1 to")


def test_one_more_component_is_no_lie_in_itself(store: Path) -> None:
    table = SOUND.to_json()
    table["layouts"][0]["components"].append(more("up_proj.bias"))
    (store / MANIFEST_FILE).write_bytes(encoded(table))
    assert read_manifest(store).layouts[0].component("up_proj", "bias") is not None


def test_a_key_that_stands_there_twice(store: Path) -> None:
    content = encoded(SOUND.to_json()).replace(b'"writer":', b'"writer": "x", "writer":')
    (store / MANIFEST_FILE).write_bytes(content)
    must_refuse(lambda: read_manifest(store), ManifestError, match="duplicate key writer")


def test_layers_may_share_their_bytes_under_two_names(store: Path) -> None:
    first = SOUND.layers[0]
    os.link(store / first.file, store / "experts/twin.bin")
    (store / "experts/link.bin").symlink_to(store / first.file)
    twins = [
        replace(first, number=5, path="l.5", file="experts/twin.bin"),
        replace(first, number=6, path="l.6", file="experts/link.bin"),
    ]
    (store / MANIFEST_FILE).write_bytes(
        encoded(replace(SOUND, layers=(*SOUND.layers, *twins)).to_json())
    )
    assert [e.number for e in read_manifest(store).layers] == [1, 4, 5, 6]


@pytest.mark.parametrize("name", ["experts/layer_001.bin", "model.safetensors"])
def test_a_directory_is_no_file(store: Path, name: str) -> None:
    (store / name).unlink()
    (store / name).mkdir()
    must_refuse(lambda: read_manifest(store), ManifestError, match=f"{name}.*not a regular file")
