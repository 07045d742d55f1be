"""The steps that packing is made of: what each reads, and what it writes where.

A step can run as soon as the shards it reads are on the disk, in any order and again after a crash:
it always writes the same bytes to the same places.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flash_moe.errors import CorruptFileError
from flash_moe.store.layout import Component
from flash_moe.store.reader import read_range
from flash_moe.store.safetensors_header import TensorEntry
from flash_moe.store.target import StoreFiles

COPY_BYTES = 8 * 1024 * 1024

OnBytes = Callable[[int], None]
# Projection to (sum of squared errors, sum of squared weights).
Errors = dict[str, tuple[float, float]]


class Work(ABC):
    """One step.

    Attributes:
        shards: Files that it reads; all must be there.
        layer: Index of the layer whose records it writes, or ``None`` for resident weights.
        n_bytes: Bytes it writes, all told.
        in_threads: Whether it may run beside others, away from the main thread.
    """

    shards: frozenset[Path]
    layer: int | None
    n_bytes: int
    in_threads: bool = False

    @abstractmethod
    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        """Do it, telling of each piece written.

        Returns:
            What quantizing lost, where it quantized anew.

        Raises:
            CorruptFileError: A shard does not hold what its header said.
            OSError: Reading or writing failed.
        """


@dataclass(frozen=True)
class CopyExperts(Work):
    """Copies one stacked tensor ``[experts, ...]`` into its component of every record."""

    entry: TensorEntry
    layer: int
    component: Component
    in_threads = True

    @property
    def shards(self) -> frozenset[Path]:  # type: ignore[override]
        return frozenset((self.entry.file,))

    @property
    def n_bytes(self) -> int:  # type: ignore[override]
        return self.entry.n_bytes

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        size, offset = self.component.n_bytes, self.component.offset
        at_once = max(1, COPY_BYTES // size)
        for start, part in pieces(self.entry, at_once * size):
            for begin in range(0, len(part), size):
                expert = (start + begin) // size
                files.write_component(self.layer, expert, offset, part[begin : begin + size])
            on_bytes(len(part))
        return {}


@dataclass(frozen=True)
class CopyTensor(Work):
    """Copies one tensor that stays in memory."""

    entry: TensorEntry
    layer = None
    in_threads = True

    @property
    def shards(self) -> frozenset[Path]:  # type: ignore[override]
        return frozenset((self.entry.file,))

    @property
    def n_bytes(self) -> int:  # type: ignore[override]
        return self.entry.n_bytes

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        for start, part in pieces(self.entry, COPY_BYTES):
            files.write_tensor(self.entry.name, start, part)
            on_bytes(len(part))
        return {}


def pieces(entry: TensorEntry, at_once: int) -> Iterator[tuple[int, memoryview]]:
    """A tensor in pieces, each with its first byte; a view is valid until the next one.

    Raises:
        CorruptFileError: The file ends inside the tensor.
    """
    buffer = memoryview(bytearray(min(at_once, entry.n_bytes)))
    fd = os.open(entry.file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start in range(0, entry.n_bytes, at_once):
            part = buffer[: min(at_once, entry.n_bytes - start)]
            read_exactly(fd, entry, start, part)
            yield start, part
    finally:
        os.close(fd)


def read_exactly(fd: int, entry: TensorEntry, start: int, part: memoryview) -> None:
    """Fill ``part`` from byte ``start`` of a tensor.

    Raises:
        CorruptFileError: The file ends before.
    """
    got = read_range(fd, entry.offset + start, part)
    if got != len(part):
        raise CorruptFileError(
            "pack",
            f"{entry.file} ends inside tensor {entry.name}: expected {len(part)} bytes at "
            f"{entry.offset + start}, got {got}",
            "Download the file again.",
        )
