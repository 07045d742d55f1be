"""Time that a test waits for an event before it fails instead of hanging."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 200  # on a machine that does much else; pytest ends a test after 300


def wait_until(there: Callable[[], Any]) -> None:
    """Return as soon as ``there()`` is true."""
    limit = time.monotonic() + TIMEOUT_S
    while not there():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.001)
