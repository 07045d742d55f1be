"""Logits of a window, in slices of positions, and those of the reference in a temporary file.

A vocabulary of 248,000 makes 1 MB of logits a position, so a window is computed slice by slice,
with a prompt cache in between: for each slice the model is called once, as mlx-lm calls it.
Experts are read once for all positions of a slice, so long slices read less.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.errors import ConfigError
from flash_moe.eval.windows import Window
from flash_moe.files.sizes import format_bytes
from flash_moe.memory.system import available_memory, release_free_memory, usable_memory
from flash_moe.model.streamed import StreamedModel

Floats = npt.NDArray[np.float32]

# Bytes of the float32 logits of a slice, where memory is short; and positions at least, because
# the experts of fewer are read nearly one by one.
SLICE_BYTES = 64_000_000
MIN_SLICE = 16
# Else a slice takes so much of what is available: with its copies a tenth.
_SHARE = 32


def slice_length(vocab_size: int, n_bytes: int, longest: int) -> int:
    """Positions of a slice whose float32 logits take ``n_bytes``; at least 16, if there are."""
    return min(longest, max(MIN_SLICE, n_bytes // (4 * vocab_size)))


def slice_for(model: Any, vocab_size: int, longest: int, *, memory_limited: bool) -> int:
    """Positions of a slice for a model on this machine.

    One length is used for all runs of an evaluation, so that they are computed alike: a product of
    another number of rows may be rounded in another way.

    Args:
        longest: Positions of the longest window.
        memory_limited: Whether the user limited the memory of the process; slices are small then.
    """
    n_bytes = SLICE_BYTES
    if not memory_limited:
        available = available_memory()
        n_bytes = max(n_bytes, (usable_memory() // 4 if available is None else available) // _SHARE)
    length = slice_length(vocab_size, n_bytes, longest)
    if isinstance(model, StreamedModel):
        # What memory allows for the pass itself.
        length = min(length, model.chunks_of(longest, make_prompt_cache(model))[0])
    return length


def logits_of(
    model: Any, windows: Sequence[Window], size: int
) -> Iterator[tuple[Floats, tuple[int, ...]]]:
    """Logits of windows, at most ``size`` positions at a time.

    Returns:
        Pairs of logits, float32 [positions, vocabulary], and the tokens that came, one a position.
    """
    for window in windows:
        cache = make_prompt_cache(model)
        for start in range(0, len(window.inputs), size):
            part = slice(start, start + size)
            logits = model(mx.array([window.inputs[part]]), cache=cache)[0].astype(mx.float32)
            # The state after the last position is part of no logits, and would stay a graph.
            mx.eval(logits, [c.state for c in cache])
            rows = np.array(logits)
            del logits
            mx.clear_cache()
            release_free_memory()
            yield rows, window.targets[part]


class ReferenceLogits:
    """Logits of all positions, in order, in a file that has no name and vanishes when closed.

    float32 holds those of any model exactly; probabilities are made of them in float64. Where the
    system lets a file go on without a name, nothing is left even of a process that was killed.

    Args:
        n_positions: Rows that there will be.
        vocab_size: Numbers of a row.

    Raises:
        ConfigError: The disk has no room for them.
    """

    def __init__(self, n_positions: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._n_bytes = 4 * n_positions * vocab_size
        self._directory = tempfile.gettempdir()
        free = shutil.disk_usage(self._directory).free
        if free < self._n_bytes:
            raise self._too_small(f"{format_bytes(free)} are free")
        self._file = tempfile.TemporaryFile(prefix="flash-moe-eval-")  # noqa: SIM115

    def _too_small(self, found: str) -> ConfigError:
        return ConfigError(
            "eval",
            f"the probabilities of the reference take {format_bytes(self._n_bytes)} in "
            f"{self._directory}: {found}",
            "Make room, set TMPDIR to a directory on another disk, or take fewer --tokens.",
        )

    def append(self, rows: Floats) -> None:
        """Write the next rows, [n, vocabulary].

        Raises:
            ConfigError: The disk is full.
        """
        try:
            self._file.write(rows.reshape(-1).view(np.uint8).data)
            self._file.flush()
        except OSError as error:
            raise self._too_small(error.strerror or str(error)) from error

    def rows(self, start: int, n: int) -> Floats:
        """Rows ``start`` to ``start + n``, [n, vocabulary]."""
        found = np.empty((n, self.vocab_size), np.float32)
        self._file.seek(4 * start * self.vocab_size)
        # A buffered file reads all of it, or up to its end.
        if self._file.readinto(found.reshape(-1).view(np.uint8).data) != found.nbytes:
            raise ConfigError("eval", "the temporary file of the reference was cut short")
        return found

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> ReferenceLogits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
