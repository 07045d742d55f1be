"""Weights that mlx-lm does not load: out of memory, and in the store if the user keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.cli import main
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.verify import verify
from tests.support.formats import QWEN, Weights, assert_same_bits, write
from tests.support.resident import prompt_ids

VISION = {
    "vision_tower.blocks.0.weight": mx.ones((64, 1000)),
    "vision_tower.merger.weight": mx.ones(8),
}
N_BYTES = 4 * (64_000 + 8)


def with_vision(w: Weights) -> Weights:
    return w | VISION


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("vision") / "model", QWEN, with_vision)


def resident_bytes(path: Path) -> int:
    return open_streaming(path, LoadOptions()).resident_bytes


def test_they_are_left_out(checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    pack(open_source(checkpoint), store)
    assert_same_bits(checkpoint, store)
    unused = read_manifest(store).unused
    assert unused is not None
    assert (unused.kept, unused.files) == ((), ())
    assert [(g.name, g.n_tensors, g.n_bytes) for g in unused.dropped] == [
        ("vision_tower", 2, N_BYTES)
    ]
    assert resident_bytes(store) == resident_bytes(checkpoint)


def test_they_are_kept_in_files_of_their_own(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert main(["pack", str(checkpoint), str(store), "--keep-unused"]) == 0
    assert_same_bits(checkpoint, store)
    kept = dict(mx.load(str(store / "unused.safetensors")))
    assert {name: array.shape for name, array in kept.items()} == {
        name: array.shape for name, array in VISION.items()
    }
    assert all(np.array(mx.all(kept[name] == VISION[name])) for name in VISION)
    assert resident_bytes(store) == resident_bytes(checkpoint)
    with load(store) as flash:
        assert flash.generate(prompt_ids(5), max_tokens=1).token_ids
    capsys.readouterr()
    assert main(["info", str(store)]) == 0
    assert "vision_tower: 2 tensors" in capsys.readouterr().out
    data = bytearray((store / "unused.safetensors").read_bytes())
    data[-1] ^= 1
    (store / "unused.safetensors").write_bytes(data)
    assert verify(store).damaged == {"unused.safetensors"}


def test_the_plan_counts_them(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(checkpoint), "--dst", str(tmp_path / "store"), "--no-measure", "--json"]
    plans = []
    for more in ([], ["--keep-unused"]):
        assert main([*words, *more]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    assert main(plans[1]["verdict"]["command"][1:]) == 0
    file = tmp_path / "store" / "unused.safetensors"
    for figure in ("store", "needed"):
        assert plans[1]["disk"][figure] - plans[0]["disk"][figure] == file.stat().st_size


def test_a_stopped_run_does_not_change_its_mind(checkpoint: Path) -> None:
    sources = [open_source(checkpoint, keep=keep) for keep in (False, True)]
    assert sources[0].fingerprint != sources[1].fingerprint


def test_stores_of_older_versions_keep_them_out_of_the_budget(
    checkpoint: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    pack(open_source(checkpoint), store)
    expected = resident_bytes(store)
    weights = dict(mx.load(str(store / "model.safetensors")))
    mx.eval(weights)
    mx.save_safetensors(str(store / "model.safetensors"), with_vision(weights))
    manifest = json.loads((store / MANIFEST_FILE).read_text())
    del manifest["unused"], manifest["side_files"]
    manifest["resident"][0]["size"] = (store / "model.safetensors").stat().st_size
    (store / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert resident_bytes(store) == expected
    with load(store) as flash:
        assert flash.model.lengths.plan.resident_bytes == expected
        assert flash.generate(prompt_ids(5), max_tokens=1).token_ids
    assert {"config.json", "tokenizer.json"} <= set(verify(store).unchecked)
