"""Commands of rank 0 to the engines of all ranks: which requests begin and end before a pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flash_moe.generation.sequence import EngineRequest, Running
from flash_moe.ranks.envelope import Kind
from flash_moe.ranks.group import Ranks

# Rank 0 sends a command at least every 0.1 s while it is idle. The others sleep for a part of that,
# because MLX's threads spin while they wait in a collective.
IDLE_S = 0.1
_FOLLOWER_IDLE_S = 0.08


@dataclass(frozen=True)
class Command:
    """Changes before the next pass.

    Attributes:
        begin: Requests to start.
        cancel: Numbers of running sequences to end.
        stop: Whether the engine ends.
    """

    begin: tuple[EngineRequest, ...] = ()
    cancel: tuple[int, ...] = ()
    stop: bool = False


Decision = tuple[Command, list[Running]]


def exchange(ranks: Ranks | None, decide: Callable[[], Decision], *, idle: bool) -> Decision:
    """Return the next command, and a handle for each request that it begins.

    Args:
        decide: Makes the command on rank 0, or on a single machine.
        idle: Whether nothing runs.
    """
    if ranks is None:
        return decide()
    if ranks.first:
        command, handles = decide()
        ranks.share(command if command != Command() else None)
        return command, handles
    if idle:
        time.sleep(_FOLLOWER_IDLE_S)
    command = ranks.share(None) or Command()
    return command, [Running() for _ in command.begin]


def found_by_all(ranks: Ranks | None, n_tokens: int) -> bool:
    """Return true if all ranks have found a prompt cache of this length on their disks."""
    if ranks is None:
        return True
    found = ranks.envelope(Kind.CACHE, None, n_tokens)[:, 0]
    return bool((found == n_tokens).all())


def smallest_limit(ranks: Ranks | None, n_bytes: int) -> int:
    """Return the smallest limit of all ranks for prompt caches in memory."""
    return n_bytes if ranks is None else ranks.smallest(Kind.TRIM, n_bytes)
