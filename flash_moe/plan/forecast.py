"""Forecast of speed and memory of a model on a machine: pure arithmetic, without any I/O.

Every result has a source; ``assumptions.py`` has the assumptions in sentences.

- **Slots** follow from sizes, as ``load()`` divides a budget.
- **Hit rate**: ``hit_rate_model.py``. The lower end is the average of a text that starts with an
  empty bank, the upper end the steady state of a text that never changes its topic.
- **Reads**: the misses, at the disk's rate for random records. The page cache, which keeps some
  experts in free memory outside of the bank, is not counted.
- **Time per token**: at best the longer of reading and computing, where computing is one pass over
  all weights of a token at the given rate; at worst their sum plus a measured cost per MoE layer
  (``LAYER_COST``). Attention over a long context is extra.
  On a CPU one core computes everything but the experts, and several compute those
  (``ops/cpu_streams.py``).
- **A GPU with memory of its own**: ``device_tiers.py`` has the formula.
- **Several machines**: each has 1/N of every expert, so it reads and computes 1/N of the bytes, and
  the same bank holds N times as many experts. Reads, computing and hit rate follow from the sizes
  of the part; the cost per layer is not divided. Messages (``COLLECTIVE``) are added: at worst all,
  at best half of them, next to computing.

The upper end of a speed is a bound, not a promise: everything that is not modelled only takes time.
Published by others for the 397B, compared with this forecast, in tokens/s:

- 4.36 on a 48 GB M3 Max, cut to 4 of 512 experts, 35 GB of page cache, 71 % hits. Forecast: 4.2 to
  9.8 and 65 to 67 % with a bank of 35 GB, 5.5 GB/s of disk, 400 GB/s of memory. In that run 1.9 of
  4.3 ms per layer were not reads, although one pass over its weights takes 0.3 ms; the lower end
  uses that cost.
- 8.8 on a 128 GB M5 Max, 10 of 512 experts, a bank of 90 GB, 83 % hits. Forecast: 5.5 to 23.7 and
  85 to 88 % with 12 and 614 GB/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flash_moe.errors import BudgetError
from flash_moe.memory.plan import MIN_CHUNK, default_bank, plan_for_limit
from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.memory.pressure import reserve
from flash_moe.plan.device_tiers import PYTHON_READERS, DeviceTiers, device_token
from flash_moe.plan.figure import Figure, Range
from flash_moe.plan.hit_rate_model import hit_rates
from flash_moe.store.experts import ExpertLayer, expert_bytes, token_bytes
from flash_moe.stream.budget import plan_slabs, smallest_budget

# A process with Python, MLX and mlx-lm, before the model (docs/experiments.md).
PROCESS_BYTES = 77_000_000


# Measured seconds per MoE layer beyond reads, by MLX's backend.
LAYER_COST = {
    "metal": Figure(
        0.0019,
        "published",
        "the original engine on an M3 Max, 4 of 512 experts: 4.28 ms per layer, 2.41 of them reads",
    ),
    "cuda": PYTHON_READERS.layer_s,
    "cpu": Figure(
        0.0014,
        "published",
        "flash_moe on 2 cores: up to 11 ms per token beyond resident mlx-lm in 8 layers "
        "(docs/experiments.md)",
    ),
}


# Seconds of one sum over all machines, of one token's activations. Measured on one host: 86 to 175
# us on the loopback of 2 cores, 40 us between two H200 over NVLink. Between Macs it was not seen.
COLLECTIVE = Range(50e-6, 300e-6, "assumed")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        layers: MoE layers, as packed.
        top_k: Experts per token and layer.
        resident_bytes: Resident weights, in their compute dtype.
        touched_bytes: Resident weights that each token reads: all but a separate embedding table,
            of which a token needs one row.
        prefill_workspace: Memory of a pass over a chunk of a prompt.
        machines: Machines among which the model is divided; all sizes are those of one.
        collectives: Sums over all machines per token, at worst: two per decoder layer, after
            attention and after the experts.
    """

    layers: tuple[ExpertLayer, ...]
    top_k: int
    resident_bytes: int
    touched_bytes: int
    prefill_workspace: PrefillWorkspace
    machines: int = 1
    collectives: int = 0

    @property
    def expert_bytes(self) -> int:
        """Bytes of all experts."""
        return expert_bytes(self.layers)

    @property
    def token_bytes(self) -> int:
        """Bytes of the experts of one token."""
        return token_bytes(self.layers, self.top_k)


@dataclass(frozen=True)
class Machine:
    """Speed and memory of a machine.

    Attributes:
        read_bytes_per_s: Cold random reads of whole records.
        weight_bytes_per_s: Weight bytes per second when one token is computed; at most the memory
            bandwidth.
        memory_bytes: Memory that a process may use.
        available_bytes: Memory available now; ``None`` if unknown.
        layer_s: Seconds per MoE layer beyond reading experts and streaming weights.
        collective_s: Seconds of one sum over all machines.
        tiers: Tiers behind a GPU with memory of its own; ``None`` where host and device share it.
        expert_share: Largest share of the experts of a token that one core computes, where several
            do; ``weight_bytes_per_s`` is then the rate of a core.
    """

    read_bytes_per_s: Figure
    weight_bytes_per_s: Figure
    memory_bytes: int
    available_bytes: int | None
    layer_s: Figure
    collective_s: Range = COLLECTIVE
    tiers: DeviceTiers | None = None
    expert_share: float = 1.0

    @property
    def rates_known(self) -> bool:
        """True if times and tokens/s can be forecast."""
        rates = [self.read_bytes_per_s, self.weight_bytes_per_s]
        rates += self.tiers.rates if self.tiers else []
        return all(math.isfinite(rate.value) for rate in rates)


@dataclass(frozen=True)
class Forecast:
    """Forecast for one size of the bank.

    ``low`` of a range is the smaller number. Attributes without a source follow from sizes.

    Attributes:
        bank_bytes: Bytes of the slots; at most the budget, because slots are whole.
        slots: Slots per MoE layer; one number if all layers share a slab.
        shared: True if they do, because the bank cannot hold the experts of one token.
        hit_rate: Share of cached experts among those used, 0 to 1.
        read_bytes: Bytes read from the disk per token.
        read_s: Seconds for these reads; with tiers, of waiting for copies and reads.
        compute_s: Seconds for the weights of a token.
        message_s: Seconds of sums over all machines per token; 0 on one machine.
        tokens_per_s: Decode speed.
        chunk_read_s: Maximum seconds of reads for a chunk of a prompt: every expert that is not
            cached, once, for any length.
        memory_bytes: Memory of the process, with the smallest chunk of a prompt.
        fits: True if the machine has that plus the reserve of ``pressure.reserve``.
        fits_now: True if it is available now; ``None`` if unknown.
    """

    bank_bytes: int
    slots: tuple[int, ...]
    shared: bool
    hit_rate: Range
    read_bytes: Range
    read_s: Range
    compute_s: Figure
    message_s: Range
    tokens_per_s: Range
    chunk_read_s: Figure
    memory_bytes: int
    fits: bool
    fits_now: bool | None


def forecast(shape: ModelShape, machine: Machine, bank_bytes: int) -> Forecast:
    """Return the forecast for a bank of at most ``bank_bytes``.

    Raises:
        BudgetError: As for ``plan_slabs``: the bank cannot hold one layer's experts of one token.
    """
    plans = plan_slabs(shape.layers, bank_bytes, shape.top_k)
    shared = len(plans[0].layers) > 1
    used = 0
    hits = np.zeros(2)  # per token, at the low and the high rate
    missed_bytes = np.zeros(2)
    slots_of = [(shape.layers[index], plan.n_slots) for plan in plans for index in plan.layers]
    for layer, n_slots in slots_of:
        n = min(shape.top_k, layer.n_experts)
        # In a shared slab the other layers evict the experts of each layer.
        rates = np.zeros(2) if shared else np.array(hit_rates(layer.n_experts, n, n_slots))
        used += n
        hits += n * rates
        missed_bytes += n * (1 - rates) * layer.layout.record_bytes
    low, high = (hits / used).tolist()
    most, least = missed_bytes.tolist()
    disk = machine.read_bytes_per_s
    expert_bytes_of_a_core = machine.expert_share * shape.token_bytes
    compute_s = (shape.touched_bytes + expert_bytes_of_a_core) / machine.weight_bytes_per_s.value
    one = machine.collective_s
    message = Range(one.low * shape.collectives / 2, one.high * shape.collectives, one.source)
    read_s = Range(least / disk.value, most / disk.value, "assumed")
    slow = read_s.high + compute_s + len(shape.layers) * machine.layer_s.value + message.high
    fast = max(read_s.low, compute_s + message.low)
    bank = sum(plan.n_bytes for plan in plans)
    chunk_s = (shape.expert_bytes - bank) / disk.value
    if machine.tiers is not None:
        token = device_token(
            [(layer, 0 if shared else n_slots) for layer, n_slots in slots_of],
            shape.top_k,
            machine.tiers,
            compute_s=compute_s,
            layer_s=machine.layer_s.value,
            disk=disk.value,
        )
        most, least = token.disk_bytes.tolist()
        longest, shortest = token.wait_s.tolist()
        read_s = Range(shortest, longest, "assumed")
        slow, fast = (token.seconds + np.array([message.high, message.low])).tolist()
        chunk_s = machine.tiers.seconds(shape.expert_bytes - bank, disk.value)
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
        read_s=read_s,
        compute_s=Figure(
            compute_s, "assumed", "one pass over the weights of a token, nothing else"
        ),
        message_s=message,
        tokens_per_s=Range(1 / slow, 1 / fast, "assumed"),
        chunk_read_s=Figure(chunk_s, disk.source, disk.note),
        memory_bytes=memory,
        fits=needed <= machine.memory_bytes,
        fits_now=None if now is None else needed <= now,
    )


def budgets(shape: ModelShape, machine: Machine) -> dict[float | None, int]:
    """Return sizes of the bank to forecast.

    Returns:
        Under ``None`` the current default of ``load()``. Under shares of the machine's memory the
        bank that this ``memory_gb`` leaves; too small shares are left out.
    """
    smallest = smallest_budget(shape.layers, shape.top_k)
    banks: dict[float | None, int] = {
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
    for share in (0.25, 0.5, 0.75, 1.0):
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
        banks[share] = plan.bank_bytes
    return banks
