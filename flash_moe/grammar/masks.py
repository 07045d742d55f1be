"""Sets of token ids as words of 32 bits, and logits without the tokens that are not in one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

# uint32 [ceil(ids / 32)]; bit i % 32 of word i // 32 stands for id i.
Words: TypeAlias = "np.ndarray[Any, np.dtype[np.uint32]]"


def words_of(ids: Collection[int], size: int) -> Words:
    """The set of these ids, of ``size`` in all."""
    flags = np.zeros(-(-size // 32) * 32, np.uint8)
    flags[np.fromiter(ids, np.int64, len(ids))] = 1
    return np.packbits(flags, bitorder="little").view(np.uint32)


def add(words: Words, ids: Iterable[int]) -> None:
    for i in ids:
        words[i // 32] |= np.uint32(1 << i % 32)


def remove(words: Words, ids: Iterable[int]) -> None:
    for i in ids:
        words[i // 32] &= ~np.uint32(1 << i % 32)


def flags_of(words: Words, n: int) -> mx.array:
    """Whether each of the ids 0 to n - 1 is in the set: bool [n]; ids beyond the words are not."""
    bits = np.unpackbits(words.view(np.uint8), count=n, bitorder="little")
    return mx.array(bits.view(np.bool_))


def masked(logits: mx.array, flags: mx.array) -> mx.array:
    """Logits [..., V], minus infinity where ``flags`` [V] is false."""
    return mx.where(flags, logits, mx.array(-mx.inf, logits.dtype))
