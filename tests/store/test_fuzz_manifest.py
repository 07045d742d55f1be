"""The manifest, fuzzed: a valid one whose files are beside it, or a clear ManifestError."""

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
from flash_moe.store.manifest import (
    MANIFEST_FILE,
    LayerEntry,
    Manifest,
    ResidentFile,
    Source,
    SourceFile,
    read_manifest,
)
from tests.support.empty_store import MIXED, PLAIN, SHA256, SOUND, make_store
from tests.support.fuzzing import FUZZ, FUZZ_VALID, damaged_bytes, damaged_json, encoded, parsed


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
