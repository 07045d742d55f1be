"""Division of the bank's budget into slabs and slots: arithmetic on sizes.

With a budget of at least one token's experts (top-k of every layer) each layer gets its own slots:
least recently used within a layer loses nothing compared with a global order, because layers take
turns anyway. Below that all layers share one set of slots, and only the page cache of the system
keeps experts in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flash_moe.errors import BudgetError
from flash_moe.files.sizes import format_bytes, format_least_gb
from flash_moe.store.experts import ExpertLayer, token_bytes
from flash_moe.store.layout import ITEMSIZE
from flash_moe.store.reader import DIRECT_ALIGNMENT

# Element indices of every view of a slab stay below 2^31. A slab allocates one page more than its
# slots.
MAX_ELEMENTS = 2**31 - 1 - DIRECT_ALIGNMENT


@dataclass(frozen=True)
class SlabPlan:
    """Size of one slab: its layers, number of slots and distance between slots.

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
        budget_bytes: Maximum bytes of all slabs together.
        top_k: Experts per token and layer.

    Raises:
        BudgetError: The budget is smaller than one layer's experts of one token.
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
    # The same number of slots for each layer, up to its number of experts.
    per_slot = sum(layer.layout.record_bytes for layer in layers)
    plans = []
    for index, layer in enumerate(layers):
        record = layer.layout.record_bytes
        n_slots = max(budget_bytes // per_slot, min(top_k, layer.n_experts))
        n_slots = min(n_slots, layer.n_experts, _max_slab_bytes(layer) // record)
        plans.append(SlabPlan((index,), n_slots, record))
    return plans


def smallest_budget(layers: Sequence[ExpertLayer], top_k: int) -> int:
    """Smallest budget that ``plan_slabs`` accepts: one layer's experts of one token."""
    largest = max(layer.layout.record_bytes for layer in layers)
    one_layer = min(top_k, max(layer.n_experts for layer in layers)) * largest
    return min(one_layer, token_bytes(layers, top_k))


def _max_slab_bytes(layer: ExpertLayer) -> int:
    """Maximum bytes of a slab. The narrowest dtype decides: each view spans the whole slab."""
    return MAX_ELEMENTS * min(ITEMSIZE[c.dtype] for c in layer.layout.components)
