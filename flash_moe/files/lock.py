"""One flash-moe at a time works on a directory.

The directory itself is locked, so no file of it is needed, and the system lets go when the process
ends, however it ends.
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
    """Keep other processes off a directory, which is made if it is not there.

    What was made goes again if nothing was put into it. Filesystems without locks, as some over
    a network, keep nobody off.

    Raises:
        PackError: Another process works on it, or it cannot be made.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        fd = _lock(directory)
    except BlockingIOError:
        raise PackError(
            "store",
            f"another flash-moe works on {directory}",
            "Wait until it is done, or stop it.",
        ) from None
    except OSError as error:
        raise PackError(
            "store", f"{directory}: {error.strerror or error}", "Choose another directory."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty, as it should be
            for folder in made:
                folder.rmdir()
        os.close(fd)


def _lock(directory: Path) -> int:
    """A descriptor that holds the lock. Raises BlockingIOError if another one does."""
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
            # Whoever had it may have deleted it meanwhile, and somebody made it anew.
            if directory.exists() and os.path.samestat(os.fstat(fd), directory.stat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
