"""Random quantized experts in a slab, their output in float64, and the error of kernels.

The reference uses the bits of the records (dequantised in float32, exact to its last place, then
summed in float64), so it differs from a kernel only by the kernel's rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.store.layout import PROJECTIONS, RecordLayout, layout_of
from flash_moe.testing.shards import tensor_source

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RandomExperts:
    """All experts of one layer, in slots.

    Attributes:
        words: The slab, uint32, one record per slot.
        weights: Projection to float64 ``[experts, out, in]``.
    """

    layout: RecordLayout
    n_experts: int
    words: npt.NDArray[np.uint32]
    weights: Mapping[str, Floats]

    def reference(
        self,
        x: Floats,
        slots: npt.NDArray[np.uint32],
        weights: Floats,
        *,
        shared: tuple[Floats, Floats] | None = None,
        residual: Floats | None = None,
    ) -> Floats:
        """Return sum_k w_k Wd (silu(Wg x) * (Wu x)) + sigmoid(gate) * shared + residual.

        Args:
            x: ``[tokens, hidden]``.
            slots: ``[tokens, k]``.
            weights: ``[tokens, k]``.
            shared: ``[tokens, hidden]`` and its gate ``[tokens, 1]``.
            residual: ``[tokens, hidden]``.
        """
        y = np.zeros_like(x)
        for token, ids in enumerate(slots):
            for k, slot in enumerate(ids):
                gate = self.weights["gate_proj"][slot] @ x[token]
                up = self.weights["up_proj"][slot] @ x[token]
                h = gate / (1 + np.exp(-gate)) * up
                y[token] += weights[token, k] * (self.weights["down_proj"][slot] @ h)
        if shared is not None:
            y += shared[0] / (1 + np.exp(-shared[1]))
        return y if residual is None else y + residual


def random_experts(
    hidden: int,
    width: int,
    n_experts: int,
    *,
    bits: int,
    group_size: int,
    scale_dtype: mx.Dtype = mx.float32,
    seed: int = 0,
) -> RandomExperts:
    """Draw experts whose outputs are about 1 for inputs of about 1."""
    random = np.random.RandomState(seed)
    tensors: dict[str, mx.array] = {}
    weights: dict[str, Floats] = {}
    for projection in PROJECTIONS:
        rows, n_in = (hidden, width) if projection == "down_proj" else (width, hidden)
        w = random.standard_normal((n_experts, rows, n_in)) / np.sqrt(n_in)
        q, scales, biases = mx.quantize(mx.array(w.astype(np.float32)), group_size, bits)
        scales, biases = scales.astype(scale_dtype), biases.astype(scale_dtype)
        for part, array in (("weight", q), ("scales", scales), ("biases", biases)):
            tensors[f"{projection}.{part}"] = array
        exact = mx.dequantize(
            q, scales.astype(mx.float32), biases.astype(mx.float32), group_size, bits
        )
        weights[projection] = np.array(exact).astype(np.float64)
    sources = {name: tensor_source(name, array) for name, array in tensors.items()}
    layout = layout_of({name: (s.dtype, s.shape[1:]) for name, s in sources.items()})
    slab = np.zeros((n_experts, layout.record_bytes), np.uint8)
    for c in layout.components:
        data = np.frombuffer(b"".join(sources[c.name].chunks()), np.uint8)
        slab[:, c.offset : c.offset + c.n_bytes] = data.reshape(n_experts, -1)
    return RandomExperts(layout, n_experts, slab.reshape(-1).view(np.uint32), weights)


def kernel_error(
    experts: RandomExperts, dtype: mx.Dtype, k: int, n_tokens: int, *, extras: bool, seed: int
) -> float:
    """Run ``moe_gate_up`` and ``moe_down`` on one random case.

    Args:
        extras: Test with shared expert and residual; otherwise without, and also unweighted.

    Returns:
        The maximum error against float64, relative to the maximum output; infinite for NaN.
    """
    random = np.random.RandomState(seed)
    hidden = experts.layout.hidden_size

    def draw(*shape: int) -> mx.array:
        return mx.array(random.standard_normal(shape).astype(np.float32)).astype(dtype)

    def exact(array: mx.array) -> Floats:
        return np.array(array.astype(mx.float32)).astype(np.float64)

    x, residual, shared = (draw(n_tokens, hidden) for _ in range(3))
    gate = draw(n_tokens, 1)
    drawn = [random.permutation(experts.n_experts)[:k] for _ in range(n_tokens)]
    slots: npt.NDArray[np.uint32] = np.stack(drawn).astype(np.uint32)
    weights = mx.array(random.rand(n_tokens, k).astype(np.float32))
    kernels = ExpertKernels(experts.layout, experts.layout.record_bytes)
    slab = mx.array(experts.words)
    ids = kernels.slot_ids(slots, slab)
    if extras:
        y = kernels(x, weights, ids, slab, shared=(shared, gate), residual=residual)
        expected = experts.reference(
            exact(x),
            slots,
            exact(weights),
            shared=(exact(shared), exact(gate)),
            residual=exact(residual),
        )
        return _error(exact(y), expected)
    pairs = experts.reference(
        np.repeat(exact(x), k, axis=0), slots.reshape(-1, 1), np.ones((n_tokens * k, 1))
    ).reshape(n_tokens, k, hidden)
    return max(
        _error(exact(kernels.unweighted(x, ids, slab)), pairs),
        _error(
            exact(kernels(x, weights, ids, slab)), (pairs * exact(weights)[..., None]).sum(axis=1)
        ),
    )


def _error(got: Floats, expected: Floats) -> float:
    error = np.abs(got - expected).max() / np.abs(expected).max()
    return float(error) if np.isfinite(error) else float("inf")
