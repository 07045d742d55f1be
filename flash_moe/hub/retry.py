"""Retries of failed hub requests: which errors, how long to wait, and the error messages."""

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

# Seconds before each retry. A retry counts only if the try before it received no byte.
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
MAX_WAIT = 3600.0  # limit for the wait that the hub requests
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
# Waits of at least this many seconds are logged, once for all threads that fail together.
_REPORTED_WAIT = 2.0

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The download was cancelled."""


class NoBytes(Exception):
    """A valid response without a body."""


class Retry:
    """Backoff between tries; gives up after several without progress.

    Args:
        stop: Event that ends every wait at once.
        tries: Maximum number of retries in a row without progress.
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
        """Reset the count of failures, because a byte arrived."""
        self._failures = 0

    def wait_after(self, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            HubError: The retries are used up, or the error is permanent.
            Stopped: The stop event is set.
        """
        wait = requested_wait(getattr(getattr(error, "response", None), "headers", {}))
        if self._failures >= self._tries or not _is_transient(error):
            raise as_hub_error(error) from error
        wait = WAITS[self._failures] if wait is None else min(wait, MAX_WAIT)
        self._failures += 1
        _report(error, wait)
        if self._stop.wait(wait):
            raise Stopped


_report_lock = threading.Lock()
_reported_until = 0.0


def _report(error: Exception, wait: float) -> None:
    """Log a wait; logging prints it on stderr unless the program configures a handler."""
    global _reported_until
    with _report_lock:
        now = time.monotonic()
        if wait < _REPORTED_WAIT or now < _reported_until:
            return
        _reported_until = now + wait
    _log.warning("flash_moe: %s; retrying in %.0f s", as_hub_error(error).problem, wait)


def with_retry(call: Callable[[], Any], tries: int | None = None) -> Any:
    """Call a function that sends a request to the hub; retry on transient errors.

    Raises:
        HubError: The retries are used up, or the error is permanent.
    """
    retry = Retry(tries=tries)
    while True:
        try:
            return call()
        except failures() as error:
            retry.wait_after(error)


def failures() -> tuple[type[Exception], ...]:
    """Return the exception types of a failed request, other than our own errors."""
    return (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, *transport_errors())


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the connection errors of the session: of httpx, or httpx2 in newer versions.

    A connection error in one thread closes the shared session; other threads get a RuntimeError.
    """
    module = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return (module.TransportError, module.StreamError, RuntimeError)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, NoBytes):
        return True
    status = _status(error)
    return status in _TRANSIENT if status is not None else isinstance(error, transport_errors())


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """Return the wait in seconds that a response requests: ``Retry-After`` or a rate limit."""
    try:
        wait = float(headers.get("Retry-After", ""))
        if wait >= 0:  # not nan
            return wait
    except ValueError:  # absent, or a date, which the hub never sends
        pass
    parse = getattr(utils, "parse_ratelimit_headers", None)  # missing in some versions
    limit = None if parse is None else parse(headers)
    # One more, because the header has whole seconds, rounded down.
    return limit.reset_in_seconds + 1.0 if limit is not None and limit.remaining == 0 else None


def as_hub_error(error: Exception) -> HubError:
    """Convert an error of huggingface_hub or its session to a HubError with a hint."""
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError("hub", "HF_HUB_OFFLINE is set", "Unset it to download.")
    quoted = " ".join(str(error).split())[:300]
    log_in = "Log in with: hf auth login (or set HF_TOKEN)."
    kinds: tuple[tuple[type[Exception], str, str], ...] = (
        (errors.GatedRepoError, "the repository is gated", f"Accept its terms there. {log_in}"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one", log_in),
        (errors.RevisionNotFoundError, "no such revision", "Check --revision."),
        (errors.EntryNotFoundError, "no such file", "Has the repository changed? Pull it again."),
    )
    for kind, problem, hint in kinds:
        if isinstance(error, kind):
            return HubError("hub", f"{problem} ({quoted})", hint)
    status = _status(error)
    if status in (401, 403):
        return HubError("hub", f"the hub denies access: {status} ({quoted})", log_in)
    problem = f"answers {status}" if status else "cannot be reached"
    if isinstance(error, NoBytes):
        problem = "sends an empty response"
    return HubError(
        "hub",
        f"{constants.ENDPOINT} {problem} ({quoted})",
        "Run the same command again later to continue.",
    )
