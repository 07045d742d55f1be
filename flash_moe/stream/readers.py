"""The threads that read records into slots. They never build or evaluate an MLX array.

Threads live as long as the model. A batch of reads belongs to the caller that submitted it: it
waits for all of them, or takes them one by one as they arrive, and gets the first error. After a
failed or interrupted wait no read of the batch is running any more, so that the slots can be given
to others.

A record may be read in several parts by several threads; a batch hides that.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from flash_moe.errors import ClosedError
from flash_moe.store.layout import align
from flash_moe.store.reader import DIRECT_ALIGNMENT, RecordReader

# Seconds between looks at the threads, of somebody who waits: nothing that a read is slowed by.
LOOK_AFTER_S = 1.0


@dataclass(frozen=True, eq=False)
class Read:
    """One record to read.

    Attributes:
        record: Where it goes: writeable bytes of the record's size.
    """

    layer: int
    expert: int
    record: memoryview


def split_record(n_bytes: int, n_parts: int) -> list[tuple[int, int]]:
    """Cut a record into at most ``n_parts`` ranges of whole pages, as equal as that allows."""
    step = max(align(-(-n_bytes // n_parts), DIRECT_ALIGNMENT), DIRECT_ALIGNMENT)
    return [(start, min(start + step, n_bytes)) for start in range(0, n_bytes, step)] or [(0, 0)]


@dataclass(frozen=True)
class _Part:
    index: int  # of the read in its batch
    start: int
    stop: int


class ReadBatch:
    """Reads that were submitted together, and their outcome.

    Threads take parts of reads out of the batch; the queue only wakes them. So a batch can be
    emptied at any moment, also when the caller was interrupted half way through submitting it.

    One thread waits: with ``wait`` for all, or with ``arrivals`` for those that come first, or both
    in turn. Each raises the first error of the batch, also one of a record that it does not wait
    for, and then no read of the batch is running. A caller that stops before all are there must
    ``wait`` or ``drain`` before the slots get a new use.

    Args:
        reads: What to read. Their records must not overlap.
        split: Parts that a record is read in.
        look_after: Is called each second of a wait, to see that threads still serve the batch.

    Attributes:
        n_parts: How many threads the batch can use.
        n_bytes: Bytes read so far.
        read_s: Seconds inside reads, summed over threads.
        ended: When the last read so far ended, as of ``time.perf_counter``.
    """

    def __init__(
        self,
        reads: Sequence[Read],
        split: int = 1,
        look_after: Callable[[ReadBatch], None] = lambda batch: None,
    ) -> None:
        self.n_bytes = 0
        self.read_s = 0.0
        self.ended = 0.0
        self._reads = reads
        parts = [split_record(len(read.record), split) for read in reads]
        self._missing = [len(ranges) for ranges in parts]  # parts of each read
        self._todo = deque(
            _Part(index, start, stop)
            for index, ranges in enumerate(parts)
            for start, stop in ranges
        )
        self.n_parts = len(self._todo)
        self._running: dict[threading.Thread, _Part] = {}  # by the thread that reads it
        self._arrived: list[Read] = []
        self._told = 0  # how many of them arrivals() has returned
        self._wanted = math.inf  # how many have to be there for the caller to go on
        self._error: BaseException | None = None
        self._lost = False
        self._look_after = look_after
        self._changed = threading.Condition()

    def wait(self) -> None:
        """Return when every read is done.

        Raises:
            StoreError: The first read that failed. No other read of the batch is running then.
            KeyboardInterrupt: The user's; the same holds.
            ValueError: Some of them were dropped.
        """
        self._wait(lambda: False)
        if not self.complete:
            raise ValueError("reads of the batch were dropped")

    def arrivals(self, least: int = 1) -> Sequence[Read]:
        """The reads that ended since the last call, in order of arrival.

        Returns when there are at least ``least``, or no more to come.

        Raises:
            StoreError, KeyboardInterrupt: As of ``wait``.
            ValueError: Some of them were dropped.
        """
        self._wanted = self._told + least
        try:
            self._wait(lambda: len(self._arrived) >= self._wanted)
        finally:
            self._wanted = math.inf
        new = self._arrived[self._told :]
        self._told += len(new)
        if not new and not self.complete:
            raise ValueError("reads of the batch were dropped")
        return new

    @property
    def done(self) -> bool:
        """Whether nothing is left to read, and no thread reads. Does not say how it went."""
        with self._changed:
            return not self._todo and not self._running

    @property
    def complete(self) -> bool:
        """Whether every record is there."""
        return len(self._arrived) == len(self._reads)

    @property
    def lost(self) -> bool:
        """Whether something was dropped, so that it will never be complete."""
        return self._lost

    def drop(self) -> None:
        """Drop the reads that have not begun; does not wait for those that have."""
        with self._changed:
            self._drop()

    def _drop(self) -> None:
        self._lost = self._lost or bool(self._todo)
        self._todo.clear()
        if not self._running:
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready``, or until nothing is left to wait for."""
        try:
            with self._changed:
                while self._error is None and (self._todo or self._running) and not ready():
                    self._pause()
            if self._error is not None:
                self.drain()
        except BaseException:
            self.drain()
            raise
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Drop the reads that have not begun and wait for those that have.

        A second Ctrl-C must not let go of slots that a thread still writes to, so it is kept until
        the threads are done.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                with self._changed:
                    self._drop()
                    while self._running:
                        self._pause()
                        self._drop()  # what was taken back from a thread that is gone
                break
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt is not None:
            raise interrupt

    def _pause(self) -> None:
        if not self._changed.wait(LOOK_AFTER_S):
            self._look_after(self)

    def take_back(self) -> bool:
        """Take back what threads were reading that have ended.

        Returns:
            Whether a part waits for a thread.
        """
        with self._changed:
            for thread in [t for t in self._running if not t.is_alive()]:
                self._todo.append(self._running.pop(thread))
            return bool(self._todo)

    def run_one(self, reader: RecordReader) -> bool:
        """Read one part, in a reader thread. False if none is left."""
        me = threading.current_thread()
        with self._changed:
            if not self._todo:
                return False
            part = self._todo.popleft()
            self._running[me] = part
        n_bytes, error, whole = 0, None, False
        started = time.perf_counter()
        try:
            n_bytes, whole = self._do(part, reader)
        except BaseException as problem:
            error = problem
        with self._changed:
            self.n_bytes += n_bytes
            self.read_s += time.perf_counter() - started
            if whole:
                self._arrived.append(self._reads[part.index])
            self._leave(me, error)
        return True

    def _do(self, part: _Part, reader: RecordReader) -> tuple[int, bool]:
        """Read a part. Returns the bytes read, and whether the record is complete with it."""
        read = self._reads[part.index]
        if part.stop - part.start == len(read.record):
            return reader.read(read.layer, read.expert, read.record), True
        n_bytes = reader.read_part(read.layer, read.expert, read.record, part.start, part.stop)
        with self._changed:
            self._missing[part.index] -= 1
            last = not self._missing[part.index]
        if last:
            reader.finish(read.layer, read.expert, read.record)
        return n_bytes, last

    def give_up(self, error: BaseException) -> None:
        """The calling reader thread met an error that ``run_one`` did not foresee."""
        with self._changed:
            self._leave(threading.current_thread(), error)

    def _leave(self, thread: threading.Thread, error: BaseException | None) -> None:
        self._running.pop(thread, None)
        self.ended = time.perf_counter()
        if error is not None:
            self._error = self._error or error
            self._drop()  # the caller drops the whole batch
        if not self._running or len(self._arrived) >= self._wanted:
            self._changed.notify_all()


# Bytes. Smaller parts of a record cost more in calls than other threads gain.
MIN_PART = 512 * 1024


class ReaderPool:
    """A fixed number of reader threads with one queue.

    Args:
        reader: Where records are read from. The pool closes it.
        n_threads: Threads, which is also the most reads in flight.
        split: Parts that each record is read in, by different threads. ``None``: as many as keep
            all threads busy, where a batch has fewer records than there are threads.
    """

    def __init__(self, reader: RecordReader, n_threads: int, split: int | None = 1) -> None:
        self._reader = reader
        self._n_threads = n_threads
        self._split = split
        self._closed = self._ended = False
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._queue: SimpleQueue[ReadBatch | None] = SimpleQueue()
        self._threads = [self._thread(number) for number in range(self._n_threads)]
        for thread in self._threads:
            thread.start()

    def _thread(self, number: int) -> threading.Thread:
        return threading.Thread(
            target=_serve,
            args=(self._queue, self._reader),
            name=f"flash-moe-reader-{number}",
            daemon=True,
        )

    def batch(self, reads: Sequence[Read], *, spread: bool = True) -> ReadBatch:
        """A batch of these reads, split as the pool splits. Nothing begins before ``submit``.

        Args:
            spread: Whether the other threads have nothing better to do.
        """
        split = self._split
        if split is None:
            split = 1
            if reads and spread:
                largest = max(len(read.record) for read in reads)
                split = max(min(self._n_threads // len(reads), largest // MIN_PART), 1)
        return ReadBatch(reads, split, self._look_after)

    def submit(self, batch: ReadBatch) -> None:
        """Queue the reads of a batch, behind those of earlier ones.

        Raises:
            ClosedError: The pool was closed.
        """
        if self._closed:
            raise ClosedError("stream", "the model was closed", "Load it again.")
        if os.getpid() != self._process:
            # A forked process has none of the threads, and perhaps a lock of the queue that one of
            # them held.
            self._start()
        for _ in range(batch.n_parts):
            self._queue.put(batch)

    def _look_after(self, batch: ReadBatch) -> None:
        """Somebody waits for a batch: see that its reads do not wait for a thread that is gone.

        Whatever a thread died of, and in a forked process all have, others take its place.
        """
        if self._closed:
            return
        if os.getpid() != self._process:
            self._start()
        dead = [n for n, thread in enumerate(self._threads) if not thread.is_alive()]
        for n in dead:
            self._threads[n] = self._thread(n)
            self._threads[n].start()
        if batch.take_back():
            self._queue.put(batch)  # a dead one may have been woken for it

    def close(self) -> None:
        """End the threads after the reads that are queued, then close the files.

        May be called again, also after an interrupt.
        """
        if self._ended:
            return
        self._closed = True
        if os.getpid() == self._process:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                while thread.is_alive() and thread is not threading.current_thread():
                    thread.join(LOOK_AFTER_S)
                    self._queue.put(None)  # one more: a wake can be lost, as in _look_after
        self._reader.close()
        self._ended = True


def _serve(queue: SimpleQueue[ReadBatch | None], reader: RecordReader) -> None:
    while True:
        batch = None
        try:
            batch = queue.get()
            if batch is None:
                return
            while batch.run_one(reader):
                pass
        except BaseException as error:
            # Nothing that strikes outside of the read itself may end the thread: the caller would
            # wait for another one. An error of this kind is told like that of a read.
            if batch is not None:
                batch.give_up(error)
        del batch  # it holds slots, and the next one may be long in coming
