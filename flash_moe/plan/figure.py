"""Numbers of a forecast, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A number with its source.

    Attributes:
        source: ``"measured"`` on this machine, ``"published"`` for another one, or ``"assumed"``.
        note: Description of the measurement or assumption.
    """

    value: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class Range:
    """An interval; ``source`` as in ``Figure``."""

    low: float
    high: float
    source: str
