"""Logits and tokens of transformers, kept in goldens, against resident and streamed models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.models import gated_delta

from flash_moe import load
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.testing import PRESETS, write_hf_checkpoint, write_mlx_checkpoint
from flash_moe.testing.shards import weights_hash
from tests.support.resident import budget_gb

GOLDENS = Path(__file__).parents[1] / "goldens" / "tiny.npz"
# Float32 on both sides, sums in another order through 8 layers: 3.5e-5 seen at logits std 1.
# Before normalize_qk, mlx-lm added the delta net's epsilon to the mean square of q and k, where
# transformers adds it to the sum: 1.1e-4 seen with mlx-lm 0.31.3.
TOLERANCE = 1e-4 if hasattr(gated_delta, "normalize_qk") else 3e-4


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as file:
        return dict(file)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    """A GPU may round matrix products to fewer bits; the tolerance is for float32 sums."""
    device = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    yield
    mx.set_default_device(device)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The whole preset, in both formats."""
    root = tmp_path_factory.mktemp("tiny")
    write_hf_checkpoint(root / "hf", PRESETS["tiny"])
    write_mlx_checkpoint(root / "mlx", PRESETS["tiny"], from_hf=root / "hf")
    return {"float": root / "hf", "q4": root / "mlx"}


@pytest.fixture(
    scope="module",
    params=["float-resident", "q4-resident", "float-streamed", "q4-direct", "q4-streamed"],
)
def case(
    request: Any, checkpoints: dict[str, Path], goldens: Any, tmp_path_factory: Any
) -> Iterator[tuple[str, Any]]:
    """Name of the golden and the model that must give it.

    Direct is the mlx checkpoint streamed as it is, streamed is a packed store of it.
    """
    name, how = request.param.split("-")
    path, hash_key = checkpoints[name], "hf_hash" if name == "float" else "mlx_hash"
    assert weights_hash(path) == str(goldens[hash_key]), (
        "the generated weights changed: see tests/goldens/README.md"
    )
    if how == "resident":
        yield name, mlx_lm.load(str(path))[0]
        return
    if name == "float":
        unquantized = tmp_path_factory.mktemp("goldens") / "mlx"
        geometry = dataclasses.replace(PRESETS["tiny"], bits=None)
        write_mlx_checkpoint(unquantized, geometry, from_hf=path)
        path = unquantized
    if how == "streamed":
        store = tmp_path_factory.mktemp("goldens") / "store"
        pack(open_source(path), store)
        path = store
    with load(path, cache_gb=budget_gb(path, "token")) as flash:
        yield name, flash.model


def test_logits(case: tuple[str, Any], goldens: dict[str, np.ndarray]) -> None:
    name, model = case
    expected = goldens[f"{name}_logits"]
    logits = np.array(model(mx.array(goldens["ids"])))
    assert logits.shape == expected.shape == (2, 37, 512)
    assert np.abs(logits - expected).max() < TOLERANCE


def test_logits_through_the_cache(case: tuple[str, Any], goldens: dict[str, np.ndarray]) -> None:
    name, model = case
    ids, cache = mx.array(goldens["ids"]), model.make_cache()
    parts = [model(ids[:, :20], cache=cache)]
    parts += [model(ids[:, i : i + 1], cache=cache) for i in range(20, 37)]
    logits = np.array(mx.concatenate(parts, axis=1))
    assert np.abs(logits - goldens[f"{name}_logits"]).max() < TOLERANCE


def test_greedy(case: tuple[str, Any], goldens: dict[str, np.ndarray]) -> None:
    name, model = case
    expected = goldens[f"{name}_greedy"].tolist()
    prompt = mx.array(goldens["ids"][:1, : int(goldens["prompt_length"])])
    cache, tokens = model.make_cache(), []
    for _ in expected:
        best = mx.argmax(model(prompt, cache=cache)[0, -1])
        tokens.append(int(best.item()))
        prompt = best.reshape(1, 1)
    assert tokens == expected
