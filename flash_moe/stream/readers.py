"""The threads that read records into slots. They never build or evaluate an MLX array.

Threads live as long as the model. A batch of reads belongs to the caller that submitted it: it
waits for all of them, and gets the first error. After a failed or interrupted wait no read of the
batch is running any more, so that the slots can be given to others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from flash_moe.errors import ClosedError
from flash_moe.store.reader import RecordReader


@dataclass(frozen=True)
class Read:
    """One record to read.

    Attributes:
        record: Where it goes: writeable bytes of the record's size.
    """

    layer: int
    expert: int
    record: memoryview


class ReadBatch:
    """Reads that were submitted together, and their outcome.

    Threads take reads out of the batch; the queue only wakes them. So a batch can be emptied at
    any moment, also when the caller was interrupted half way through submitting it.

    Attributes:
        n_bytes: Bytes read so far.
        read_s: Seconds inside reads, summed over threads.
    """

    def __init__(self, reads: Sequence[Read]) -> None:
        self.n_bytes = 0
        self.read_s = 0.0
        self._todo = deque(reads)
        self._running = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def wait(self) -> None:
        """Return when every read is done.

        Raises:
            StoreError: The first read that failed. No other read of the batch is running then.
            KeyboardInterrupt: The user's; the same holds.
        """
        try:
            with self._changed:
                while self._todo or self._running:
                    self._changed.wait()
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
                    self._todo.clear()
                    while self._running:
                        self._changed.wait()
                break
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt is not None:
            raise interrupt

    def run_one(self, reader: RecordReader) -> None:
        """Do one read, in a reader thread. Does nothing if none is left."""
        with self._changed:
            if not self._todo:
                return
            read = self._todo.popleft()
            self._running += 1
        n_bytes, error = 0, None
        started = time.perf_counter()
        try:
            n_bytes = reader.read(read.layer, read.expert, read.record)
        except BaseException as problem:
            error = problem
        with self._changed:
            self._running -= 1
            self.n_bytes += n_bytes
            self.read_s += time.perf_counter() - started
            if error is not None:
                self._error = self._error or error
                self._todo.clear()  # the caller drops the whole batch
            if not self._running:
                self._changed.notify_all()


class ReaderPool:
    """A fixed number of reader threads with one queue.

    Args:
        reader: Where records are read from. The pool closes it.
        n_threads: Threads, which is also the most reads in flight.
    """

    def __init__(self, reader: RecordReader, n_threads: int) -> None:
        self._reader = reader
        self._queue: SimpleQueue[ReadBatch | None] = SimpleQueue()
        self._threads = [
            threading.Thread(
                target=_serve,
                args=(self._queue, reader),
                name=f"flash-moe-reader-{number}",
                daemon=True,
            )
            for number in range(n_threads)
        ]
        self._closed = False
        for thread in self._threads:
            thread.start()

    def submit(self, batch: ReadBatch, n_reads: int) -> None:
        """Queue the reads of a batch.

        Raises:
            ClosedError: The pool was closed.
        """
        if self._closed:
            raise ClosedError("stream", "the model was closed", "Load it again.")
        for _ in range(n_reads):
            self._queue.put(batch)

    def close(self) -> None:
        """End the threads after the reads that are queued, then close the files."""
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._reader.close()


def _serve(queue: SimpleQueue[ReadBatch | None], reader: RecordReader) -> None:
    while (batch := queue.get()) is not None:
        batch.run_one(reader)
        del batch  # it holds slots, and the next one may be long in coming
