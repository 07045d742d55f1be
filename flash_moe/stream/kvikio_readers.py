"""Reads into device memory by KvikIO, NVIDIA's library, whose threads are not Python's.

Python's reader threads take turns with the thread that builds the next layer, since one at a time
holds the interpreter lock. Without them a token took 0.81 of the time on an H200
(docs/experiments.md). KvikIO divides each record and moves the parts through pinned buffers to
the slot. It comes with ``flash-moe[cuda]``.

Its number of threads and its mode are settings of the process, made when a model is loaded.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flash_moe.errors import ClosedError, ReadError
from flash_moe.store.reader import RecordReader
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.device_slab import StagedRecord
from flash_moe.stream.reader_pool import ReaderPool
from flash_moe.stream.readers import Read
from flash_moe.stream.slab import SharedMemory

_log = logging.getLogger(__name__)
# A token of 12 layers waited 2.4 ms with 16 threads and parts of 1 MiB, 2.3 with 512 KiB, 3.4 with
# 8 threads and 2 MiB, 4.0 with 4 (H200, docs/experiments.md).
PART_BYTES = 1024 * 1024


@functools.cache
def kvikio_library() -> Any | None:
    """Return KvikIO, or ``None`` if it is not installed or does not work here."""
    try:
        import kvikio
        import kvikio.defaults
    except ImportError:
        return None
    except (OSError, RuntimeError) as error:  # a library of CUDA is missing
        _log.warning("KvikIO cannot be used, and Python's threads read instead: %s", error)
        return None
    return kvikio


def open_readers(
    memory: SharedMemory | DeviceMemory,
    reader: RecordReader,
    n_threads: int,
    split: int | None,
    io: str,
) -> ReaderPool | KvikioReaders:
    """Return KvikIO's readers where they can be used, else a ``ReaderPool``.

    Args:
        memory: Memory of the slots.
        reader, n_threads, split: See ``ReaderPool``.
        io: ``"buffered"`` or ``"direct"``.
    """
    native = kvikio_readers(memory, reader, n_threads, io)
    return native or ReaderPool(reader, n_threads, split, memory.min_part)


def kvikio_readers(
    memory: SharedMemory | DeviceMemory, reader: RecordReader, n_threads: int, io: str
) -> KvikioReaders | None:
    """Return readers of a bank, or ``None`` if its records need the threads of Python.

    Those check, log and convert what they read, and fill the second tier.
    """
    if not isinstance(memory, DeviceMemory) or memory.tier is not None:
        return None
    kvikio = kvikio_library()
    if kvikio is None or type(reader) is not RecordReader or reader.verify:
        return None
    experts = reader.experts
    firsts = (s for layer in range(len(experts.layers)) for s in experts.segments(layer, 0))
    if any(segment.rows > 1 or segment.factor != 1 for segment in firsts):
        return None
    return KvikioReaders(kvikio, reader, n_threads, io)


class KvikioReaders:
    """The reader threads of KvikIO, with the methods of a ``ReaderPool``.

    Args:
        kvikio: The library.
        reader: Source of the records. This object closes it.
        n_threads: Number of threads.
        io: ``"buffered"`` or ``"direct"``.
    """

    def __init__(self, kvikio: Any, reader: RecordReader, n_threads: int, io: str) -> None:
        self._open: Callable[..., Any] = kvikio.CuFile
        self._reader = reader
        self._files: dict[Path, Any] = {}
        self._closed = False
        kvikio.defaults.set(
            {
                "compat_mode": kvikio.CompatMode.ON,  # plain reads, not GPUDirect Storage
                "auto_direct_io_read": io == "direct",
                "num_threads": n_threads,
                "bounce_buffer_size": PART_BYTES,
                "gds_threshold": 0,  # smaller reads would run in the calling thread
            }
        )

    def batch(self, reads: Sequence[Read], *, spread: bool = True) -> KvikioBatch:
        """Create a batch. Reading begins with ``submit``."""
        return KvikioBatch(reads, self._reader)

    def submit(self, batch: KvikioBatch) -> None:
        """Queue the reads of a batch, behind those of earlier batches.

        Raises:
            ClosedError: The readers were closed.
            ReadError: A file cannot be opened.
        """
        if self._closed:
            raise ClosedError("stream", "the model was closed", "Load it again.")
        batch.start(self._file)

    def _file(self, path: Path) -> Any:
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = self._open(path, "r")
        return file

    def close(self) -> None:
        """Close the files. No read may run; may be called repeatedly."""
        self._closed = True
        while self._files:
            self._files.popitem()[1].close()
        self._reader.close()


class _DeviceBytes:
    """Bytes at a device address, as a buffer for KvikIO."""

    def __init__(self, address: int, n_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (n_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


class KvikioBatch:
    """Reads that are submitted together; see ``ReadBatch``.

    KvikIO cannot drop a read that is queued, so ``drop`` does nothing.

    Attributes:
        n_parts: Number of reads.
        n_bytes: Bytes read so far.
        ended: Time of ``time.perf_counter`` at which the end of the latest read was seen.
        dropped: False.
    """

    dropped = False

    def __init__(self, reads: Sequence[Read], reader: RecordReader) -> None:
        self._reads, self._reader = reads, reader
        self._running: list[tuple[Read, Path, int, Any]] = []
        self._started = False
        self._error: Exception | None = None
        self._begun = 0.0
        self.n_parts = len(reads)
        self.n_bytes = 0
        self.ended = 0.0

    def start(self, file_of: Callable[[Path], Any]) -> None:
        """Queue the reads."""
        self._begun = time.perf_counter()
        for read in self._reads:
            assert isinstance(read.record, StagedRecord)
            for segment in self._reader.experts.segments(read.layer, read.expert):
                target = _DeviceBytes(read.record.address + segment.record_offset, segment.n_bytes)
                try:
                    future = file_of(segment.file).pread(
                        target, segment.n_bytes, segment.offset, PART_BYTES
                    )
                except (OSError, RuntimeError) as error:
                    raise self._failed(read, segment.file, str(error)) from error
                self._running.append((read, segment.file, segment.n_bytes, future))
        self._started = True

    def wait(self) -> None:
        """Return when every read has completed.

        Raises:
            ReadError: The first read that failed. No read of the batch is running then.
        """
        self.drain()
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait for the running reads. Their errors are those of ``wait``."""
        while self._running:
            read, file, n_bytes, future = self._running[-1]
            try:
                got = future.get()
            except (OSError, RuntimeError) as error:
                self._error = self._error or self._failed(read, file, str(error))
            else:
                self.n_bytes += got
                if got != n_bytes:
                    problem = f"expected {n_bytes} bytes, got {got}"
                    self._error = self._error or self._failed(read, file, problem)
            self._running.pop()
            self.ended = time.perf_counter()

    def _failed(self, read: Read, file: Path, problem: str) -> ReadError:
        return ReadError(
            "stream",
            f"{file}: {problem}",
            "Check the disk and run flash-moe verify.",
            layer=self._reader.experts.layers[read.layer].number,
            expert=read.expert,
        )

    @property
    def done(self) -> bool:
        """True if no read is running, whether they succeeded or not."""
        if not all(future.done() for *_, future in self._running):
            return False
        self.drain()
        return True

    @property
    def complete(self) -> bool:
        """True if every record was read."""
        read_all = not self._reads or (self._started and not self._running)
        return read_all and self._error is None

    def drop(self) -> None:
        pass

    def counts(self) -> dict[str, float]:
        """Amounts of the reads so far: their time includes the copies."""
        read_s = max(self.ended - self._begun, 0.0)
        return {"bytes_read": self.n_bytes, "read_s": read_s, "bytes_copied": self.n_bytes}
