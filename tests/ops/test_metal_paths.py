"""MLX's path on Metal for every shape of wave: weights are reused only from small copies.

The calls of ``mx.gather_qmm`` are those of a Mac; MLX computes them on this machine.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.memory.prefill_workspace import GROUP_EXPERTS
from flash_moe.ops import expert_mlp, kernel
from flash_moe.ops.metal_paths import MetalPath, metal_path
from tests.support.resident import budget_gb, prompt_ids

PER_ROW, REUSE = MetalPath.PER_ROW, MetalPath.REUSE
SHARES = ("token", "half", "all")  # of the experts that fit the bank
GROUP = 5  # experts that are copied at once, of the 32 of a layer


@pytest.mark.parametrize(
    ("pairs", "matrices", "is_sorted", "quantized", "expected"),
    [
        (64, 16, True, True, REUSE),
        (63, 16, True, True, PER_ROW),  # 3 rows per matrix, rounded down
        (15, 1, True, True, PER_ROW),
        (16, 1, True, True, REUSE),
        (4096, 512, False, True, PER_ROW),
        (2, 512, True, False, REUSE),
        (4096, 512, False, False, PER_ROW),
    ],
)
def test_the_rule(
    pairs: int, matrices: int, is_sorted: bool, quantized: bool, expected: MetalPath
) -> None:
    assert metal_path(pairs, matrices, is_sorted=is_sorted, quantized=quantized) is expected


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Counter[MetalPath]:
    """Rows by path of all products of experts, which fail if MLX would copy a slab."""
    rows: Counter[MetalPath] = Counter()
    gather = mx.gather_qmm

    def checked(x: mx.array, *arrays: mx.array, **options: Any) -> mx.array:
        n_pairs, n_slots = options["rhs_indices"].size, len(arrays[0])
        path = metal_path(n_pairs, n_slots, is_sorted=options["sorted_indices"], quantized=True)
        if path is REUSE:
            ids = np.array(options["rhs_indices"])
            assert (np.diff(ids.astype(int)) >= 0).all()
            assert n_slots == len(np.unique(ids)) <= GROUP
            assert all(memoryview(array).c_contiguous for array in arrays)
            x_rows = np.array(x).reshape(n_pairs, -1)
            repeated = (np.diff(ids) == 0) & (np.diff(x_rows, axis=0) == 0).all(axis=1)
            n_pairs -= int(repeated.sum())
        else:  # reads through the strides, if only the first axis has gaps
            assert all(memoryview(array[0]).c_contiguous for array in arrays)
        rows[path] += n_pairs
        return gather(x, *arrays, **options)

    monkeypatch.setattr(kernel, "backend", lambda: "metal")
    monkeypatch.setattr(mx, "gather_qmm", checked)
    monkeypatch.setattr(expert_mlp, "GROUP_EXPERTS", GROUP)
    assert GROUP < GROUP_EXPERTS
    return rows


@pytest.mark.parametrize(
    ("n_tokens", "paths"),
    [(1, {PER_ROW}), (15, {PER_ROW}), (16, {PER_ROW, REUSE}), (100, {REUSE})],
)
def test_no_wave_copies_a_slab(
    tiny_store: Path, products: Counter[MetalPath], n_tokens: int, paths: set[MetalPath]
) -> None:
    """4 experts per row: 15 rows are few, because mlx-lm does not sort them."""
    found = []
    for share in SHARES:
        products.clear()
        with load(tiny_store, cache_gb=budget_gb(tiny_store, share), kernels="off") as flash:
            logits = np.array(flash.model(mx.array([prompt_ids(n_tokens)])))
        assert set(products) == paths
        assert products.total() == 3 * 4 * 8 * n_tokens  # projections, experts, layers
        found.append((dict(products), logits.tobytes()))
    # Each row of an expert takes the same path with any bank, and so has the same bits.
    assert found == found[:1] * len(SHARES)
