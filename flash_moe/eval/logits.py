"""Logits of windows, in slices of positions, and a temporary file of the reference's logits.

A vocabulary of 248,000 takes 1 MB of logits per position, so a window is computed slice by slice
with a prompt cache: one forward pass per slice, as in mlx-lm's prefill. Experts are read once for
all positions of a slice, so long slices read less.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
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

# Bytes of the float32 logits of a slice where memory is short, and its minimum positions: shorter
# slices share few expert reads.
SLICE_BYTES = 64_000_000
MIN_SLICE = 16
# Otherwise a slice takes this fraction of available memory; with its copies, a tenth.
_SHARE = 32


def slice_length(vocab_size: int, n_bytes: int, longest: int) -> int:
    """Return the positions of a slice with ``n_bytes`` of logits, at least 16 unless shorter."""
    return min(longest, max(MIN_SLICE, n_bytes // (4 * vocab_size)))


def slice_for(model: Any, vocab_size: int, longest: int, *, memory_limited: bool) -> int:
    """Return the positions of a slice for a model on this machine.

    All runs of an evaluation use one length, because matrix products with different numbers of rows
    may round differently.

    Args:
        longest: Positions of the longest window.
        memory_limited: The user limited the memory of the process; slices are small.
    """
    n_bytes = SLICE_BYTES
    if not memory_limited:
        available = available_memory()
        n_bytes = max(n_bytes, (usable_memory() // 4 if available is None else available) // _SHARE)
    length = slice_length(vocab_size, n_bytes, longest)
    if isinstance(model, StreamedModel):
        # The forward pass must fit in memory too.
        length = min(length, model.lengths.chunks_of(longest, make_prompt_cache(model))[0])
    return length


def logits_of(
    model: Any, windows: Sequence[Window], size: int
) -> Iterator[tuple[Floats, tuple[int, ...]]]:
    """Yield logits of windows, at most ``size`` positions at a time.

    Returns:
        Pairs of logits, float32 [positions, vocabulary], and target tokens, one per position.
    """
    for window in windows:
        cache = make_prompt_cache(model)
        for start in range(0, len(window.inputs), size):
            part = slice(start, start + size)
            logits = model(mx.array([window.inputs[part]]), cache=cache)[0].astype(mx.float32)
            # No logits depend on the state after the last position; it would stay a lazy graph.
            mx.eval(logits, [c.state for c in cache])
            rows = np.array(logits)
            del logits
            mx.clear_cache()
            release_free_memory()
            yield rows, window.targets[part]


class ReferenceLogits:
    """Logits of all positions, in order, in an unnamed temporary file.

    float32 is exact for the logits of any model; probabilities are computed from them in float64.
    Where the system supports unnamed files, even a killed process leaves nothing.

    Args:
        n_positions: Number of rows.
        vocab_size: Logits per row.

    Raises:
        ConfigError: The disk is too small.
    """

    def __init__(self, n_positions: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._n_bytes = 4 * n_positions * vocab_size
        self._directory = tempfile.gettempdir()
        free = shutil.disk_usage(self._directory).free
        if free < self._n_bytes:
            raise self._too_small(f"{format_bytes(free)} are free")
        self._file = tempfile.TemporaryFile(prefix="flash-moe-eval-")  # noqa: SIM115

    def _too_small(self, problem: str) -> ConfigError:
        return ConfigError(
            "eval",
            f"the logits of the reference take {format_bytes(self._n_bytes)} in "
            f"{self._directory}: {problem}",
            "Free disk space, set TMPDIR to a directory on another disk, or use fewer --tokens.",
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
        rows = np.empty((n, self.vocab_size), np.float32)
        self._file.seek(4 * start * self.vocab_size)
        # A buffered file reads everything or up to its end.
        if self._file.readinto(rows.reshape(-1).view(np.uint8).data) != rows.nbytes:
            raise ConfigError("eval", "the temporary file of the reference is truncated")
        return rows

    def __enter__(self) -> ReferenceLogits:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
