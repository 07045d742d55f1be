"""Ranges of files at the hub, through huggingface_hub's session: tokens, mirrors, proxies.

huggingface_hub itself downloads a file in one call, which begins again after a kill (1.20 and
later), and which does not check what it got. So bodies are fetched here, by ranges: a stopped
download resumes where it stopped, and a dropped connection, 429 or 503 costs a wait.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from flash_moe.errors import HubError
from flash_moe.hub.retry import NoBytes, Patience, failures
from flash_moe.store.manifest import SourceFile

TIMEOUT = 30.0  # without any byte
_HASH_BYTES = 8 * 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. Ranges are bytes ``start`` to ``stop``, without ``stop``.

    Attributes:
        sha256: Of the content, of files in LFS or Xet; ``None`` for small ones.
        blob_id: git's hash of the content, of small ones.
    """

    name: str
    n_bytes: int
    sha256: str | None
    blob_id: str
    url: str

    @property
    def noted(self) -> SourceFile:
        """Row of the manifest."""
        return SourceFile(self.name, self.sha256, self.n_bytes)

    @contextmanager
    def opened(self, start: int, stop: int) -> Iterator[Any]:
        """Open the response to one request for a range.

        Raises:
            HubError: The server sends something else.
            HfHubHTTPError and transport errors of the session.
        """
        headers = dict(build_hf_headers(library_name="flash_moe"))
        headers["Accept-Encoding"] = "identity"
        headers["Range"] = f"bytes={start}-{stop - 1}"
        with get_session().stream("GET", self.url, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code >= 400:
                response.read()  # the message of the hub
            hf_raise_for_status(response)
            if response.status_code == 206:
                self._check_range(response.headers.get("Content-Range", ""), start, stop)
            elif (start, stop) != (0, self.n_bytes):
                raise HubError(
                    "hub",
                    f"{self.url}: expected a part of the file, the server sends all of it",
                    "Use another mirror (HF_ENDPOINT).",
                )
            yield response

    def _check_range(self, sent: str, start: int, stop: int) -> None:
        """Compare the range in a response with the request; its end may be missing.

        Raises:
            HubError: It is something else.
        """
        found = _CONTENT_RANGE.fullmatch(sent.strip())
        if (
            found is None
            or int(found[1]) != start
            or not start <= int(found[2]) < stop
            or found[3] not in ("*", str(self.n_bytes))
        ):
            raise HubError(
                "hub",
                f"{self.url}: expected bytes {start}-{stop - 1}/{self.n_bytes}, the server sends "
                f"{sent[:80] or 'a part and not which'}",
                "The file is not the one that the hub lists. Use another mirror (HF_ENDPOINT).",
            )

    def pieces(
        self, start: int, stop: int, patience: Patience | None = None
    ) -> Generator[bytes, None, None]:
        """Yield the bytes of a range as they arrive.

        Raises:
            HubError: They cannot be had.
            Stopped: By the event of ``patience``.
        """
        patience = patience or Patience()
        at = start
        while at < stop:
            patience.check()
            before = at
            try:
                with self.opened(at, stop) as response:
                    for piece in response.iter_raw():
                        patience.check()
                        if at + len(piece) > stop:
                            raise HubError(
                                "hub", f"{self.url}: the server sends more than was asked"
                            )
                        if piece:
                            at += len(piece)
                            patience.progress()
                            yield piece
            except failures() as error:
                patience.failed(error)
            else:
                if at == before:
                    patience.failed(NoBytes(self.url))

    def read(self, start: int, stop: int, patience: Patience | None = None) -> bytes:
        """Return the bytes of a range. Raises like :meth:`pieces`."""
        return b"".join(self.pieces(start, stop, patience))

    def fetch(
        self,
        fd: int,
        start: int,
        stop: int,
        on_bytes: Callable[[int], None] = lambda n: None,
        patience: Patience | None = None,
    ) -> None:
        """Write a range to the same place of an open file.

        Raises:
            HubError: They cannot be had; what came is written.
            OSError: Writing failed.
            Stopped: By the event of ``patience``.
        """
        at = start
        with closing(self.pieces(start, stop, patience)) as found:
            for piece in found:
                view = memoryview(piece)
                while view:
                    n = os.pwrite(fd, view, at)
                    view, at = view[n:], at + n
                on_bytes(len(piece))

    def check(self, file: Path) -> None:
        """Compare a downloaded file with what the hub says of it.

        Raises:
            HubError: Another size or hash.
        """
        size = file.stat().st_size
        digest, expected = hashlib.sha256(), self.sha256
        if expected is None:  # git hashes a header with the content
            digest, expected = hashlib.sha1(b"blob %d\0" % size), self.blob_id
        with open(file, "rb", buffering=0) as stream:
            while piece := stream.read(_HASH_BYTES):
                digest.update(piece)
        if size != self.n_bytes or digest.hexdigest() != expected:
            raise HubError(
                "hub",
                f"{self.name}: expected {self.n_bytes} bytes with hash {expected}, got {size} "
                f"with {digest.hexdigest()}",
                "The download was damaged, or the mirror serves another file.",
            )
