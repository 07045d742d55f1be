"""Division of the memory of a run, and of a prompt into chunks: arithmetic on bytes.

What a process takes is what it took before, the resident weights, the bank of experts, and what
the pass over a chunk of a prompt needs for a moment. The last two are ours to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

from flash_moe.errors import BudgetError
from flash_moe.files.sizes import format_bytes, format_least_gb
from flash_moe.memory.prefill_workspace import Scratch
from flash_moe.memory.pressure import reserve

# Tokens of a chunk. With 10 of 512 experts a token so many ask for 7 of 10 experts of a layer; the
# tokens of shorter chunks hardly share experts.
MIN_CHUNK = 64
MAX_CHUNK = 8192
RESIDENT_CHUNK = 2048  # mlx-lm's own


@dataclass(frozen=True)
class MemoryPlan:
    """What a model may take.

    Attributes:
        bank_bytes: The budget of the bank.
        resident_bytes: The other weights, as they are computed on.
        prompt_bytes: For the pass over a chunk and the prompt cache; ``None`` if no limit was given
            and the machine's memory decides when the prompt comes.
    """

    bank_bytes: int
    resident_bytes: int
    prompt_bytes: int | None = None


def plan_for_limit(
    limit: int,
    *,
    taken: int,
    resident: int,
    expert_bytes: int,
    smallest_bank: int,
    scratch: Scratch,
) -> MemoryPlan:
    """Divide ``memory_gb``: a quarter of what is left goes to prompts, the rest to the bank.

    What the bank cannot use, because it holds all experts, goes to prompts as well.

    Args:
        limit: Most bytes of the whole process.
        taken: What it takes already.

    Raises:
        BudgetError: Not enough for the smallest bank and a chunk of 64 tokens; names the minimum.
    """
    smallest_chunk = scratch.n_bytes(MIN_CHUNK, MIN_CHUNK)
    left = limit - taken - resident
    if left < smallest_bank + smallest_chunk:
        minimum = taken + resident + smallest_bank + smallest_chunk
        raise BudgetError(
            "memory",
            f"memory_gb of {limit / 1e9:g}: expected at least {format_least_gb(minimum)}: "
            f"{format_bytes(taken)} taken already, {format_bytes(resident)} of resident weights, "
            f"{format_bytes(smallest_bank)} for the smallest bank, {format_bytes(smallest_chunk)} "
            f"for prompts in chunks of {MIN_CHUNK} tokens",
            "Raise memory_gb, or lower top_k.",
        )
    prompt = min(max(left // 4, smallest_chunk), left - smallest_bank)
    bank = min(left - prompt, expert_bytes)
    return MemoryPlan(bank, resident, left - bank)


def default_bank(
    *,
    machine: int,
    available: int | None,
    resident: int,
    expert_bytes: int,
    smallest_bank: int,
) -> int:
    """A budget for a machine: half of what the resident weights leave, at most all experts.

    The other half is for the system, its page cache and the activations; a bank that takes it all
    makes the machine swap. Nor does the bank take what other programs have now: twice the reserve
    stays available, so that it does not have to shrink at once. The smallest bank is taken whatever
    is available, if the machine has room for it at all.

    Args:
        machine: Memory of the machine.
        available: What could be taken now, before the resident weights are there; ``None`` if
            unknown.
    """
    budget = min(expert_bytes, max(machine - resident, 0) // 2)
    if available is not None:
        budget = min(budget, max(available - resident - 2 * reserve(machine), 0))
    if resident + smallest_bank <= machine:
        budget = max(budget, smallest_bank)
    return budget


def prompt_allowance(
    plan: MemoryPlan, *, bank: int, unfilled: int, machine: int, available: int | None
) -> int:
    """Bytes that the pass over a chunk of a prompt may take.

    With ``memory_gb`` what it leaves. Else a quarter of what the machine's memory leaves beside
    resident weights and bank, and at most half of what is available now beyond the reserve.

    Args:
        bank: Bytes of the bank as it is now.
        unfilled: Those of them that hold no experts yet, and will be taken while the pass runs.
    """
    if plan.prompt_bytes is not None:
        return plan.prompt_bytes
    allowance = max(machine - plan.resident_bytes - bank, 0) // 4
    if available is not None:
        allowance = min(allowance, max(available - unfilled - reserve(machine), 0) // 2)
    return allowance


def chunk_tokens(scratch: Scratch, allowance: int, context: int, *, all_held: bool) -> int:
    """The longest chunk for a prompt that ends at position ``context``.

    Each chunk needs nearly all experts of each layer, once, however long it is. A bank that cannot
    hold them all reads nearly all of them again for each chunk. So chunks are as long as memory
    allows, but 64 tokens at least. Where the bank holds all experts nothing is gained beyond
    mlx-lm's own length.

    Args:
        allowance: Bytes that the pass over a chunk may take.
        all_held: Whether the bank has room for all experts.
    """
    most = RESIDENT_CHUNK if all_held else MAX_CHUNK
    return min(max(scratch.largest_chunk(allowance, context), MIN_CHUNK), most)


def chunks(n_tokens: int, most: int) -> list[int]:
    """Lengths of the fewest chunks of at most ``most`` tokens, which differ by one at most."""
    n_chunks = -(-n_tokens // most)
    return [(n_tokens + i) // n_chunks for i in reversed(range(n_chunks))]
