"""Lengths of the passes over a prompt, as the memory available to a loaded model allows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flash_moe.compat.mlx_lm import cached_positions
from flash_moe.memory.measured_workspace import WorkspaceMeter
from flash_moe.memory.plan import MemoryPlan, chunk_tokens, chunks, prompt_allowance, tiles
from flash_moe.model.streaming import Streaming
from flash_moe.stream.bank import ExpertBank


class PromptLengths:
    """Division of prompts into chunks and tiles.

    Args:
        bank: The model's expert bank.

    Attributes:
        plan: Division of memory made when the model was loaded.
        workspace: Estimate of the memory of the pass over a chunk of a prompt.
        meter: Measurements of that memory, which replace the estimate.
    """

    def __init__(self, streaming: Streaming, plan: MemoryPlan, bank: ExpertBank) -> None:
        self._streaming, self._bank = streaming, bank
        self.plan = plan
        self.workspace = streaming.prefill_workspace()
        self.meter = WorkspaceMeter(self.workspace, lambda: self.unfilled_bytes)

    @property
    def unfilled_bytes(self) -> int:
        """Bytes of the bank's slots that contain no experts yet."""
        return self._bank.n_bytes - self._bank.cached_bytes

    def chunks_of(self, n_tokens: int, cache: Sequence[Any], n_rows: int = 1) -> list[int]:
        """Return the lengths of the chunks of a prompt.

        Args:
            n_rows: Number of prompts that are processed at once.
        """
        most = self._streaming.smallest(self._longest(n_tokens, cache)[0], n_tokens)
        return chunks(n_tokens, max(most // n_rows, 1))

    def tiles_of(self, n_tokens: int, cache: Sequence[Any], marks: Sequence[int]) -> list[int]:
        """Return the lengths of the tiles of the next pass over a prompt.

        The pass over one tile is that over a chunk; several are for ``layer_pass``. Together they
        are as many tokens as available memory allows.

        Args:
            marks: Numbers of tokens at which one of several tiles has to end.
        """
        most, tile_of = self._longest(n_tokens, cache)
        # All ranks then call tile_of for the same numbers, in the same order.
        smallest = functools.partial(self._streaming.smallest, n_tokens=n_tokens)
        most, fits_all = smallest(most), bool(smallest(self._bank.fits_all))
        return tiles(n_tokens, most, lambda n: smallest(tile_of(n)), marks, fits_all=fits_all)

    def _longest(self, n_tokens: int, cache: Sequence[Any]) -> tuple[int, Callable[[int], int]]:
        """Return the longest chunk, and the longest tile of a pass over so many tokens."""
        machine, available = self._streaming.memory_share()
        allowance = prompt_allowance(
            self.plan,
            bank=self._bank.n_bytes,
            unfilled=self.unfilled_bytes,
            machine=machine,
            available=available,
        )
        before = cached_positions(cache)
        context = before + n_tokens

        def tile_of(n_tokens: int) -> int:
            left = allowance - self.workspace.layer_pass(n_tokens, context)
            measured = self.meter.largest_chunk(left, context, before)
            return self.workspace.largest_chunk(left, context) if measured is None else measured

        measured = self.meter.largest_chunk(allowance, context, before)
        fits_all = self._bank.fits_all
        most = chunk_tokens(
            self.workspace, allowance, context, fits_all=fits_all, measured=measured
        )
        return most, tile_of
