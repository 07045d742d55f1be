"""What goes wrong between here and the hub: what is waited for, for how long, and what is said."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub import constants, errors, utils
from huggingface_hub.utils import get_session

from flash_moe.errors import HubError

# Seconds before each further try. Only tries in a row that brought no byte are counted.
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
MAX_WAIT = 3600.0  # of what the hub may ask for
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
# A wait of so many seconds is told, once for all threads that fail together.
_TOLD_WAIT = 2.0

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """Somebody else wants the download to end."""


class NoBytes(Exception):
    """An answer that is right in all but that it has no body."""


class Patience:
    """Waits between tries, and gives up after a while without progress.

    Args:
        stop: Ends every wait at once.
        tries: Tries without progress after the first one.
    """

    def __init__(self, stop: threading.Event | None = None, tries: int | None = None) -> None:
        self._stop = stop or threading.Event()
        self._tries = len(WAITS) if tries is None else tries
        self._failures = 0

    def check(self) -> None:
        """Raises Stopped if the event is set."""
        if self._stop.is_set():
            raise Stopped

    def progress(self) -> None:
        """A byte came."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Wait for the next try.

        Raises:
            HubError: There have been enough, or another try is of no use.
            Stopped: By the event.
        """
        wait = asked_wait(getattr(getattr(error, "response", None), "headers", {}))
        if self._failures >= self._tries or not _is_passing(error):
            raise explained(error) from error
        wait = WAITS[self._failures] if wait is None else min(wait, MAX_WAIT)
        self._failures += 1
        _tell(error, wait)
        self._pause(wait)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


_told = threading.Lock()
_told_until = 0.0


def _tell(error: Exception, wait: float) -> None:
    """Without a handler of the program's own, logging prints this on standard error."""
    global _told_until
    with _told:
        now = time.monotonic()
        if wait < _TOLD_WAIT or now < _told_until:
            return
        _told_until = now + wait
    _log.warning("flash_moe: %s; trying again in %.0f s", explained(error).problem, wait)


def patiently(call: Callable[[], Any], tries: int | None = None) -> Any:
    """Call something that talks to the hub, again where that may help.

    Raises:
        HubError: It does not help.
    """
    patience = Patience(tries=tries)
    while True:
        try:
            return call()
        except failures() as error:
            patience.failed(error)


def failures() -> tuple[type[Exception], ...]:
    """What a request that failed raises, other than our own errors."""
    return (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, *transport_errors())


def transport_errors() -> tuple[type[Exception], ...]:
    """What the session raises when the connection fails: httpx, or httpx2 of newer versions.

    A connection error in one thread closes the session that others use; they get a RuntimeError.
    """
    module = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return (module.TransportError, module.StreamError, RuntimeError)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, NoBytes):
        return True
    status = _status(error)
    return status in _AGAIN if status is not None else isinstance(error, transport_errors())


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the hub wants to be left alone: ``Retry-After``, or the end of a rate limit."""
    try:
        wait = float(headers.get("Retry-After", ""))
        if wait >= 0:  # not nan
            return wait
    except ValueError:  # absent, or a date, which no hub sends
        pass
    parse = getattr(utils, "parse_ratelimit_headers", None)  # not of every version
    limit = None if parse is None else parse(headers)
    # One more, because what is left of a second is not sent.
    return limit.reset_in_seconds + 1.0 if limit is not None and limit.remaining == 0 else None


def explained(error: Exception) -> HubError:
    """An error of huggingface_hub or its session, as one of ours that says what to do."""
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError("hub", "HF_HUB_OFFLINE is set", "Unset it to download.")
    said = " ".join(str(error).split())[:300]
    log_in = "Log in with: hf auth login (or set HF_TOKEN)."
    kinds: tuple[tuple[type[Exception], str, str], ...] = (
        (errors.GatedRepoError, "the repository is gated", f"Accept its terms there. {log_in}"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one", log_in),
        (errors.RevisionNotFoundError, "no such revision", "Check --revision."),
        (errors.EntryNotFoundError, "no such file", "Has the repository changed? Pull it anew."),
    )
    for kind, problem, hint in kinds:
        if isinstance(error, kind):
            return HubError("hub", f"{problem} ({said})", hint)
    status = _status(error)
    if status in (401, 403):
        return HubError("hub", f"the hub refuses: {status} ({said})", log_in)
    problem = f"answers {status}" if status else "cannot be reached"
    if isinstance(error, NoBytes):
        problem = "sends nothing"
    return HubError(
        "hub",
        f"{constants.ENDPOINT} {problem} ({said})",
        "Run the same command again later to continue.",
    )
