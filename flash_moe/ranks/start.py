"""Start of a rank that ``mlx.launch`` or ``mpirun`` has launched."""

from __future__ import annotations

import faulthandler

import mlx.core as mx

from flash_moe.errors import PeerLostError
from flash_moe.ranks.group import Ranks


def connect(timeout_s: float) -> Ranks | None:
    """Connect to the other ranks; ``None`` if there are none.

    ``mx.distributed.init()`` keeps the interpreter locked while it waits, so no Python thread can
    limit its time: ``faulthandler`` ends the process, with a traceback that ends here.

    Raises:
        PeerLostError: A port is in use, or a rank cannot be reached.
    """
    faulthandler.dump_traceback_later(timeout_s, exit=True)
    try:
        group = mx.distributed.init()
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(
            "ranks",
            f"the ranks cannot be connected: {error}",
            "Are all machines of the hostfile reachable, and its ports free?",
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    if group.size() == 1:
        return None
    ranks = Ranks(group, timeout_s)
    ranks.watchdog.watch_parent()
    return ranks
