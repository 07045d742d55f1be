"""Fixed-shape messages with which the ranks of a group compare what they are about to do.

A collective whose shapes differ between ranks gives wrong numbers and no error, so every control
message has one shape: ``int64 [ranks, WIDTH]``, the sum of arrays in which each rank fills only its
own row. Column 0 has the kind of the message, column 1 its running number. A rank that is elsewhere
differs in one of them, and all ranks raise the same error before shapes can differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from flash_moe.errors import PeerError

WIDTH = 128
N_FIELDS = WIDTH - 2

Rows = npt.NDArray[np.int64]


class Kind(IntEnum):
    """Kinds of messages."""

    TEXTS = 1  # lengths of texts that all ranks exchange
    SHARE = 2  # length of an object of rank 0
    PASS = 3  # rows, tokens and checksum of a forward pass
    END = 4  # result of a forward pass
    CHUNK = 5  # longest chunk of a prompt
    CACHE = 6  # length of a prompt cache that was found on disk
    TRIM = 7  # bytes for the prompt caches in memory


def own_row(rank: int, size: int, kind: Kind, number: int, fields: Sequence[int]) -> Rows:
    """Return the message of one rank: its own row, zeros for the others.

    Args:
        fields: At most ``N_FIELDS`` integers.
    """
    rows = np.zeros((size, WIDTH), np.int64)
    rows[rank, : 2 + len(fields)] = [kind, number, *fields]
    return rows


def check(rows: Rows, same: Mapping[str, int] | None = None) -> Rows:
    """Return the fields of all ranks ``[ranks, N_FIELDS]`` if the ranks are at the same point.

    Args:
        rows: The sum of the messages of all ranks.
        same: Names of the leading fields that have to be equal, with this rank's values.

    Raises:
        PeerError: Ranks are at different points, or an equal field differs.
    """
    names = ("step", "number", *(same or ()))
    different = [
        f"{name} {', '.join(_shown(name, value) for value in rows[:, column])}"
        for column, name in enumerate(names)
        if (rows[:, column] != rows[0, column]).any()
    ]
    if different:
        raise PeerError(
            "ranks",
            "expected the same work on all ranks, got by rank: " + "; ".join(different),
            "Pass the same prompt and options on all machines.",
        )
    return rows[:, 2:]


def _shown(name: str, value: Any) -> str:
    if name != "step":
        return str(int(value))
    return Kind(value).name.lower() if int(value) in list(Kind) else str(int(value))
