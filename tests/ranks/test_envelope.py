"""Messages between ranks, without processes: differences, and the errors that name them."""

from __future__ import annotations

import numpy as np
import pytest

from flash_moe.errors import PeerError
from flash_moe.ranks.envelope import N_FIELDS, WIDTH, Kind, check, own_row


def messages(*each: tuple[Kind, int, list[int]]) -> np.ndarray:
    """The sum of the messages of all ranks."""
    rows = [own_row(rank, len(each), *message) for rank, message in enumerate(each)]
    return sum(rows[1:], rows[0])


def test_equal_messages_give_the_fields_of_all_ranks() -> None:
    rows = messages((Kind.CHUNK, 7, [100, 33]), (Kind.CHUNK, 7, [100, 50]))
    assert rows.shape == (2, WIDTH)
    fields = check(rows, {"prompt tokens": 100})
    assert fields.shape == (2, N_FIELDS)
    assert fields[:, :2].tolist() == [[100, 33], [100, 50]]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ((Kind.SHARE, 7, [1, 9]), "step pass, share"),
        ((Kind.PASS, 8, [1, 9]), "number 7, 8"),
        ((Kind.PASS, 7, [2, 9]), "rows 1, 2"),
        ((Kind.PASS, 7, [1, 8]), "checksum 9, 8"),
    ],
)
def test_ranks_that_differ(other: tuple[Kind, int, list[int]], text: str) -> None:
    rows = messages((Kind.PASS, 7, [1, 9]), other)
    with pytest.raises(PeerError, match=f"got by rank: {text}\\."):
        check(rows, {"rows": 1, "checksum": 9})


def test_numbers_that_no_kind_has_are_shown() -> None:
    rows = messages((Kind.PASS, 7, []), (Kind.PASS, 7, []))
    rows[1, 0] = 99
    with pytest.raises(PeerError, match="step pass, 99"):
        check(rows)


def test_large_numbers_fit() -> None:
    rows = messages((Kind.TRIM, 1, [2**40]), (Kind.TRIM, 1, [-(2**40)]))
    assert check(rows)[:, 0].tolist() == [2**40, -(2**40)]
