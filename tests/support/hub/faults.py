"""Faults of a fake hub on demand: the requests they match, and how often.

A fault is matched with ``fnmatch`` against the path of a file in its repository, also where the
request is for the CDN's address of it; requests for the API are matched by their URL's path
(``/api/models/org/name/tree/main``). ``*`` matches slashes too.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal, TypeVar

Where = Literal["hub", "cdn"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        pattern: Of the path.
        times: How many requests meet it; None: all.
    """

    pattern: str = "*"
    times: int | None = 1


@dataclass(frozen=True, kw_only=True)
class Status(Fault):
    """A status other than the real one, before anything else.

    Attributes:
        retry_after: Seconds, as the header of that name.
        where: Only at the hub itself or only at its CDN.
        methods: Which methods meet it.
    """

    status: int
    retry_after: int | None = None
    where: Where | None = None
    methods: tuple[str, ...] = ("GET", "HEAD", "POST")


@dataclass(frozen=True, kw_only=True)
class Cut(Fault):
    """The connection ends in a body.

    Attributes:
        after: Bytes of this response's body that are sent before. Shorter bodies do not count.
            None: a place drawn from ``seed``, another one each time.
        reset: End it with RST instead of FIN. Of the bytes sent, those that the client did not
            take yet are lost then, so ``after`` is the most that it can have.
    """

    after: int | None = None
    seed: int = 0
    reset: bool = False


@dataclass(frozen=True, kw_only=True)
class Flip(Fault):
    """One bit of the file is wrong.

    Attributes:
        offset: The byte in the file; from its end if negative. Ranges that do not have it do not
            count.
    """

    offset: int = 0
    times: int | None = None


@dataclass(frozen=True, kw_only=True)
class Resize(Fault):
    """The file that is sent is longer or shorter than the one that is listed.

    Attributes:
        by: Bytes more (zeros) or, if negative, fewer. All headers of the answer agree with it.
    """

    by: int
    times: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stall(Fault):
    """Nothing more is sent after so many bytes of a body, until the hub closes.

    Attributes:
        after: Bytes of this response's body. Shorter bodies do not count.
        seconds: Go on after so long, instead.
    """

    after: int = 0
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slow(Fault):
    """Bodies are sent at no more than this many bytes per second."""

    bytes_per_second: int
    times: int | None = None


@dataclass(frozen=True, kw_only=True)
class NoRange(Fault):
    """A request for a range is answered with the whole file and status 200."""

    times: int | None = None


F = TypeVar("F", bound=Fault)


class _Live(Generic[F]):
    """A fault and its remaining count."""

    def __init__(self, fault: F) -> None:
        self.fault = fault
        self.left = fault.times
        self.random = random.Random(fault.seed if isinstance(fault, Cut) else 0)


class Faults:
    """All faults of a hub. Any thread may add, clear or trigger them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: list[_Live[Any]] = []

    def add(self, *faults: Fault) -> None:
        """From now on. Of several faults of one kind that match, the first added is met."""
        with self._lock:
            self._live += [_Live(fault) for fault in faults]

    def clear(self) -> None:
        """Remove all faults; bodies that are being sent keep theirs."""
        with self._lock:
            self._live.clear()

    def status(self, path: str, method: str, where: Where) -> Status | None:
        """The status that this request gets instead of its own."""
        found = self._take(
            Status, path, lambda fault: method in fault.methods and fault.where in (None, where)
        )
        return found.fault if found else None

    def no_range(self, path: str) -> bool:
        """Whether the header is ignored."""
        return self._take(NoRange, path) is not None

    def resize(self, path: str) -> int:
        """By how many bytes the file is longer."""
        found = self._take(Resize, path)
        return found.fault.by if found else 0

    def flip(self, path: str, size: int, start: int, stop: int) -> int | None:
        """The byte of the file, counted from its begin, that is wrong in this range of it."""

        def place(fault: Flip) -> int:
            return fault.offset if fault.offset >= 0 else size + fault.offset

        found = self._take(Flip, path, lambda fault: start <= place(fault) < stop)
        return place(found.fault) if found else None

    def cut(self, path: str, length: int) -> tuple[int, bool] | None:
        """After how many bytes of the body the connection ends, and whether by RST."""
        found = self._take(Cut, path, lambda fault: length > (fault.after or 0))
        if found is None:
            return None
        after = found.fault.after
        return (found.random.randrange(length) if after is None else after), found.fault.reset

    def stall(self, path: str, length: int) -> Stall | None:
        """The pause in this body."""
        found = self._take(Stall, path, lambda fault: length > fault.after)
        return found.fault if found else None

    def slow(self, path: str) -> int | None:
        """Bytes a second."""
        found = self._take(Slow, path)
        return found.fault.bytes_per_second if found else None

    def _take(
        self, kind: type[F], path: str, applies: Callable[[F], bool] = lambda fault: True
    ) -> _Live[F] | None:
        with self._lock:
            for live in self._live:
                fault = live.fault
                if (
                    isinstance(fault, kind)
                    and live.left != 0
                    and fnmatchcase(path, fault.pattern)
                    and applies(fault)
                ):
                    if live.left is not None:
                        live.left -= 1
                    return live
        return None
