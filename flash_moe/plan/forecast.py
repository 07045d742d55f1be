"""What a model would do on a machine before it is there: arithmetic, nothing is asked or read.

Every result says where it comes from; ``assumptions`` says it in sentences.

- **Slots** follow from sizes, as ``load()`` divides a budget.
- **Hit rate**: ``routing_model.py``. At worst the average of a text that begins with an empty bank,
  at best what a text that never changes its topic settles at.
- **Reads**: the misses, at the rate of the disk for random records. The page cache, which holds
  some of the experts in memory that is free beside the bank, is not counted.
- **Time of a token**: at best the longer of reading and computing, where computing is all weights
  of a token passing once at the rate given; at worst their sum, and what each MoE layer was seen
  to cost beside (``LAYER_COST``). Attention over a long context comes on top.

The upper end is a bound, not a promise: what is not modelled only takes time. Published by others
for the 397B, and what stands here for it, tokens/s:

- 4.36 on a 48 GB M3 Max, cut to 4 of 512 experts, 35 GB of page cache, 71 % hits. Here 4.2 to 9.8
  and 65 to 67 % with a bank of 35 GB, 5.5 GB/s of the disk, 400 GB/s of memory. There 1.9 of 4.3 ms
  a layer were not reads, though its weights pass in 0.3 ms; the lower end takes that from there.
- 8.8 on a 128 GB M5 Max, 10 of 512 experts, a bank of 90 GB, 83 % hits. Here 5.5 to 23.7 and 85 to
  88 % with 12 and 614 GB/s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flash_moe.errors import BudgetError
from flash_moe.memory.plan import MIN_CHUNK, default_bank, plan_for_limit
from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.memory.pressure import reserve
from flash_moe.plan.hit_rate_model import TEXT, hit_rates
from flash_moe.store.experts import ExpertLayer, expert_bytes, token_bytes
from flash_moe.stream.budget import SlabPlan, plan_slabs, smallest_budget

# A process with Python, MLX and mlx-lm, before the model (docs/experiments.md).
PROCESS_BYTES = 77_000_000


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from.

    Attributes:
        source: ``"measured"`` on this machine, ``"published"`` for another one, or ``"assumed"``.
        note: What was measured, or what is assumed.
    """

    value: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class Range:
    """A number between two. ``source`` as of ``Figure``."""

    low: float
    high: float
    source: str


# Seconds that a MoE layer was seen to take beside reads, by where MLX computes.
LAYER_COST = {
    "metal": Figure(
        0.0019,
        "published",
        "the original engine on an M3 Max, 4 of 512 experts: 4.28 ms a layer, 2.41 of them reads",
    ),
    "cuda": Figure(
        0.0042,
        "published",
        "flash_moe on an H100, 10 of 512 experts: 0.25 s for 60 layers (docs/performance.md)",
    ),
    "cpu": Figure(
        0.0014,
        "published",
        "flash_moe on 2 cores: up to 11 ms a token beyond resident mlx-lm in 8 layers "
        "(docs/experiments.md)",
    ),
}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model.

    Attributes:
        layers: Its MoE layers, as they would be packed.
        top_k: Experts of a token.
        resident_bytes: The other weights, as they are computed on.
        touched_bytes: Those of them that pass for each token: all but an embedding table of its
            own, of which a token needs one row.
        prefill_workspace: Estimate of the memory that a pass over a chunk of a prompt takes.
    """

    layers: tuple[ExpertLayer, ...]
    top_k: int
    resident_bytes: int
    touched_bytes: int
    prefill_workspace: PrefillWorkspace

    @property
    def expert_bytes(self) -> int:
        """All experts."""
        return expert_bytes(self.layers)

    @property
    def token_bytes(self) -> int:
        """The experts of a token."""
        return token_bytes(self.layers, self.top_k)


@dataclass(frozen=True)
class Machine:
    """What decides about speed and room.

    Attributes:
        read_bytes_per_s: Cold random reads of whole records.
        weight_bytes_per_s: How fast weights pass when one token is computed; the bandwidth of the
            memory is the most that can be.
        memory_bytes: What a process may use.
        available_bytes: What could be taken now; ``None`` if unknown.
        layer_s: Seconds for each MoE layer beside reading and the passing of weights.
    """

    read_bytes_per_s: Figure
    weight_bytes_per_s: Figure
    memory_bytes: int
    available_bytes: int | None
    layer_s: Figure


@dataclass(frozen=True)
class Forecast:
    """What is to be expected with one size of the bank.

    ``low`` of a range is the smaller number. What has no source of its own follows from sizes.

    Attributes:
        bank_bytes: What the slots take; less than was asked for, since slots are whole.
        slots: Of each MoE layer; of all layers together where they share a slab.
        shared: Whether they do: the bank cannot hold the experts of one token.
        hit_rate: 0 to 1, of the experts asked for.
        read_bytes: From the disk, a token.
        read_s: For that.
        compute_s: For the weights of a token.
        tokens_per_s: Of an answer.
        chunk_read_s: The most that a chunk of a prompt can wait for reads: every expert that is not
            held, once, whatever its length.
        memory_bytes: Of the process, with the smallest chunk of a prompt.
        fits: Whether the machine has that and the reserve of ``pressure.reserve``.
        fits_now: Whether it is available now; ``None`` if unknown.
    """

    bank_bytes: int
    slots: tuple[int, ...]
    shared: bool
    hit_rate: Range
    read_bytes: Range
    read_s: Range
    compute_s: Figure
    tokens_per_s: Range
    chunk_read_s: Figure
    memory_bytes: int
    fits: bool
    fits_now: bool | None


def forecast(shape: ModelShape, machine: Machine, bank_bytes: int) -> Forecast:
    """What to expect with a bank of at most so many bytes.

    Raises:
        BudgetError: As of ``plan_slabs``: it cannot hold one layer's experts of one token.
    """
    plans = plan_slabs(shape.layers, bank_bytes, shape.top_k)
    shared = len(plans[0].layers) > 1
    asked = 0
    hits = np.zeros(2)  # a token, at the low and the high rate
    missed_bytes = np.zeros(2)
    for layer, n_slots in _slots_of(shape, plans):
        n = min(shape.top_k, layer.n_experts)
        # In a shared slab the layers between push out what one asked for.
        rates = np.zeros(2) if shared else np.array(hit_rates(layer.n_experts, n, n_slots))
        asked += n
        hits += n * rates
        missed_bytes += n * (1 - rates) * layer.layout.record_bytes
    low, high = (hits / asked).tolist()
    most, least = missed_bytes.tolist()
    disk = machine.read_bytes_per_s
    compute_s = (shape.touched_bytes + shape.token_bytes) / machine.weight_bytes_per_s.value
    slow = most / disk.value + compute_s + len(shape.layers) * machine.layer_s.value
    fast = max(least / disk.value, compute_s)
    bank = sum(plan.n_bytes for plan in plans)
    chunk = shape.prefill_workspace.n_bytes(MIN_CHUNK, MIN_CHUNK)
    memory = PROCESS_BYTES + shape.resident_bytes + bank + chunk
    needed = memory + reserve(machine.memory_bytes)
    now = machine.available_bytes
    return Forecast(
        bank_bytes=bank,
        slots=tuple(plan.n_slots for plan in plans),
        shared=shared,
        hit_rate=Range(low, high, "assumed"),
        read_bytes=Range(least, most, "assumed"),
        read_s=Range(least / disk.value, most / disk.value, "assumed"),
        compute_s=Figure(compute_s, "assumed", "the weights of a token pass once, nothing else"),
        tokens_per_s=Range(1 / slow, 1 / fast, "assumed"),
        chunk_read_s=Figure((shape.expert_bytes - bank) / disk.value, disk.source, disk.note),
        memory_bytes=memory,
        fits=needed <= machine.memory_bytes,
        fits_now=None if now is None else needed <= now,
    )


def budgets(
    shape: ModelShape, machine: Machine, shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0)
) -> dict[float | None, int]:
    """Sizes of the bank to look at.

    Returns:
        Under ``None`` what ``load()`` would take unasked, now. Under each share of the machine's
        memory what ``memory_gb`` of so much would leave to the bank; too small shares are left out.
    """
    smallest = smallest_budget(shape.layers, shape.top_k)
    found: dict[float | None, int] = {
        None: max(
            default_bank(
                machine=machine.memory_bytes,
                available=machine.available_bytes,
                resident=shape.resident_bytes,
                expert_bytes=shape.expert_bytes,
                smallest_bank=smallest,
            ),
            smallest,
        )
    }
    for share in shares:
        try:
            plan = plan_for_limit(
                int(share * machine.memory_bytes),
                taken=PROCESS_BYTES,
                resident=shape.resident_bytes,
                expert_bytes=shape.expert_bytes,
                smallest_bank=smallest,
                workspace=shape.prefill_workspace,
            )
        except BudgetError:
            continue
        found[share] = plan.bank_bytes
    return found


def assumptions(machine: Machine) -> tuple[str, ...]:
    """What a forecast for this machine rests on, in sentences to print, each with its source."""
    gb_s = {
        "Reads of the disk": machine.read_bytes_per_s,
        "Weights that pass when a token is computed": machine.weight_bytes_per_s,
    }
    return (
        *(f"{what}: {f.value / 1e9:.3g} GB/s, {f.source}: {f.note}." for what, f in gb_s.items()),
        f"Beside them {machine.layer_s.value * 1e3:.3g} ms for each MoE layer at worst, nothing at "
        f"best; {machine.layer_s.source}: {machine.layer_s.note}.",
        "Hit rate, assumed: routing like a published run of Qwen3.5-397B on one text, least "
        f"recently used; from an empty bank over {TEXT} tokens, and settled. Other models and "
        "texts were 5 to 15 points off.",
        "Not counted: experts in the page cache, attention over a long context.",
    )


def _slots_of(shape: ModelShape, plans: Sequence[SlabPlan]) -> Iterator[tuple[ExpertLayer, int]]:
    """Each layer with the slots of its slab."""
    for plan in plans:
        for index in plan.layers:
            yield shape.layers[index], plan.n_slots


@dataclass(frozen=True)
class Row:
    """One size of the bank.

    Attributes:
        label: The option that gives it.
    """

    label: str
    forecast: Forecast
