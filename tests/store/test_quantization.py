"""How a store is quantized, as a user chooses it: defaults, refusals, names, rows of a manifest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from flash_moe.errors import ConfigError, ManifestError
from flash_moe.hub.local_stores import default_store
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.layout import Quantization
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.manifest_entries import Source
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig

ALL = QuantizationConfig(bits=8, group_size=32, expert_bits=3)


def test_defaults_are_filled_in_without_becoming_a_choice() -> None:
    assert AS_IT_IS.weights == Quantization(4, 64)
    assert AS_IT_IS.experts is None
    assert AS_IT_IS.chosen == {}
    assert not AS_IT_IS.is_for_all
    assert QuantizationConfig(bits=4) != AS_IT_IS
    assert QuantizationConfig(expert_bits=2).experts == Quantization(2, 64)
    assert not QuantizationConfig(expert_bits=2).is_for_all
    assert (ALL.weights, ALL.experts) == (Quantization(8, 32), Quantization(3, 32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 7}, r"\[pack\] bits: expected one of \(2, 3, 4, 5, 6, 8\), got 7"),
        ({"bits": 0}, "bits: expected one of"),
        ({"group_size": 16}, r"group size: expected one of \(32, 64, 128\), got 16"),
        ({"expert_bits": 5}, r"expert bits: expected one of \(2, 3, 4, 6, 8\), got 5"),
    ],
)
def test_what_neither_mlx_nor_the_search_takes(options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        QuantizationConfig(**options)


def test_flags_and_the_name_of_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_MOE_STORES", "/stores")
    assert ALL.flags == ("--bits", "8", "--group-size", "32", "--expert-bits", "3")
    assert AS_IT_IS.flags == ()
    assert default_store("org/model") == Path("/stores/org--model")
    few = QuantizationConfig(expert_bits=2)
    assert default_store("org/model", few) == Path("/stores/org--model--expert-bits-2")
    assert default_store("m", ALL).name == "m--bits-8--group-size-32--expert-bits-3"


def test_the_row_of_the_manifest() -> None:
    source = Source("hf", "m", quantization=ALL)
    row = source.to_json()
    assert json.dumps(row["quantize"]) == '{"bits": 8, "expert_bits": 3, "group_size": 32}'
    assert Source.from_json(row) == source
    assert "quantize" not in Source("hf", "m").to_json()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"bits": 7}, "quantize: bits: expected one of"),
        ({"bits": 4.0}, "bits: expected a whole number"),
        ({"bit": 4}, "quantize: expected .'bits', 'group_size', 'expert_bits'."),
        ([], "expected an object, got a list"),
    ],
)
def test_rows_that_no_store_has(store_copy: Path, row: Any, said: str) -> None:
    file = store_copy / MANIFEST_FILE
    manifest = json.loads(file.read_text())
    manifest["source"]["quantize"] = row
    file.write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=said):
        read_manifest(store_copy)


def test_journals_of_older_versions_are_continued(tiny_mlx: Path, tiny_hf: Path) -> None:
    """A journal keeps a hash of the settings; it is the same in every version."""
    for root, quantization, settings in (
        (tiny_mlx, AS_IT_IS, "('mlx',)"),
        (
            tiny_mlx,
            QuantizationConfig(expert_bits=2),
            "('requantized', QuantizeOptions(bits=4, group_size=64, expert_bits=2))",
        ),
        (
            tiny_hf,
            QuantizationConfig(bits=8),
            "('hf', QuantizeOptions(bits=8, group_size=64, expert_bits=None))",
        ),
    ):
        text = f"('{local_checkpoint(root).fingerprint}', {settings})"
        expected = xxhash.xxh3_128_hexdigest(text.encode())
        assert open_source(root, quantization).fingerprint == expected


def test_a_source_cannot_be_changed(tiny_mlx: Path) -> None:
    source = open_source(tiny_mlx)
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.steps = ()  # type: ignore[misc]
    resident = replace(source, steps=tuple(step for step in source.steps if step.layer is None))
    assert {step.layer for step in resident.steps} == {None}
    assert len(source.steps) > len(resident.steps)
    assert resident.shards <= source.shards
    assert replace(resident, steps=source.steps).shards == source.shards
