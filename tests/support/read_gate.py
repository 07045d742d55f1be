"""Reads that wait until a test lets them through."""

from __future__ import annotations

import threading

from tests.support.timeout import TIMEOUT_S


class Gate:
    """Holds reads of an expert until it is opened, and records the reads that wait."""

    def __init__(self) -> None:
        self.begun: set[int] = set()
        self.waiting: set[int] = set()
        self._open: set[int] = set()
        self._changed = threading.Condition()

    def pass_through(self, expert: int) -> None:
        with self._changed:
            self.begun.add(expert)
            self.waiting.add(expert)
            self._changed.notify_all()
            passed = self._changed.wait_for(lambda: expert in self._open, TIMEOUT_S)
            self.waiting.discard(expert)
            assert passed

    def open(self, *experts: int) -> None:
        with self._changed:
            self._open.update(experts)
            self._changed.notify_all()

    def wait_until_begun(self, *experts: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun >= set(experts), TIMEOUT_S)
