"""Division of memory between bank and prompts, and of prompts into chunks: arithmetic on bytes.

A process takes the memory it had before loading, the resident weights, the bank, and the prefill
workspace of a chunk. The sizes of the bank and of the chunk are chosen here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flash_moe.errors import BudgetError
from flash_moe.files.sizes import format_bytes, format_least_gb
from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.memory.pressure import reserve

# Tokens of a chunk. With 10 of 512 experts per token, 64 tokens need 7 of 10 experts of a layer;
# the tokens of shorter chunks hardly share experts.
MIN_CHUNK = 64
MAX_CHUNK = 8192
RESIDENT_CHUNK = 2048  # mlx-lm's own
# Freed memory that stays in the process between passes. To return and allocate it again took a
# prompt of 40 tokens 13 % of its time on the demo model, and one of 512 tokens 1 % on ``mid``.
KEPT_BYTES = 64_000_000


@dataclass(frozen=True)
class MemoryPlan:
    """Memory limits of a model.

    Attributes:
        bank_bytes: Budget of the bank.
        resident_bytes: Size of the resident weights, in the dtype of the computation.
        prompt_bytes: Limit of prefill workspace and prompt cache; ``None`` if no limit was given:
            then the memory available when a prompt arrives is the limit.
    """

    bank_bytes: int
    resident_bytes: int
    prompt_bytes: int | None = None

    @property
    def kept_bytes(self) -> int:
        """Freed memory that may stay in the process between passes; none under a limit."""
        return KEPT_BYTES if self.prompt_bytes is None else 0


def plan_for_limit(
    limit: int,
    *,
    taken: int,
    resident: int,
    expert_bytes: int,
    smallest_bank: int,
    workspace: PrefillWorkspace,
) -> MemoryPlan:
    """Divide ``memory_gb``: a quarter of the remainder goes to prompts, the rest to the bank.

    Memory beyond the size of all experts goes to prompts as well.

    Args:
        limit: Maximum bytes of the whole process.
        taken: Bytes that the process takes already.

    Raises:
        BudgetError: ``limit`` is too small for the smallest bank and a chunk of 64 tokens.
    """
    smallest_chunk = workspace.n_bytes(MIN_CHUNK, MIN_CHUNK)
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
    """Return a budget for a machine: half of its memory without the resident weights.

    The budget is at most the size of all experts. The other half is for the system, its page cache
    and the activations; a bank that takes all memory makes the machine swap. The bank leaves twice
    the reserve available in addition to the memory of other programs, so that it does not have to
    shrink at once. It gets its smallest size whatever is available, if that fits the machine at
    all.

    Args:
        machine: Memory of the machine.
        available: Bytes available now, before the resident weights are loaded; ``None`` if unknown.
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
    """Return the bytes allowed for the pass over a chunk of a prompt.

    With ``memory_gb`` this is the rest of that limit. Otherwise it is a quarter of the machine's
    memory without resident weights and bank, but at most half of the memory available now beyond
    the reserve.

    Args:
        bank: Bytes of the bank now.
        unfilled: Bytes of its slots without experts; a pass may fill them.
    """
    if plan.prompt_bytes is not None:
        return plan.prompt_bytes
    allowance = max(machine - plan.resident_bytes - bank, 0) // 4
    if available is not None:
        allowance = min(allowance, max(available - unfilled - reserve(machine), 0) // 2)
    return allowance


def chunk_tokens(
    workspace: PrefillWorkspace,
    allowance: int,
    context: int,
    *,
    fits_all: bool,
    measured: int | None = None,
) -> int:
    """Return the longest chunk for a prompt that ends at position ``context``.

    Each chunk needs nearly all experts of each layer, once, whatever its length. A bank that is too
    small for all experts reads nearly all of them again for each chunk, so chunks are as long as
    memory allows, and at least 64 tokens. If all experts fit, chunks longer than mlx-lm's own gain
    nothing.

    Args:
        allowance: Bytes allowed for the pass over a chunk.
        fits_all: True if the bank has a slot for every expert.
        measured: Longest chunk by measured passes; it replaces the estimate.
    """
    most = RESIDENT_CHUNK if fits_all else MAX_CHUNK
    longest = workspace.largest_chunk(allowance, context) if measured is None else measured
    return min(max(longest, MIN_CHUNK), most)


def chunks(n_tokens: int, most: int) -> list[int]:
    """Return the lengths of the fewest chunks of at most ``most`` tokens; they differ by 1."""
    n_chunks = -(-n_tokens // most)
    return [(n_tokens + i) // n_chunks for i in reversed(range(n_chunks))]


def tiles(
    n_tokens: int,
    most: int,
    tile_of: Callable[[int], int],
    marks: Sequence[int] = (),
    *,
    fits_all: bool,
) -> list[int]:
    """Return the lengths of the tiles of the next pass over a prompt; one tile is a chunk.

    A pass over several tiles reads each expert once, so the prompt is divided into the fewest
    passes of tiles of at least 64 tokens. If all experts fit, chunks read no more than such a pass
    and take less time (docs/experiments.md).

    Args:
        most: The longest chunk.
        tile_of: Longest tile of a pass over so many tokens that fits in memory.
        marks: Numbers of tokens at which one of several tiles ends; fewer tokens may be between.
        fits_all: True if the bank has a slot for every expert.
    """
    ends = [mark for mark in sorted(set(marks)) if 0 < mark < n_tokens]
    chunk = chunks(n_tokens, most)[0]
    for n_passes in range(1, n_tokens + 1):
        n = -(-n_tokens // n_passes)
        if fits_all or n <= chunk:
            break
        tile = min(tile_of(n), RESIDENT_CHUNK)
        if tile >= min(n, MIN_CHUNK):
            inner = [end for end in ends if end < n]
            parts = itertools.pairwise([0, *inner, n])
            return [length for begin, end in parts for length in chunks(end - begin, tile)]
    return [chunk]
