"""Reader threads, which live as long as the model and run batches of reads (``readers.py``)."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from flash_moe.errors import ClosedError
from flash_moe.store.reader import RecordReader
from flash_moe.stream import readers
from flash_moe.stream.readers import Read, ReadBatch
from flash_moe.stream.slab import SharedMemory


class ReaderPool:
    """A fixed number of reader threads with one queue.

    Args:
        reader: Source of the records. The pool closes it.
        n_threads: Number of threads, and maximum number of reads in flight.
        split: Parts that each record is read in, by different threads. ``None``: as many as keep
            all threads busy, if a batch has fewer records than there are threads.
        min_part: Bytes of the smallest part of such a split.
    """

    def __init__(
        self,
        reader: RecordReader,
        n_threads: int,
        split: int | None = 1,
        min_part: int = SharedMemory.min_part,
    ) -> None:
        self._min_part = min_part
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
                split = max(min(self._n_threads // len(reads), largest // self._min_part), 1)
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
                    thread.join(readers.CHECK_THREADS_S)
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
