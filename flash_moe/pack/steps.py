"""Pack steps: the base class, and the steps that copy.

A step can run as soon as its shards are on the disk, in any order and again after a crash: it
always writes the same bytes to the same places.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from flash_moe.errors import CorruptFileError
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.checksums import COPY_BYTES
from flash_moe.store.experts import PackedExperts
from flash_moe.store.layout import Component
from flash_moe.store.reader import FileSet, RecordReader, read_range
from flash_moe.store.safetensors_header import TensorEntry

OnBytes = Callable[[int], None]
# Projection to (sum of squared errors, sum of squared weights).
Errors = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class PackStep(ABC):
    """One step of packing.

    Attributes:
        entries: Tensors that it reads; all their files must exist.
        layer: Index of the layer whose records it writes, or ``None`` for resident weights.
        n_bytes: Bytes that it writes.
        in_threads: True if it may run in parallel, off the main thread.
    """

    entries: tuple[TensorEntry, ...]
    layer: int | None
    n_bytes: int
    in_threads: ClassVar[bool] = False

    @cached_property
    def shards(self) -> frozenset[Path]:
        """Files that it reads."""
        return frozenset(entry.file for entry in self.entries)

    @property
    def entry(self) -> TensorEntry:
        """The only tensor that this step reads."""
        (entry,) = self.entries
        return entry

    @abstractmethod
    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        """Run the step; calls ``on_bytes`` with the bytes of each piece written.

        Returns:
            Quantization errors, if the step searches scales.

        Raises:
            CorruptFileError: A shard does not match its header.
            OSError: Reading or writing failed.
        """


@dataclass(frozen=True)
class CopyIntoRecords(PackStep):
    """Copies bytes that are part of every record of a layer, or all of it."""

    layer: int
    in_threads = True

    @abstractmethod
    def gather(
        self, shards: FileSet, experts: range, buffer: memoryview, record_bytes: int
    ) -> None:
        """Read the bytes of some experts into their records, which are contiguous in ``buffer``.

        Raises:
            CorruptFileError: The file is too short.
            RecordError: A record cannot be read, or differs from its checksum.
        """


@dataclass(frozen=True)
class CopyRecords(CopyIntoRecords):
    """Copies the records of a layer of a store, after comparing them with their checksums."""

    experts: PackedExperts

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        copy_records([self], range(files.layers[self.layer].n_experts), files, on_bytes)
        return {}

    def gather(
        self, shards: FileSet, experts: range, buffer: memoryview, record_bytes: int
    ) -> None:
        with closing(RecordReader(self.experts, verify=True)) as reader:
            for number, expert in enumerate(experts):
                start = number * record_bytes
                reader.read(self.layer, expert, buffer[start : start + record_bytes])


@dataclass(frozen=True)
class CopyExperts(CopyIntoRecords):
    """Copies one stacked tensor ``[experts, ...]`` into its component of every record."""

    component: Component

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        size = self.component.n_bytes
        at_once = max(1, COPY_BYTES // size)
        for start, part in pieces(self.entry, at_once * size):
            for begin in range(0, len(part), size):
                expert = (start + begin) // size
                data = part[begin : begin + size]
                files.write_component(self.layer, expert, self.component, data)
            on_bytes(len(part))
        return {}

    def gather(
        self, shards: FileSet, experts: range, buffer: memoryview, record_bytes: int
    ) -> None:
        size, offset = self.component.n_bytes, self.component.offset
        places = range(offset, len(experts) * record_bytes, record_bytes)
        parts = [buffer[place : place + size] for place in places]
        start = experts.start * size
        done = os.preadv(shards.fd(self.entry.file), parts, self.entry.offset + start)
        if done != len(experts) * size:  # a signal, or the end of the file
            for number, part in enumerate(parts):
                read_exactly(shards, self.entry, start + number * size, part)


def copy_records(
    steps: Sequence[CopyIntoRecords], experts: range, files: StoreFiles, on_bytes: OnBytes
) -> list[str]:
    """Copy whole records of a layer: each byte is read, hashed and written once, in order.

    Args:
        steps: All steps of one layer, which together fill its records.
        experts: Range of experts to copy; other threads may copy other ranges.

    Returns:
        xxh3-128 of each record, in hex.

    Raises:
        CorruptFileError, OSError: As for :meth:`PackStep.run`.
    """
    layer = steps[0].layer
    size = files.layout(layer).record_bytes
    payload = sum(step.n_bytes for step in steps) // files.layers[layer].n_experts
    at_once = max(1, COPY_BYTES // size)
    # Bytes between components are never written, so they stay zero.
    buffer = memoryview(bytearray(min(at_once, len(experts)) * size))
    sums: list[str] = []
    with open_shards() as shards:
        for begin in experts[::at_once]:
            records = range(begin, min(begin + at_once, experts.stop))
            for step in steps:
                step.gather(shards, records, buffer, size)
            sums += files.write_records(layer, begin, buffer[: len(records) * size])
            on_bytes(len(records) * payload)
    return sums


@dataclass(frozen=True)
class CopyTensor(PackStep):
    """Copies one resident tensor.

    Attributes:
        name: Name in the store.
    """

    name: str
    in_threads = True

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        for start, part in pieces(self.entry, COPY_BYTES):
            files.write_tensor(self.name, start, part)
            on_bytes(len(part))
        return {}


def pieces(entry: TensorEntry, at_once: int) -> Iterator[tuple[int, memoryview]]:
    """Yield a tensor in pieces, as (first byte, view); a view is valid until the next one.

    Raises:
        CorruptFileError: The file ends inside the tensor.
    """
    buffer = memoryview(bytearray(min(at_once, entry.n_bytes)))
    with open_shards() as shards:
        for start in range(0, entry.n_bytes, at_once):
            part = buffer[: min(at_once, entry.n_bytes - start)]
            read_exactly(shards, entry, start, part)
            yield start, part


def open_shards() -> AbstractContextManager[FileSet]:
    """Return the open shards of a step that copies.

    Read-ahead is off, because several tensors of a file are read in turn, in large pieces. With
    read-ahead and 300 MB of page cache, 2 GB became 7 GB of reads (bench_pack's checkpoint on
    Linux), because pages were dropped before their use.
    """
    return closing(FileSet("buffered"))


def read_exactly(shards: FileSet, entry: TensorEntry, start: int, part: memoryview) -> None:
    """Fill ``part`` from byte ``start`` of a tensor.

    Raises:
        CorruptFileError: The file is too short.
    """
    got = read_range(shards.fd(entry.file), entry.offset + start, part)
    if got != len(part):
        raise CorruptFileError(
            "pack",
            f"{entry.file} ends inside tensor {entry.name}: expected {len(part)} bytes at "
            f"{entry.offset + start}, got {got}",
            "Download the file again.",
        )
