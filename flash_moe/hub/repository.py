"""A hub repository at one commit: its files, and the headers of its shards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from flash_moe.errors import HubError
from flash_moe.files.atomic import sync_and_rename
from flash_moe.files.names import file_name
from flash_moe.hub.incoming import part_of
from flash_moe.hub.requests import RemoteFile
from flash_moe.hub.retry import Retry, with_retry
from flash_moe.hub.threads import in_threads
from flash_moe.store.safetensors_header import TensorEntry, parse_header

_FIRST_BYTES = 100_000  # most headers are smaller, so that one request is enough


class Repository:
    """One commit of a model repository.

    Args:
        name: ``org/model``.
        revision: Branch, tag or commit; ``None`` is the main branch.
        tries: Number of retries; ``None`` retries for half a minute.

    Attributes:
        commit: Commit that the revision resolves to; all files are from it.
        files: Files by name.

    Raises:
        HubError: The repository is not accessible.
    """

    def __init__(self, name: str, revision: str | None = None, *, tries: int | None = None) -> None:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise HubError("hub", f"not a repository name: {error}", "Use ORG/MODEL.") from None
        self.name = name
        api = HfApi(library_name="flash_moe")
        info = with_retry(lambda: api.repo_info(name, revision=revision, timeout=10), tries)
        self.commit: str = info.sha
        tree = with_retry(
            lambda: list(api.list_repo_tree(name, recursive=True, revision=self.commit)), tries
        )
        files = (self._file(entry) for entry in tree if isinstance(entry, RepoFile))
        self.files = {file.name: file for file in files if file is not None}

    def _file(self, entry: RepoFile) -> RemoteFile | None:
        try:
            path = file_name(entry.path)
        except ValueError:
            return None  # no model has a file with such a name
        return RemoteFile(
            path,
            entry.size,
            entry.lfs.sha256 if entry.lfs else None,
            entry.blob_id,
            hf_hub_url(self.name, path, revision=self.commit),
        )

    def fetch_small(self, name: str, folder: Path, max_bytes: int) -> None:
        """Download a small file into a folder, unless it is already there.

        Raises:
            HubError: The download failed, or the file is larger than ``max_bytes``.
        """
        remote, file = self.files[name], folder / name
        if remote.n_bytes > max_bytes:
            raise HubError(
                "hub", f"{name}: expected at most {max_bytes} bytes, got {remote.n_bytes}"
            )
        if file.exists():
            try:
                remote.check(file)
                return
            except HubError:
                file.unlink()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(file)
        with open(part, "wb") as stream:
            remote.fetch(stream.fileno(), 0, remote.n_bytes)
            remote.check(part)
            sync_and_rename(stream.fileno(), part, file)

    def headers(
        self, shards: list[str], place: Callable[[str], Path]
    ) -> dict[str, dict[str, TensorEntry]]:
        """Return the tensors of some shards, from their headers only.

        Args:
            place: Maps a shard's name to its path on this disk.

        Returns:
            Shard name to its tensors by name.

        Raises:
            HubError: A download failed.
            CorruptFileError: A header is invalid.
        """
        stop = threading.Event()

        def one(name: str) -> dict[str, TensorEntry]:
            remote = self.files[name]
            return parse_header(place(name), remote.n_bytes, _Stream(remote, stop))

        return dict(zip(shards, in_threads(one, shards, stop), strict=True))


class _Stream:
    """Sequential reader of a remote file that fetches on demand."""

    def __init__(self, remote: RemoteFile, stop: threading.Event) -> None:
        self._remote, self._stop = remote, stop
        self._ahead = b""
        self._at = 0

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > len(self._ahead):
            start = self._at + len(self._ahead)
            stop = min(self._remote.n_bytes, max(self._at + n_bytes, start + _FIRST_BYTES))
            self._ahead += self._remote.read(start, stop, Retry(self._stop))
        got, self._ahead = self._ahead[:n_bytes], self._ahead[n_bytes:]
        self._at += len(got)
        return got
