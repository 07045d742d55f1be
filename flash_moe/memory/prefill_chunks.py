"""How a prompt is cut into chunks: by its length and the memory there is.

Each chunk asks for nearly all experts of each layer, once, however long it is. So a bank that
cannot hold them all reads nearly all of them again for each chunk, and the fewer chunks the better:
they are as long as memory allows, up to 8192 tokens. Where the bank holds all experts nothing is
gained beyond mlx-lm's own 2048.
"""

from __future__ import annotations

from flash_moe.memory.plan import MIN_CHUNK
from flash_moe.memory.prefill_workspace import Scratch

MAX_CHUNK = 8192
RESIDENT_CHUNK = 2048  # mlx-lm's own


def chunk_tokens(scratch: Scratch, allowance: int, context: int, *, all_held: bool) -> int:
    """The longest chunk for a prompt that ends at position ``context``.

    At least 64 tokens, also where memory does not allow for them.

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
