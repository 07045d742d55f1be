"""The store with linked layers is complete and sound, and its layers share record files."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flash_moe import load
from flash_moe.pack.auxiliary_files import MODEL_FILE_TEXT
from flash_moe.store.manifest import read_manifest
from flash_moe.store.verify import verify
from flash_moe.testing import PRESETS
from tests.support.processes import ROOT, file_in_process

TINY = PRESETS["tiny"]


def script(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return file_in_process(ROOT / "scripts" / "make_full_shape.py", *arguments)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "store"
    out = script(path, "--geometry", "tiny", "--distinct", 3)
    assert out.returncode == 0, out.stderr
    assert "8 layers of 32 experts in 3 record files" in out.stdout
    return path


def test_every_checksum_is_right(store: Path) -> None:
    report = verify(store)
    assert report.problems == ()
    assert report.n_records == TINY.layers * TINY.experts


def test_layers_share_files(store: Path) -> None:
    nodes = [(store / f"experts/layer_{n:03d}.bin").stat().st_ino for n in range(TINY.layers)]
    assert len(set(nodes)) == 3
    assert nodes == list(itertools.islice(itertools.cycle(nodes[:3]), TINY.layers))


def test_it_is_what_the_packer_writes(store: Path, tiny_store: Path) -> None:
    """Same files, same manifest but for the bytes; other experts have other bytes."""
    names = {f.relative_to(store).as_posix() for f in store.rglob("*")}
    assert names == {f.relative_to(tiny_store).as_posix() for f in tiny_store.rglob("*")}
    assert (store / "flash_moe_model.py").read_text() == MODEL_FILE_TEXT
    ours, theirs = read_manifest(store), read_manifest(tiny_store)
    assert ours.layouts == theirs.layouts
    assert [(e.number, e.path, e.file, e.n_experts, e.layout) for e in ours.layers] == [
        (e.number, e.path, e.file, e.n_experts, e.layout) for e in theirs.layers
    ]
    assert len({c for e in ours.layers for c in e.checksums}) == 3 * TINY.experts
    # tiny_store is quantised by mlx-lm; its resident tensors have the same names and shapes.
    assert [r.n_bytes for r in ours.resident] == [r.n_bytes for r in theirs.resident]
    config, other = (json.loads((s / "config.json").read_text()) for s in (store, tiny_store))
    assert config == other


def test_padding_is_zero(store: Path) -> None:
    """The format says so; records of this geometry have it."""
    (layout,) = read_manifest(store).layouts
    assert layout.record_bytes > layout.payload_bytes
    last = layout.components[-1]
    record = (store / "experts/layer_000.bin").read_bytes()[: layout.record_bytes]
    assert not any(record[last.offset + last.n_bytes :])
    assert any(record[last.offset :])


def test_it_generates(store: Path) -> None:
    with load(store, cache_gb=0.001) as flash:
        ids = flash.generate("a store of random weights", max_tokens=12).token_ids
    assert len(set(ids)) > 4  # NaN would repeat one


def test_refusals(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    out = script(tmp_path, "--geometry", "tiny")
    assert out.returncode == 1
    assert out.stderr == f"error: {tmp_path} exists and is not an empty directory\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    for distinct in (0, 9):
        out = script(tmp_path / "new", "--geometry", "tiny", "--distinct", distinct)
        assert out.returncode == 2
        assert not (tmp_path / "new").exists()
