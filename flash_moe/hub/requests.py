"""Range requests to the hub, through huggingface_hub's session: tokens, mirrors, proxies.

huggingface_hub itself downloads a file in one call, which restarts after a kill (1.20 and later)
and does not verify the content. So this module fetches ranges: a stopped download resumes where it
stopped, and a dropped connection, 429 or 503 only causes a wait.
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
from flash_moe.hub.retry import NoBytes, Retry, failures
from flash_moe.store.manifest_entries import SourceFile

TIMEOUT = 30.0  # seconds without any byte
_HASH_BYTES = 8 * 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. Ranges are bytes ``start`` to ``stop``, excluding ``stop``.

    Attributes:
        sha256: Hash of the content of LFS and Xet files; ``None`` for small files.
        blob_id: git's hash of the content, for small files.
    """

    name: str
    n_bytes: int
    sha256: str | None
    blob_id: str
    url: str

    @property
    def source_file(self) -> SourceFile:
        """Row for the manifest."""
        return SourceFile(self.name, self.sha256, self.n_bytes)

    @contextmanager
    def open_range(self, start: int, stop: int) -> Iterator[Any]:
        """Request a range once and yield the open response.

        Raises:
            HubError: The response has a different range.
            HfHubHTTPError and transport errors of the session.
        """
        headers = dict(build_hf_headers(library_name="flash_moe"))
        headers["Accept-Encoding"] = "identity"
        headers["Range"] = f"bytes={start}-{stop - 1}"
        with get_session().stream("GET", self.url, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code >= 400:
                response.read()  # the error message of the hub
            hf_raise_for_status(response)
            if response.status_code == 206:
                self._check_range(response.headers.get("Content-Range", ""), start, stop)
            elif (start, stop) != (0, self.n_bytes):
                raise HubError(
                    "hub",
                    f"{self.url}: expected a range of the file, got all of it",
                    "The server ignores Range. Use another mirror (HF_ENDPOINT).",
                )
            yield response

    def _check_range(self, sent: str, start: int, stop: int) -> None:
        """Compare the range of a response with the request; it may end earlier.

        Raises:
            HubError: The range differs.
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
                f"{self.url}: expected bytes {start}-{stop - 1}/{self.n_bytes}, got "
                f"{sent[:80] or 'no Content-Range'}",
                "The file differs from the one the hub lists. Use another mirror (HF_ENDPOINT).",
            )

    def pieces(
        self, start: int, stop: int, retry: Retry | None = None
    ) -> Generator[bytes, None, None]:
        """Yield the bytes of a range as they arrive, with retries.

        Raises:
            HubError: The retries are used up, or the error is permanent.
            Stopped: The stop event of ``retry`` is set.
        """
        retry = retry or Retry()
        at = start
        while at < stop:
            retry.check()
            before = at
            try:
                with self.open_range(at, stop) as response:
                    for piece in response.iter_raw():
                        retry.check()
                        if at + len(piece) > stop:
                            raise HubError(
                                "hub", f"{self.url}: the server sends more than the range"
                            )
                        if piece:
                            at += len(piece)
                            retry.progress()
                            yield piece
            except failures() as error:
                retry.wait_after(error)
            else:
                if at == before:
                    retry.wait_after(NoBytes(self.url))

    def read(self, start: int, stop: int, retry: Retry | None = None) -> bytes:
        """Return the bytes of a range. Raises like :meth:`pieces`."""
        return b"".join(self.pieces(start, stop, retry))

    def fetch(
        self,
        fd: int,
        start: int,
        stop: int,
        on_bytes: Callable[[int], None] = lambda n: None,
        retry: Retry | None = None,
    ) -> None:
        """Write a range to the same offset of an open file.

        Raises:
            HubError: The download failed; the bytes received so far are written.
            OSError: Writing failed.
            Stopped: The stop event of ``retry`` is set.
        """
        at = start
        with closing(self.pieces(start, stop, retry)) as pieces:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    n = os.pwrite(fd, view, at)
                    view, at = view[n:], at + n
                on_bytes(len(piece))

    def check(self, file: Path) -> None:
        """Compare a downloaded file with the size and hash that the hub lists.

        Raises:
            HubError: The size or the hash differs.
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
                f"bytes with {digest.hexdigest()}",
                "The download was damaged, or the mirror serves another file.",
            )
