"""Requests to the hub, through huggingface_hub's session: tokens, mirrors, proxies are its own.

huggingface_hub itself downloads a file in one call, which begins again after a kill (1.20 and
later), and which does not check what it got. So bodies are fetched here, by ranges: a stopped
download goes on where it was, and a dropped connection, 429 or 503 costs a wait.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from flash_moe.errors import HubError
from flash_moe.hub.retry import NoBytes, Patience, failures

TIMEOUT = 30.0  # without any byte
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@contextmanager
def opened(url: str, start: int, stop: int, size: int) -> Iterator[Any]:
    """The response to a request for bytes ``start`` to ``stop`` of a file of ``size`` bytes.

    Raises:
        HubError: The server sends something else.
        HfHubHTTPError and transport errors of the session.
    """
    headers = dict(build_hf_headers(library_name="flash_moe"))
    headers["Accept-Encoding"] = "identity"
    headers["Range"] = f"bytes={start}-{stop - 1}"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.status_code >= 400:
            response.read()  # the message of the hub
        hf_raise_for_status(response)
        if response.status_code == 206:
            _check_range(url, response.headers.get("Content-Range", ""), start, stop, size)
        elif (start, stop) != (0, size):
            raise HubError(
                "hub",
                f"{url}: expected a part of the file, the server sends all of it",
                "Use another mirror (HF_ENDPOINT).",
            )
        yield response


def _check_range(url: str, sent: str, start: int, stop: int, size: int) -> None:
    """Compare what a server says it sends with what was asked; it may send less, from the start.

    Raises:
        HubError: It is something else.
    """
    found = _CONTENT_RANGE.fullmatch(sent.strip())
    if (
        found is None
        or int(found[1]) != start
        or not start <= int(found[2]) < stop
        or found[3] not in ("*", str(size))
    ):
        raise HubError(
            "hub",
            f"{url}: expected bytes {start}-{stop - 1}/{size}, the server sends "
            f"{sent[:80] or 'a part and not which'}",
            "The file is not the one that the hub lists. Use another mirror (HF_ENDPOINT).",
        )


def pieces(
    url: str,
    start: int,
    stop: int,
    size: int,
    event: threading.Event | None = None,
    tries: int | None = None,
) -> Generator[bytes, None, None]:
    """Bytes ``start`` to ``stop`` of a file of ``size`` bytes, as they come.

    Raises:
        HubError: They cannot be had.
        Stopped: By the event.
    """
    patience = Patience(event, tries)
    at = start
    while at < stop:
        patience.check()
        before = at
        try:
            with opened(url, at, stop, size) as response:
                for piece in response.iter_raw():
                    patience.check()
                    if at + len(piece) > stop:
                        raise HubError("hub", f"{url}: the server sends more than was asked")
                    if piece:
                        at += len(piece)
                        patience.progress()
                        yield piece
        except failures() as error:
            patience.failed(error)
        else:
            if at == before:
                patience.failed(NoBytes(url))


def read_range(
    url: str,
    start: int,
    stop: int,
    size: int,
    event: threading.Event | None = None,
    tries: int | None = None,
) -> bytes:
    """Bytes ``start`` to ``stop`` of a file of ``size`` bytes.

    Raises:
        HubError: They cannot be had.
        Stopped: By the event.
    """
    return b"".join(pieces(url, start, stop, size, event, tries))


def fetch_range(
    url: str,
    fd: int,
    start: int,
    stop: int,
    size: int,
    on_bytes: Callable[[int], None],
    event: threading.Event | None = None,
) -> None:
    """Write bytes ``start`` to ``stop`` of a file at the hub to the same place of an open file.

    Raises:
        HubError: They cannot be had; what came is written.
        OSError: Writing failed.
        Stopped: By the event.
    """
    at = start
    with closing(pieces(url, start, stop, size, event)) as found:
        for piece in found:
            _write_all(fd, at, piece)
            at += len(piece)
            on_bytes(len(piece))


def _write_all(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n
