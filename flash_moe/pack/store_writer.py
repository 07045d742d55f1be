"""Files of a store in progress, at their full size from the start.

Tensors arrive in any order, so each file is laid out first and its pieces are written to their
places. A file is named ``NAME.tmp`` until it is complete and synced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import xxhash

from flash_moe.files.atomic import sync_and_rename, sync_directory, sync_file, temporary_file
from flash_moe.pack.safetensors_writer import Bytes, TensorSpec, header_of, split_shards
from flash_moe.pack.slicer import Slicer
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Component, RecordLayout
from flash_moe.store.unused import UNUSED_PREFIX

MAX_SHARD_BYTES = 5 * 10**9  # the size at which mlx-lm and the hub split
# Larger writes get larger pages of the page cache. In a virtual machine whose host reclaims free
# memory, 2 GB in pieces of 512 KB and 8 MB took 4 s of system time, in pieces of 128 KB 0.7 s.
WRITE_BYTES = 128 * 1024
_F_PREALLOCATE, _F_ALLOCATEALL, _F_PEOFPOSMODE = 42, 4, 3  # constants of macOS


class StoreFiles:
    """Record files and resident files below ``dst``. Threads may write at the same time.

    Args:
        layers: The MoE layers; methods take their index here.
        resident: The resident tensors, in file order.
        unused: Tensors to keep that mlx-lm does not load.
        slicers: For a store of a part: the slicer of each layer. Then callers write whole
            components and records, and only the part is stored.
    """

    def __init__(
        self,
        dst: Path,
        layers: Sequence[ExpertLayer],
        resident: Iterable[TensorSpec],
        unused: Sequence[TensorSpec] = (),
        slicers: Sequence[Slicer] = (),
    ) -> None:
        self.dst = dst
        self.layers = layers
        self._slicers = slicers
        self._heads: dict[Path, bytes] = {}
        self._sizes: dict[Path, int] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._fds: dict[Path, int] = {}
        self._lock = threading.Lock()
        for index, layer in enumerate(layers):
            self._sizes[self.record_file(index)] = layer.n_bytes
        shards = split_shards(resident, MAX_SHARD_BYTES)
        for name, shard in split_shards(unused, MAX_SHARD_BYTES).items() if unused else ():
            shards[name.replace("model", UNUSED_PREFIX, 1)] = shard
        for name, shard in shards.items():
            file = dst / name
            head = self._heads[file] = header_of(shard)
            offset = len(head)
            for tensor in shard:
                self._places[tensor.name] = file, offset
                offset += tensor.n_bytes
            self._sizes[file] = offset

    def record_file(self, layer: int) -> Path:
        return self.dst / "experts" / f"layer_{self.layers[layer].number:03d}.bin"

    @property
    def tensor_files(self) -> tuple[Path, ...]:
        return tuple(self._heads)

    def bytes_of(self, layer: int | None) -> int:
        """Return the size of the record file of a layer, or for ``None`` of all resident files."""
        files = self.tensor_files if layer is None else (self.record_file(layer),)
        return sum(self._sizes[file] for file in files)

    def layout(self, layer: int) -> RecordLayout:
        """Return the layout of the records that callers write, before they are cut to a part."""
        return self._slicers[layer].whole if self._slicers else self.layers[layer].layout

    def write_component(self, layer: int, expert: int, component: Component, data: Bytes) -> None:
        """Write a component of one expert, from the layout that ``layout`` returns."""
        offset = component.offset
        if self._slicers:
            offset, data = self._slicers[layer].component(component, data)
        base = expert * self.layers[layer].layout.record_bytes
        _write(self._fd(self.record_file(layer)), base + offset, data)

    def write_records(self, layer: int, first: int, data: memoryview) -> list[str]:
        """Write whole records that follow each other; return their checksums as stored.

        Args:
            first: Expert of the first record.
        """
        if self._slicers:
            data = self._slicers[layer].records(data)
        size = self.layers[layer].layout.record_bytes
        _write(self._fd(self.record_file(layer)), first * size, data)
        starts = range(0, len(data), size)
        return [xxhash.xxh3_128_hexdigest(data[start : start + size]) for start in starts]

    def write_tensor(self, name: str, offset: int, data: Bytes) -> None:
        """Write part of a resident tensor; ``offset`` is from the start of the tensor."""
        file, start = self._places[name]
        _write(self._fd(file), start + offset, data)

    def is_begun(self, file: Path) -> bool:
        """Return True if ``file`` exists at its full size, complete or not."""
        return any(_size(f) == self._sizes[file] for f in (file, temporary_file(file)))

    def is_complete(self, file: Path) -> bool:
        return _size(file) == self._sizes[file]

    def missing_bytes(self) -> int:
        """Return the disk space in bytes that the files still need."""
        return sum(
            max(0, size - max(_allocated(file), _allocated(temporary_file(file))))
            for file, size in self._sizes.items()
        )

    def sync(self) -> None:
        """Flush all written data to the disk, and the names of complete files."""
        for fd in list(self._fds.values()):
            sync_file(fd)
        for directory in (self.dst / "experts", self.dst):
            sync_directory(directory)

    def complete(self, file: Path) -> None:
        """Sync a fully written file and give it its final name. It may have no tensors."""
        if file not in self._fds and self.is_complete(file):
            return
        fd = self._fd(file)
        sync_and_rename(fd, temporary_file(file), file)
        with self._lock:
            os.close(self._fds.pop(file))

    def close(self) -> None:
        with self._lock:
            while self._fds:
                os.close(self._fds.popitem()[1])

    def _fd(self, file: Path) -> int:
        with self._lock:
            fd = self._fds.get(file)
            if fd is None:
                if self.is_complete(file):
                    # The run was killed before the journal recorded this file. Journaled shards may
                    # be deleted and are not read again, so keep their bytes.
                    os.replace(file, temporary_file(file))
                fd = self._fds[file] = _open(temporary_file(file), self._sizes[file])
                if file in self._heads:
                    _write(fd, 0, self._heads[file])
            return fd


def _open(file: Path, size: int) -> int:
    """Open for writing and allocate the full size, so that scattered writes do not fragment it."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, 0)
            _allocate(fd, size)
            os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(file)
        raise
    return fd


def _allocate(fd: int, size: int) -> None:
    if not size:
        return
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        elif sys.platform == "darwin":
            _allocate_on_macos(fd, size)
    except OSError as error:
        # Some filesystems do not support it; then a full disk is noticed later. (On macOS ENOTSUP
        # is another number than EOPNOTSUPP.)
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise


def _allocate_on_macos(fd: int, size: int) -> None:
    class Store(ctypes.Structure):  # struct fstore of fcntl.h
        _fields_ = [
            ("flags", ctypes.c_uint),
            ("mode", ctypes.c_int),
            ("offset", ctypes.c_longlong),
            ("length", ctypes.c_longlong),
            ("allocated", ctypes.c_longlong),
        ]

    import fcntl

    fcntl.fcntl(fd, _F_PREALLOCATE, bytes(Store(_F_ALLOCATEALL, _F_PEOFPOSMODE, 0, size, 0)))


def _write(fd: int, offset: int, data: Bytes) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view[:WRITE_BYTES], offset)
        view, offset = view[n:], offset + n


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _allocated(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except OSError:
        return 0
