"""Reader threads, which read records into slots. They never build or evaluate an MLX array.

Threads live as long as the model. A batch of reads belongs to the caller that submitted it: the
caller waits for all reads, or takes them as they complete, and gets the first error. After a failed
or interrupted wait no read of the batch is running any more, so its slots can be reused.

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

# Seconds between checks for dead threads during a wait. The checks do not slow reads.
CHECK_THREADS_S = 1.0


@dataclass(frozen=True, eq=False)
class Read:
    """One record to read.

    Attributes:
        record: Destination: writeable bytes of the record's size.
    """

    layer: int
    expert: int
    record: memoryview


def split_record(n_bytes: int, n_parts: int) -> list[tuple[int, int]]:
    """Split a record into at most ``n_parts`` ranges of whole pages, as equal as possible."""
    step = max(align(-(-n_bytes // n_parts), DIRECT_ALIGNMENT), DIRECT_ALIGNMENT)
    return [(start, min(start + step, n_bytes)) for start in range(0, n_bytes, step)] or [(0, 0)]


@dataclass(frozen=True)
class _Part:
    index: int  # of the read in its batch
    start: int
    stop: int


class ReadBatch:
    """Reads that are submitted together, and their results.

    Threads take parts of reads from the batch; the queue only wakes them. So a batch can be emptied
    at any time, even if the caller was interrupted while submitting it.

    One thread waits: with ``wait`` for all reads, or with ``next_completed`` for some, or both in
    turn. Each raises the first error of the batch, even of a record that it does not wait for, and
    then no read of the batch is running. A caller that stops before all reads completed must call
    ``wait`` or ``drain`` before the slots are reused.

    Args:
        reads: Reads whose records do not overlap.
        split: Number of parts that each record is read in.
        check_threads: Called each second of a wait, to check that threads still serve the batch.

    Attributes:
        n_parts: Number of threads that the batch can use.
        n_bytes: Bytes read so far.
        read_s: Seconds inside reads, summed over threads.
        ended: Time of ``time.perf_counter`` at which the latest read ended.
    """

    def __init__(
        self,
        reads: Sequence[Read],
        split: int = 1,
        check_threads: Callable[[ReadBatch], None] = lambda batch: None,
    ) -> None:
        self.n_bytes = 0
        self.read_s = 0.0
        self.ended = 0.0
        self._reads = reads
        parts = [split_record(len(read.record), split) for read in reads]
        self._missing = [len(ranges) for ranges in parts]  # unread parts of each read
        self._todo = deque(
            _Part(index, start, stop)
            for index, ranges in enumerate(parts)
            for start, stop in ranges
        )
        self.n_parts = len(self._todo)
        self._running: dict[threading.Thread, _Part] = {}  # by the thread that reads it
        self._completed: list[Read] = []
        self._returned = 0  # how many of them next_completed() has returned
        self._needed = math.inf  # completed reads that the caller waits for
        self._error: BaseException | None = None
        self._dropped = False
        self._check_threads = check_threads
        self._changed = threading.Condition()

    def wait(self) -> None:
        """Return when every read has completed.

        Raises:
            StoreError: The first read that failed. No other read of the batch is running then.
            KeyboardInterrupt: Ctrl-C; no read of the batch is running then either.
            ValueError: Reads were dropped.
        """
        self._wait(lambda: False)
        if not self.complete:
            raise ValueError("reads of the batch were dropped")

    def next_completed(self, least: int = 1) -> Sequence[Read]:
        """Return the reads completed since the last call, in order of completion.

        Waits for at least ``least`` of them, or until no read is left.

        Raises:
            StoreError, KeyboardInterrupt: As ``wait``.
            ValueError: Reads were dropped.
        """
        self._needed = self._returned + least
        try:
            self._wait(lambda: len(self._completed) >= self._needed)
        finally:
            self._needed = math.inf
        new = self._completed[self._returned :]
        self._returned += len(new)
        if not new and not self.complete:
            raise ValueError("reads of the batch were dropped")
        return new

    @property
    def done(self) -> bool:
        """True if no read is queued or running, whether they succeeded or not."""
        with self._changed:
            return not self._todo and not self._running

    @property
    def complete(self) -> bool:
        """True if every record was read."""
        return len(self._completed) == len(self._reads)

    @property
    def dropped(self) -> bool:
        """True if reads were dropped, so that the batch will never be complete."""
        return self._dropped

    def drop(self) -> None:
        """Drop the reads that have not begun, without waiting for running ones."""
        with self._changed:
            self._drop()

    def _drop(self) -> None:
        self._dropped = self._dropped or bool(self._todo)
        self._todo.clear()
        if not self._running:
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready()`` is true, or no read is queued or running."""
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
        """Drop the reads that have not begun and wait for the running ones.

        A second Ctrl-C must not release slots that a thread still writes to, so it is raised only
        after the threads are done.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                with self._changed:
                    self._drop()
                    while self._running:
                        self._pause()
                        self._drop()  # parts requeued from a dead thread
                break
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt is not None:
            raise interrupt

    def _pause(self) -> None:
        if not self._changed.wait(CHECK_THREADS_S):
            self._check_threads(self)

    def requeue_lost(self) -> bool:
        """Requeue the parts that dead threads were reading.

        Returns:
            True if a part is queued.
        """
        with self._changed:
            for thread in [t for t in self._running if not t.is_alive()]:
                self._todo.append(self._running.pop(thread))
            return bool(self._todo)

    def run_one(self, reader: RecordReader) -> bool:
        """Read one part, in a reader thread. Return False if none is left."""
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
                self._completed.append(self._reads[part.index])
            self._end_part(me, error)
        return True

    def _do(self, part: _Part, reader: RecordReader) -> tuple[int, bool]:
        """Read a part; return the bytes read, and True if this completes the record."""
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

    def fail(self, error: BaseException) -> None:
        """Record an error in the calling reader thread that ``run_one`` did not catch."""
        with self._changed:
            self._end_part(threading.current_thread(), error)

    def _end_part(self, thread: threading.Thread, error: BaseException | None) -> None:
        self._running.pop(thread, None)
        self.ended = time.perf_counter()
        if error is not None:
            self._error = self._error or error
            self._drop()  # the caller gets the error, and the whole batch is dropped
        if not self._running or len(self._completed) >= self._needed:
            self._changed.notify_all()


# Bytes. Smaller parts of a record cost more in calls than they gain by parallel reads.
MIN_PART = 512 * 1024


class ReaderPool:
    """A fixed number of reader threads with one queue.

    Args:
        reader: Source of the records. The pool closes it.
        n_threads: Number of threads, and maximum number of reads in flight.
        split: Parts that each record is read in, by different threads. ``None``: as many as keep
            all threads busy, if a batch has fewer records than there are threads.
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
        """Create a batch, split by the rule of the pool. Reading begins with ``submit``.

        Args:
            spread: Let a split of ``None`` use all threads; false keeps each record whole.
        """
        split = self._split
        if split is None:
            split = 1
            if reads and spread:
                largest = max(len(read.record) for read in reads)
                split = max(min(self._n_threads // len(reads), largest // MIN_PART), 1)
        return ReadBatch(reads, split, self._check_threads)

    def submit(self, batch: ReadBatch) -> None:
        """Queue the reads of a batch, behind those of earlier batches.

        Raises:
            ClosedError: The pool was closed.
        """
        if self._closed:
            raise ClosedError("stream", "the model was closed", "Load it again.")
        if os.getpid() != self._process:
            # A forked process has none of the threads, and the queue's lock may have been held by
            # one of them.
            self._start()
        for _ in range(batch.n_parts):
            self._queue.put(batch)

    def _check_threads(self, batch: ReadBatch) -> None:
        """Called while waiting for a batch: restart dead threads and requeue their parts.

        In a forked process all threads are dead.
        """
        if self._closed:
            return
        if os.getpid() != self._process:
            self._start()
        dead = [n for n, thread in enumerate(self._threads) if not thread.is_alive()]
        for n in dead:
            self._threads[n] = self._thread(n)
            self._threads[n].start()
        if batch.requeue_lost():
            self._queue.put(batch)  # its wake may have gone to a dead thread

    def close(self) -> None:
        """End the threads after the queued reads, then close the files.

        May be called repeatedly, even after an interrupt.
        """
        if self._ended:
            return
        self._closed = True
        if os.getpid() == self._process:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                while thread.is_alive() and thread is not threading.current_thread():
                    thread.join(CHECK_THREADS_S)
                    self._queue.put(None)  # one more: a wake can be lost, as in _check_threads
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
            # An error outside of the read itself must not end the thread: the caller would wait
            # until another one is started. It is reported like an error of a read.
            if batch is not None:
                batch.fail(error)
        del batch  # it refers to slots, and the next one may come much later
