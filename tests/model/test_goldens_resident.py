"""Resident mlx-lm against transformers: the reference that streaming is then compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.models import gated_delta

from flash_moe.testing.fingerprint import weights_hash

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


@pytest.fixture(scope="module", params=["float", "q4"])
def case(request: Any, tiny_hf: Path, tiny_mlx: Path, goldens: Any) -> tuple[str, Any]:
    """Name of the golden and the resident model that must give it."""
    path, key = (tiny_hf, "hf_hash") if request.param == "float" else (tiny_mlx, "mlx_hash")
    assert weights_hash(path) == str(goldens[key]), (
        "the generated weights changed: see tests/goldens/README.md"
    )
    return request.param, mlx_lm.load(str(path))[0]


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
