"""Small cases of the self-test, each with a reference from plain MLX.

bfloat16 only and one template per kernel, because each costs a compilation; 4-bit, group 64. Other
bit widths, group sizes and dtypes are not tested on the user's machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.dtypes import computed_dtype
from flash_moe.ops import kernel
from flash_moe.ops.expert_mlp import ExpertMLP
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.ops.router_topk import router_topk, router_topk_reference
from flash_moe.store.layout import PROJECTIONS, RecordLayout, layout_of
from flash_moe.stream.slab import Slab

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint32]

# 34 chunks of 32 inputs: more than the 32 lanes of a SIMD group, and not a multiple of them.
HIDDEN, WIDTH = 1088, 192
BITS, GROUP_SIZE = 4, 64
SLOTS = np.array([[0, 1, 2, 3], [3, 0, 2, 1]], np.uint32)  # [tokens, k]
N_SLOTS = 4
OVERWRITTEN = 0  # slot that gets another expert between two runs; each token uses it
# Largest error over largest output. Kernels compute in float and round the output once, to 2^-8 of
# its size in bfloat16; the reference stays in float. One wrong row of a weight is many times that.
EXPERTS_BOUND = 8e-3
# Slots of the rows of a long pass: several tiles, one with rows of three experts, one slot unused.
MANY_SLOTS = np.repeat(np.array([0, 2, 3], np.uint32), [37, 5, 70])
# MLX rounds gate, up, their product and the output to bfloat16, each to 2^-9 of its size.
MANY_BOUND = 2e-2
# Router weights are float32 on both sides. exp and the order of sums differ by 1e-6 of a weight.
ROUTER_BOUND = 1e-4


def router() -> str:
    """Compare ``router_topk`` with its reference; return a description of the error, or "".

    Uses 60 different logits that are exact in bfloat16, so that there is one correct order.
    """
    logits = np.stack([np.random.RandomState(seed).permutation(60) for seed in (0, 1)]) / 8 - 4
    x = mx.array(logits.astype(np.float32)).astype(mx.bfloat16)
    ids, weights = router_topk(x, 10, renormalise=True)
    expected_ids, expected = router_topk_reference(x, 10, renormalise=True)
    if not np.array_equal(np.array(ids), np.array(expected_ids)):
        return f"wrong experts: expected {expected_ids.tolist()}, got {ids.tolist()}"
    return difference(host(weights), host(expected), ROUTER_BOUND)


def _swiglu(up: mx.array, gate: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


def host(array: mx.array) -> Floats:
    return np.array(array.astype(mx.float32))


def _error(got: Floats, expected: Floats) -> float:
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    return error if np.isfinite(error) else float("inf")


def difference(got: Floats, expected: Floats, bound: float) -> str:
    error = _error(got, expected)
    if error <= bound:
        return ""
    return f"wrong numbers: largest error over largest output {error:.2g}, bound {bound:.2g}"


@dataclass(frozen=True)
class ExpertsCase:
    """Experts, their inputs, and the slab protocol: write, run, overwrite, run.

    MLX does not track changes of a slab's bytes, so the test checks that the second run gives the
    new result. ``on_kernels`` and ``on_views`` return a description of the error, or "".

    Attributes:
        experts: Component name to ``[experts, ...]``, one expert more than slots.
    """

    layout: RecordLayout
    experts: Mapping[str, mx.array]
    x: mx.array  # [tokens, HIDDEN] bfloat16, like residual and shared
    residual: mx.array
    shared: mx.array
    gate: mx.array  # [tokens, 1] bfloat16
    weights: mx.array  # [tokens, k] float32

    @staticmethod
    def draw() -> ExpertsCase:
        """Draw a case with outputs of size 1, by numpy: MLX's random state belongs to the user."""
        random = np.random.RandomState(0)

        def normal(*shape: int) -> mx.array:
            return mx.array(random.standard_normal(shape).astype(np.float32))

        experts: dict[str, mx.array] = {}
        for projection in PROJECTIONS:
            n_out, n_in = (HIDDEN, WIDTH) if projection == "down_proj" else (WIDTH, HIDDEN)
            w, scales, biases = mx.quantize(
                normal(N_SLOTS + 1, n_out, n_in) / n_in**0.5, GROUP_SIZE, BITS
            )
            experts[f"{projection}.weight"] = w
            experts[f"{projection}.scales"] = scales.astype(mx.bfloat16)
            experts[f"{projection}.biases"] = biases.astype(mx.bfloat16)
        layout = layout_of(
            {
                n: ("U32" if n.endswith("weight") else "BF16", a.shape[1:])
                for n, a in experts.items()
            }
        )
        n_tokens = len(SLOTS)
        x, residual, shared, gate = (
            normal(n_tokens, n).astype(mx.bfloat16) for n in (HIDDEN, HIDDEN, HIDDEN, 1)
        )
        weights = mx.array(random.uniform(0.2, 1.0, SLOTS.shape).astype(np.float32))
        mx.eval(experts, x, residual, shared, gate, weights)
        return ExpertsCase(layout, experts, x, residual, shared, gate, weights)

    def on_kernels(self) -> str:
        """Run the protocol on the kernels."""
        slab = Slab(N_SLOTS, self.layout.record_bytes)
        kernels = ExpertKernels(self.layout, slab.slot_bytes)
        ids = kernels.slot_ids(SLOTS, slab.array)

        def run() -> mx.array:
            return kernels(
                self.x,
                self.weights,
                ids,
                slab.array,
                shared=(self.shared, self.gate),
                residual=self.residual,
            )

        return self._protocol(slab, run, lambda expert_of: self._plain(expert_of[SLOTS]))

    def on_views(self, *, keep: bool) -> str:
        """Run the protocol on views made before the first write, or for each run."""
        slab = Slab(N_SLOTS, self.layout.record_bytes, keep_views=keep)
        slab.views(self.layout)
        return self._protocol(
            slab,
            lambda: self._plain(SLOTS, slab.views(self.layout)),
            lambda expert_of: self._plain(expert_of[SLOTS]),
        )

    def on_many_rows(self, *, keep: bool) -> str:
        """Run the protocol on sorted rows in the form of prompts, in the dtype of a model."""
        slab = Slab(N_SLOTS, self.layout.record_bytes, keep_views=keep)
        slab.views(self.layout)
        mlp = ExpertMLP(self.layout, _swiglu)
        scale = np.random.RandomState(1).standard_normal((len(MANY_SLOTS), 1)).astype(np.float32)
        x = mx.array(scale).astype(mx.bfloat16) * self.x[0]
        x = mx.expand_dims(x, 1)

        def run() -> mx.array:
            given = x.astype(computed_dtype(mx.bfloat16))
            views = slab.views(self.layout)
            return mlp(
                given, MANY_SLOTS, views, sorted_slots=True, many=kernel.backend() is not None
            )

        def expected(expert_of: Ids) -> mx.array:
            return mlp(x[:, None].astype(mx.float32), expert_of[MANY_SLOTS][:, None], self.experts)[
                :, 0
            ]

        return self._protocol(slab, run, expected, MANY_BOUND)

    def _protocol(
        self,
        slab: Slab,
        run: Callable[[], mx.array],
        expected: Callable[[Ids], mx.array],
        bound: float = EXPERTS_BOUND,
    ) -> str:
        """Compare ``run`` with the ``expected`` result of the expert in each slot."""
        expert_of = np.arange(N_SLOTS, dtype=np.uint32)  # slot to expert
        for slot, expert in enumerate(expert_of):
            self._write(slab, slot, int(expert))
        first = host(expected(expert_of))
        if error := difference(host(run()), first, bound):
            return error
        # host has evaluated the run: nothing reads the slab any more, as at a fence of the bank.
        expert_of[OVERWRITTEN] = N_SLOTS
        self._write(slab, OVERWRITTEN, N_SLOTS)
        second = host(expected(expert_of))
        got = host(run())
        if _error(got, first) <= bound:
            return "stale: after a slot was overwritten, still the result of its previous expert"
        error = difference(got, second, bound)
        return error and f"after a slot was overwritten: {error}"

    def _write(self, slab: Slab, slot: int, expert: int) -> None:
        """Write bytes into a slot without MLX, as the reader threads do."""
        record = bytearray(self.layout.record_bytes)
        for c in self.layout.components:
            data = np.array(self.experts[c.name][expert].view(mx.uint8)).tobytes()
            record[c.offset : c.offset + c.n_bytes] = data
        slab.write(slot, bytes(record))

    def _plain(self, ids: Ids, arrays: Mapping[str, mx.array] | None = None) -> mx.array:
        """Compute the reference in float32: MLX on a CPU is accurate in no narrower dtype.

        Args:
            ids: Indices into the arrays, ``[tokens, k]``.
            arrays: By default the experts.

        Returns:
            ``[tokens, HIDDEN]`` float32.
        """
        mlp = ExpertMLP(self.layout, _swiglu)
        x, shared, gate, residual = (
            a.astype(mx.float32) for a in (self.x, self.shared, self.gate, self.residual)
        )
        y = mlp(mx.expand_dims(x, (-2, -3)), ids, arrays or self.experts).squeeze(-2)
        y = (y * self.weights[..., None]).sum(axis=-2)
        return y + mx.sigmoid(gate) * shared + residual
