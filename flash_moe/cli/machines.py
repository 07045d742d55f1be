"""Commands that ``mlx.launch`` starts on several machines: rank 0 acts, the others follow."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from flash_moe.cli.options import given
from flash_moe.env import launched_rank, load_options
from flash_moe.options.loading import LoadOptions

if TYPE_CHECKING:
    from flash_moe.generation.engine import Engine
    from flash_moe.ranks.group import Ranks


def connected(args: argparse.Namespace) -> Ranks | None:
    """Connect to the other machines; ``None`` if a launcher has not started this process.

    Raises:
        PeerLostError: They cannot be connected.
    """
    rank = launched_rank()
    if rank is None:
        return None
    from flash_moe.ranks.start import connect

    timeout = load_options(**given(args, LoadOptions)).peer_timeout
    print(
        f"flash-moe: rank {rank} connects to the other ranks, for at most {timeout:g} s",
        file=sys.stderr,
        flush=True,
    )
    return connect(timeout)


def follow(engine: Engine) -> int:
    """Run what rank 0 commands until it stops. Ctrl-C is for rank 0, which sends a command.

    Raises:
        FlashMoEError: The model cannot be loaded, or the ranks cannot continue together.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not engine.loaded.wait(1.0) or engine.alive:
        engine.join(1.0)
    if engine.error is not None:
        raise engine.error
    return 0
