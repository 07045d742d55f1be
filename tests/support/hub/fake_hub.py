"""A hub for tests: a real HTTP server on this machine for huggingface_hub.

    with FakeHub(tmp_path / "blobs") as hub:
        commit = hub.add_commit("org/model", folder)
        hub.faults.add(Cut(pattern="*.safetensors", after=1000))
        hf_hub_download("org/model", "config.json", endpoint=hub.url, local_dir=...)
        assert hub.log.sent("config.json") > 0

Files in LFS are served by a second server, the CDN, on another port, to which the hub redirects.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from pathlib import Path
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any

from tests.support.hub.faults import Faults, Where
from tests.support.hub.handler import Handler
from tests.support.hub.repository import Entry, Repository, commit_id, store_file, store_folder
from tests.support.hub.request_log import RequestLog
from tests.support.hub.routes import Site


class Server(ThreadingTCPServer):
    """One of the two servers: a thread for each connection. Closing it hangs up on all clients."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: FakeHub, where: Where) -> None:
        self.hub = hub
        self.where = where
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        failure = sys.exc_info()[1]
        if failure is not None and not isinstance(failure, ConnectionError):
            self.hub.failures.append(failure)

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):  # its own thread was first
                connection.shutdown(socket.SHUT_RDWR)


class FakeHub:
    """A hub on this machine, for the length of a ``with``.

    Attributes:
        url: Address of the hub: what ``endpoint`` and ``HF_ENDPOINT`` are for.
        faults: What goes wrong.
        log: What was asked.
        page_size: Items of a page of a tree.
        invalid_tokens: Tokens that the hub refuses everywhere, with 401.
        failures: Errors of the hub itself; leaving the ``with`` raises the first.
    """

    def __init__(self, blobs: Path, *, lfs_patterns: tuple[str, ...] = ("*.safetensors",)) -> None:
        """Start to serve.

        Args:
            blobs: A folder for copies of the files.
            lfs_patterns: Which files are in LFS.
        """
        blobs.mkdir(parents=True, exist_ok=True)
        self.faults = Faults()
        self.log = RequestLog()
        self.page_size = 1000
        self.invalid_tokens: frozenset[str] = frozenset()
        self.failures: list[BaseException] = []
        self.closing = threading.Event()
        self._blobs = blobs
        self._lfs_patterns = lfs_patterns
        self._repositories: dict[str, Repository] = {}
        self._hub, self._cdn = Server(self, "hub"), Server(self, "cdn")
        self.url = f"http://127.0.0.1:{self._hub.port}"
        # By another name than the hub: to clients that compare names it is another host.
        self._cdn_url = f"http://localhost:{self._cdn.port}"

    @property
    def site(self) -> Site:
        """The hub as its routes see it now."""
        return Site(
            self._repositories, self.url, self._cdn_url, self.page_size, self.invalid_tokens
        )

    def add_commit(
        self, repo_id: str, folder: Path, branch: str = "main", *, sparse: bool = False
    ) -> str:
        """Publish a copy of a folder as a commit, and move the branch to it.

        Args:
            sparse: As of ``store_folder``.

        Returns:
            40 hex digits, the same for the same files. Older commits stay.
        """
        entries = store_folder(folder, self._blobs, self._lfs_patterns, sparse=sparse)
        repository = self._repositories.setdefault(repo_id, Repository(repo_id))
        commit = commit_id(entries)
        repository.put(commit, entries)
        repository.branches[branch] = commit
        return commit

    def add_tag(self, repo_id: str, tag: str, revision: str = "main") -> None:
        """Tag a commit."""
        self._repositories[repo_id].tags[tag] = self._commit(repo_id, revision)

    def replace_file(self, repo_id: str, path: str, content: bytes, revision: str = "main") -> None:
        """Change a file without a new commit, which a real hub never does.

        Signed addresses that were given out before still lead to the old bytes.
        """
        repository = self._repositories[repo_id]
        commit = self._commit(repo_id, revision)
        temporary = self._blobs / "replacement.tmp"
        temporary.write_bytes(content)
        entry = store_file(temporary, path, self._blobs, self._lfs_patterns)
        temporary.unlink()
        repository.put(commit, {**repository.commits[commit], path: entry})

    def entry(self, repo_id: str, path: str, revision: str = "main") -> Entry:
        """Size, hashes and ETag of a file."""
        return self._repositories[repo_id].commits[self._commit(repo_id, revision)][path]

    def gate(self, repo_id: str, *tokens: str) -> None:
        """From now on the files are only for the holders of these tokens."""
        repository = self._repositories[repo_id]
        repository.access, repository.tokens = "gated", frozenset(tokens)

    def make_private(self, repo_id: str, *tokens: str) -> None:
        """From now on the repository exists only for the holders of these tokens."""
        repository = self._repositories[repo_id]
        repository.access, repository.tokens = "private", frozenset(tokens)

    def close(self) -> None:
        """Hang up on everyone and free the ports. Once is enough."""
        if not self.closing.is_set():
            self.closing.set()
            self._hub.close()
            self._cdn.close()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if value is None and self.failures:
            raise RuntimeError("[hub] the hub itself failed") from self.failures[0]

    def _commit(self, repo_id: str, revision: str) -> str:
        commit = self._repositories[repo_id].resolve(revision)
        if commit is None:
            raise KeyError(f"[hub] {repo_id} has no revision {revision}")
        return commit
