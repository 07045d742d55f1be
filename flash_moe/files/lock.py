"""Lock that lets one flash-moe process at a time use a directory.

The lock is on the directory itself, so no lock file is needed, and the system releases it when the
process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_moe.errors import PackError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a directory against other processes; create it if it is missing.

    Created directories that are still empty are removed at the end. Filesystems without locks, such
    as some network filesystems, exclude no other process.

    Raises:
        PackError: Another process holds the lock, or the directory cannot be created.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        fd = _lock(directory)
    except BlockingIOError:
        raise PackError(
            "store",
            f"another flash-moe process uses {directory}",
            "Wait until it ends, or stop it.",
        ) from None
    except OSError as error:
        raise PackError(
            "store", f"{directory}: {error.strerror or error}", "Choose another directory."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty: the normal case
            for folder in made:
                folder.rmdir()
        os.close(fd)


def _lock(directory: Path) -> int:
    """Return a descriptor with the lock. Raises BlockingIOError if another process has it."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # no locks on this filesystem
                return fd
            # The last holder may have deleted the directory, and another process recreated it.
            if directory.exists() and os.path.samestat(os.fstat(fd), directory.stat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
