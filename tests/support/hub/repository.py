"""Content of a hub: repositories with commits, branches and tags, and the bytes of their files.

A published folder is copied, file by file, into a folder of blobs named by their sha256, so that
later edits of it change nothing. Nothing is kept in memory but names, sizes and hashes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

CHUNK_BYTES = 1 << 20
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True)
class Entry:
    """A file of a commit.

    Attributes:
        path: In the repository, with slashes.
        blob: The copy that is served.
        git_sha: sha1 of the git blob: of the content, or of the pointer for LFS.
    """

    path: str
    blob: Path
    size: int
    sha256: str
    git_sha: str
    lfs: bool

    @property
    def etag(self) -> str:
        """ETag of the hub, in its quotes: sha256 of LFS files, git's sha1 of others."""
        return f'"{self.sha256 if self.lfs else self.git_sha}"'

    def listing(self) -> dict[str, Any]:
        """This file as in ``/api/models/.../tree``."""
        item: dict[str, Any] = {"type": "file", "path": self.path, "size": self.size}
        item["oid"] = self.git_sha
        if self.lfs:
            item["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return item

    @property
    def pointer_size(self) -> int:
        return len(LFS_POINTER.format(self.sha256, self.size))


@dataclass
class Repository:
    """One model repository.

    Attributes:
        commits: Commit to the files of it, by path.
        by_sha256: Every file that ever was in a commit: signed addresses outlive a change.
        branches: Branch to commit.
        access: Who may read: everyone; for ``gated`` the files, and for ``private`` everything, is
            only for the holders of ``tokens``.
    """

    name: str
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    by_sha256: dict[str, Entry] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    access: Literal["public", "gated", "private"] = "public"
    tokens: frozenset[str] = frozenset()

    def put(self, commit: str, entries: dict[str, Entry]) -> None:
        """Make these the files of the commit."""
        self.commits[commit] = entries
        self.by_sha256 |= {entry.sha256: entry for entry in entries.values()}

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit; None if it does not exist."""
        for names in (self.branches, self.tags):
            if revision in names:
                return names[revision]
        return revision if revision in self.commits else None

    def tree(self, commit: str, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """Files and folders below ``folder``, in order of path; None if there is no such folder."""
        prefix = folder + "/" if folder else ""
        items: dict[str, dict[str, Any]] = {}
        for path, entry in self.commits[commit].items():
            if not path.startswith(prefix):
                continue
            parents = path[len(prefix) :].split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                parent = prefix + "/".join(parents[:depth])
                oid = hashlib.sha1(f"{commit}/{parent}".encode()).hexdigest()
                items[parent] = {"type": "directory", "path": parent, "size": 0, "oid": oid}
            items[path] = entry.listing()
        if not recursive:
            items = {path: item for path, item in items.items() if "/" not in path[len(prefix) :]}
        return [items[path] for path in sorted(items)] if items or not folder else None


def commit_id(entries: dict[str, Entry]) -> str:
    """40 hex digits that follow from paths and contents."""
    digest = hashlib.sha1(b"flash-moe fake hub\n")
    for path in sorted(entries):
        digest.update(f"{path}\0{entries[path].sha256}\n".encode())
    return digest.hexdigest()


def store_folder(
    folder: Path, blobs: Path, lfs_patterns: tuple[str, ...], *, sparse: bool = False
) -> dict[str, Entry]:
    """Copy every file below ``folder`` into ``blobs``.

    Args:
        sparse: Files in LFS are not copied and not hashed, but linked: for sparse ones of any size.
            Their sha256 is made up.

    Raises:
        ValueError: There is no file.
    """
    entries = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            path = file.relative_to(folder).as_posix()
            lfs = any(fnmatch(path, pattern) for pattern in lfs_patterns)
            store = link_file if sparse and lfs else store_file
            entries[path] = store(file, path, blobs, lfs_patterns)
    if not entries:
        raise ValueError(f"[hub] {folder} has no files")
    return entries


def store_file(file: Path, path: str, blobs: Path, lfs_patterns: tuple[str, ...]) -> Entry:
    """Copy one file and hash it on the way."""
    size = file.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    temporary = blobs / f"{os.getpid()}-{os.urandom(8).hex()}.tmp"
    with open(file, "rb") as source, open(temporary, "wb") as copy:
        while chunk := source.read(CHUNK_BYTES):
            sha256.update(chunk)
            git.update(chunk)
            copy.write(chunk)
    blob = blobs / sha256.hexdigest()
    temporary.replace(blob)
    lfs = any(fnmatch(path, pattern) for pattern in lfs_patterns)
    entry = Entry(path, blob, size, sha256.hexdigest(), git.hexdigest(), lfs)
    return _in_lfs(entry) if lfs else entry


def link_file(file: Path, path: str, blobs: Path, lfs_patterns: tuple[str, ...]) -> Entry:
    """Take a file in LFS as it is, on the same disk, with a hash of its name and size."""
    size = file.stat().st_size
    sha256 = hashlib.sha256(f"{path}\0{size}".encode()).hexdigest()
    blob = blobs / sha256
    blob.unlink(missing_ok=True)
    os.link(file, blob)
    return _in_lfs(Entry(path, blob, size, sha256, "", True))


def _in_lfs(entry: Entry) -> Entry:
    pointer = LFS_POINTER.format(entry.sha256, entry.size).encode()
    return replace(entry, git_sha=hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest())
