"""Requests to the hub, through huggingface_hub's session: tokens, mirrors, proxies are its own.

huggingface_hub itself downloads a file in one call, which begins again after a kill (1.20 and
later), and which does not check what it got. So bodies are fetched here, by ranges: a stopped
download goes on where it was, and a dropped connection, 429 or 503 costs a wait.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, errors
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from flash_moe.errors import HubError

# Seconds before each further try. Only tries in a row that brought no byte are counted.
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
MAX_WAIT = 300.0  # of what the hub may ask for with Retry-After
TIMEOUT = 30.0  # without any byte
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
# A wait of so many seconds is told, once for all threads that fail together.
_TOLD_WAIT = 2.0

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """Somebody else wants the download to end."""


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

    def progress(self) -> None:
        if self._stop.is_set():
            raise Stopped
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Wait for the next try.

        Raises:
            HubError: There have been enough, or another try is of no use.
            Stopped: By the event.
        """
        wait = _retry_after(error)
        if self._failures >= self._tries or not _is_passing(error):
            raise explained(error) from error
        wait = WAITS[self._failures] if wait is None else min(wait, MAX_WAIT)
        self._failures += 1
        _tell(error, wait)
        if self._stop.wait(wait):
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


@contextmanager
def opened(url: str, start: int = 0, stop: int | None = None) -> Iterator[Any]:
    """The response to a request for bytes ``start`` to ``stop`` (``None``: to the end).

    Raises:
        HubError: The server sends another range.
        HfHubHTTPError and transport errors of the session.
    """
    headers = dict(build_hf_headers(library_name="flash_moe"))
    headers["Accept-Encoding"] = "identity"
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.status_code >= 400:
            response.read()  # the message of the hub
        hf_raise_for_status(response)
        if "Range" in headers and response.status_code != 206:
            raise HubError(
                "hub",
                f"{url}: expected a part of the file, the server sends all of it",
                "Use another mirror (HF_ENDPOINT).",
            )
        yield response


def read_range(url: str, start: int, stop: int, event: threading.Event | None = None) -> bytes:
    """Bytes ``start`` to ``stop``.

    Raises:
        HubError: They cannot be had.
    """
    got = bytearray()
    patience = Patience(event)
    while len(got) < stop - start:
        try:
            with opened(url, start + len(got), stop) as response:
                for piece in response.iter_raw():
                    got += piece
                    patience.progress()
                    if len(got) > stop - start:
                        raise HubError("hub", f"{url}: the server sends more than was asked")
        except failures() as error:
            patience.failed(error)
    return bytes(got)


def fetch_range(
    url: str,
    fd: int,
    start: int,
    stop: int,
    on_bytes: Callable[[int], None],
    event: threading.Event | None = None,
) -> None:
    """Write bytes ``start`` to ``stop`` of a file at the hub to the same place of an open file.

    Raises:
        HubError: They cannot be had; what came is written.
        OSError: Writing failed.
        Stopped: By the event.
    """
    patience = Patience(event)
    at = start
    while at < stop:
        try:
            with opened(url, at, stop) as response:
                for piece in response.iter_raw():
                    _write_all(fd, at, piece[: stop - at])
                    at += len(piece)
                    on_bytes(len(piece))
                    patience.progress()
                    if at > stop:
                        raise HubError("hub", f"{url}: the server sends more than was asked")
        except failures() as error:
            patience.failed(error)


def failures() -> tuple[type[Exception], ...]:
    """What a request that failed raises, other than our own errors."""
    return (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, *transport_errors())


def _write_all(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


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
    status = _status(error)
    return status in _AGAIN if status is not None else isinstance(error, transport_errors())


def _retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:  # absent, or a date, which no hub sends
        return None


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
    return HubError(
        "hub",
        f"{constants.ENDPOINT} {problem} ({said})",
        "Run the same command again later to continue.",
    )
