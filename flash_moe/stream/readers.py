"""Batches of reads, which the reader threads run. They never build or evaluate an MLX array.

A batch of reads belongs to the caller that submitted it: the
caller waits for all reads, or takes them as they complete, and gets the first error. After a failed
or interrupted wait no read of the batch is running any more, so its slots can be reused.

A record may be read in several parts by several threads; a batch hides that.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from flash_moe.compat.cudart import CudaError
from flash_moe.errors import ReadError
from flash_moe.store.layout import align
from flash_moe.store.reader import DIRECT_ALIGNMENT, RecordReader
from flash_moe.stream.device_slab import StagedRecord

# Seconds between checks for dead threads during a wait. The checks do not slow reads.
CHECK_THREADS_S = 1.0


@dataclass(frozen=True, eq=False)
class Read:
    """One record to read.

    Attributes:
        record: Destination: writeable bytes of the record's size, or a place in device memory.
    """

    layer: int
    expert: int
    record: memoryview | StagedRecord


def split_record(n_bytes: int, n_parts: int) -> list[tuple[int, int]]:
    """Split a record into at most ``n_parts`` ranges of whole pages, as equal as possible."""
    step = max(align(-(-n_bytes // n_parts), DIRECT_ALIGNMENT), DIRECT_ALIGNMENT)
    return [(start, min(start + step, n_bytes)) for start in range(0, n_bytes, step)] or [(0, 0)]


def _split(read: Read, n_parts: int) -> int:
    """Number of parts of a read: a record that is only copied stays whole."""
    return n_parts if isinstance(read.record, memoryview) or not read.record.in_host else 1


@dataclass(frozen=True)
class _Part:
    index: int  # of the read in its batch
    start: int
    stop: int


def copy_error(error: CudaError, layer: int, expert: int) -> ReadError:
    """Return the error for an expert whose copy to the GPU failed."""
    return ReadError(
        "stream",
        f"the copy to the GPU failed: {error}",
        "The model stays usable. After a fault of the GPU, load it in a new process.",
        layer=layer,
        expert=expert,
    )


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
        n_copied, copy_s: The same for copies to device memory.
        n_host: Records that were copied from the second tier and not read.
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
        self.n_copied = self.n_host = 0
        self.copy_s = 0.0
        self.ended = 0.0
        self._reads = reads
        parts = [split_record(len(read.record), _split(read, split)) for read in reads]
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
        # Not a Condition: Ctrl-C may end its ``with`` while it has the lock.
        self._lock = threading.Lock()
        self._news: SimpleQueue[None] = SimpleQueue()  # for the thread that waits

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

    def counts(self) -> dict[str, float]:
        """Amounts of the reads so far, by the names of the counters."""
        return {
            "bytes_read": self.n_bytes,
            "read_s": self.read_s,
            "bytes_copied": self.n_copied,
            "copy_s": self.copy_s,
            "host_hits": self.n_host,
        }

    @property
    def done(self) -> bool:
        """True if no read is queued or running, whether they succeeded or not."""
        with self._lock:
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
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._dropped = self._dropped or bool(self._todo)
        self._todo.clear()
        if not self._running:
            self._release()

    def _release(self) -> None:
        """Return the buffers of records that no thread reads any more."""
        for read in self._reads:
            if not isinstance(read.record, memoryview):
                read.record.release()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready()`` is true, or no read is queued or running."""
        try:
            while True:
                with self._lock:
                    if self._error or ready() or not (self._todo or self._running):
                        break
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
                with self._lock:
                    self._drop()  # each time: parts may be requeued from a dead thread
                    if not self._running:
                        break
                self._pause()
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt is not None:
            raise interrupt

    def _pause(self) -> None:
        try:
            self._news.get(timeout=CHECK_THREADS_S)
        except Empty:
            self._check_threads(self)

    def requeue_lost(self) -> bool:
        """Requeue the parts that dead threads were reading.

        Returns:
            True if a part is queued.
        """
        with self._lock:
            for thread in [t for t in self._running if not t.is_alive()]:
                self._todo.append(self._running.pop(thread))
            return bool(self._todo)

    def run_one(self, reader: RecordReader) -> bool:
        """Read one part, in a reader thread. Return False if none is left."""
        me = threading.current_thread()
        with self._lock:
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
        with self._lock:
            self.n_bytes += n_bytes
            self.read_s += time.perf_counter() - started
            if whole:
                read = self._reads[part.index]
                self._completed.append(read)
                if not isinstance(read.record, memoryview):
                    read.record.release(complete=True)
            self._end_part(me, error)
        return True

    def _do(self, part: _Part, reader: RecordReader) -> tuple[int, bool]:
        """Read a part; return the bytes read, and True if this completes the record."""
        read = self._reads[part.index]
        staged = None if isinstance(read.record, memoryview) else read.record
        try:
            host = read.record if isinstance(read.record, memoryview) else read.record.host()
            whole = part.stop - part.start == len(read.record)
            if staged is not None and staged.in_host:
                n_bytes = 0
            elif whole:
                n_bytes = reader.read(read.layer, read.expert, host)
            else:
                n_bytes = reader.read_part(read.layer, read.expert, host, part.start, part.stop)
            if staged is not None:
                self._copy(staged, part)
        except CudaError as error:
            number = reader.experts.layers[read.layer].number
            raise copy_error(error, number, read.expert) from error
        if whole:
            return n_bytes, True
        with self._lock:
            self._missing[part.index] -= 1
            last = not self._missing[part.index]
        if last:
            reader.finish(read.layer, read.expert, host)
        return n_bytes, last

    def _copy(self, record: StagedRecord, part: _Part) -> None:
        started = time.perf_counter()
        record.deliver(part.start, part.stop)
        seconds = time.perf_counter() - started
        with self._lock:
            self.n_copied += part.stop - part.start
            self.n_host += record.in_host
            self.copy_s += seconds
            self.read_s -= seconds  # run_one adds all of the part's time

    def fail(self, error: BaseException) -> None:
        """Record an error in the calling reader thread that ``run_one`` did not catch."""
        with self._lock:
            self._end_part(threading.current_thread(), error)

    def _end_part(self, thread: threading.Thread, error: BaseException | None) -> None:
        self._running.pop(thread, None)
        self.ended = time.perf_counter()
        if error is not None:
            self._error = self._error or error
            self._drop()  # the caller gets the error, and the whole batch is dropped
        if (self._dropped or self._error) and not self._running:
            self._release()
        if not self._running or len(self._completed) >= self._needed:
            self._news.put(None)
