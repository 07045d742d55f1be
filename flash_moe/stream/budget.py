"""How the expert budget becomes slots: arithmetic on sizes.

With a budget of at least one token's experts (top-k of every layer) each layer gets slots of its
own: least-recently-used inside a layer then loses nothing against a global order, because layers
take turns anyway. Below that all layers share one set of slots, and the page cache of the system
is what keeps experts in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flash_moe.errors import BudgetError
from flash_moe.files.sizes import format_bytes, format_least_gb
from flash_moe.store.experts import ExpertLayer, token_bytes
from flash_moe.store.layout import ITEMSIZE
from flash_moe.store.reader import DIRECT_ALIGNMENT

# Indices into one MLX array, in any of the views that a slab gets, stay below 2^31. A slab
# allocates a page more than its slots.
MAX_ELEMENTS = 2**31 - 1 - DIRECT_ALIGNMENT


@dataclass(frozen=True)
class SlabPlan:
    """One slab: which layers use it, how many slots, how far apart.

    Attributes:
        layers: Layer indices.
        slot_bytes: Distance between slots, the largest record of its layers.
    """

    layers: tuple[int, ...]
    n_slots: int
    slot_bytes: int

    @property
    def n_bytes(self) -> int:
        return self.n_slots * self.slot_bytes


def plan_slabs(layers: Sequence[ExpertLayer], budget_bytes: int, top_k: int) -> list[SlabPlan]:
    """Divide a budget into slabs.

    Args:
        layers: The MoE layers of the model.
        budget_bytes: Most bytes that all slabs together may take.
        top_k: Experts a token uses in each layer.

    Raises:
        BudgetError: The budget cannot hold one layer's experts of one token.
    """
    largest = max(layer.layout.record_bytes for layer in layers)
    one_token = token_bytes(layers, top_k)
    if budget_bytes < one_token:
        minimum = smallest_budget(layers, top_k)
        if budget_bytes < minimum:
            raise BudgetError(
                "bank",
                f"budget of {format_bytes(budget_bytes)}: expected at least "
                f"{format_least_gb(minimum)}, "
                f"one layer's {top_k} experts of one token at {largest} bytes",
                "Raise cache_gb, or lower top_k.",
            )
        n_slots = min(budget_bytes, *(_max_slab_bytes(layer) for layer in layers)) // largest
        return [SlabPlan(tuple(range(len(layers))), n_slots, largest)]
    # Equal slots for each layer, as far as the layer has experts.
    per_slot = sum(layer.layout.record_bytes for layer in layers)
    plans = []
    for index, layer in enumerate(layers):
        record = layer.layout.record_bytes
        n_slots = max(budget_bytes // per_slot, min(top_k, layer.n_experts))
        n_slots = min(n_slots, layer.n_experts, _max_slab_bytes(layer) // record)
        plans.append(SlabPlan((index,), n_slots, record))
    return plans


def smallest_budget(layers: Sequence[ExpertLayer], top_k: int) -> int:
    """Bytes that ``plan_slabs`` needs at least: one layer's experts of one token."""
    largest = max(layer.layout.record_bytes for layer in layers)
    one_layer = min(top_k, max(layer.n_experts for layer in layers)) * largest
    return min(one_layer, token_bytes(layers, top_k))


def _max_slab_bytes(layer: ExpertLayer) -> int:
    """The narrowest component decides, since the view of each spans the whole slab."""
    return MAX_ELEMENTS * min(ITEMSIZE[c.dtype] for c in layer.layout.components)
