"""Wordings of an intent: utterances, and parts that shared frames turn into utterances."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ways:
    """Patterns (``patterns.py``) of one intent.

    Attributes:
        direct: Complete utterances.
        do: Imperative verb phrases: "look up the weather in {city}".
        what: Noun phrases: "the temperature in {city}".
        whether: Indirect questions: "whether it rains in {city}".
    """

    direct: tuple[str, ...] = ()
    do: tuple[str, ...] = ()
    what: tuple[str, ...] = ()
    whether: tuple[str, ...] = ()
