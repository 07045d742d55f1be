"""Compressed records, decompressed by the reader threads, against plain ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from flash_moe.lab.bench import COLD, SMALL_RECORD_BYTES, Bench, SkippedError
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.options.loading import DEFAULT_IO_THREADS
from flash_moe.store.experts import ExpertFiles, ExpertLayer, Segment
from flash_moe.store.layout import RecordLayout
from flash_moe.store.reader import FileSet, RecordReader, read_range

# Contents that are compressed, and bytes of a scratch file: enough for a turn of some 30 ms.
SAMPLE_BYTES = 10_000_000
FILE_BYTES = 40_000_000

Transform = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Codec:
    """A compressor; ``expand`` may run in several threads at once."""

    name: str
    compress: Transform
    expand: Transform


def codecs() -> list[Codec]:
    """Return the installed compressors: LZ4 (Python package lz4) and zstd (zstandard)."""
    found = []
    try:
        lz4 = import_module("lz4.block")
        found.append(Codec("LZ4", lz4.compress, lz4.decompress))
    except ImportError:
        pass
    try:
        zstd = import_module("zstandard")
        found.append(
            Codec(
                "zstd",
                lambda data: zstd.ZstdCompressor(level=3).compress(data),
                # One per call: a decompressor belongs to one thread.
                lambda data: zstd.ZstdDecompressor().decompress(data),
            )
        )
    except ImportError:
        pass
    return found


def samples(bench: Bench) -> list[bytes]:
    """Return contents of records, without padding; small records are joined to pieces of 1 MB."""
    experts = bench.experts
    pieces, piece = [], bytearray()
    with closing(RecordReader(experts)) as reader:
        for layer, about in enumerate(experts.layers):
            for expert in range(about.n_experts):
                record = bytearray(about.layout.record_bytes)
                reader.read(layer, expert, memoryview(record))
                for component in about.layout.components:
                    piece += record[component.offset : component.offset + component.n_bytes]
                if len(piece) >= SMALL_RECORD_BYTES:
                    pieces.append(bytes(piece))
                    piece.clear()
                if sum(map(len, pieces)) >= SAMPLE_BYTES:
                    return pieces
    return pieces or [bytes(piece)]


class Pieces(ExpertFiles):
    """Byte strings in a scratch file, repeated."""

    def __init__(self, file: Path, contents: list[bytes], copies: int) -> None:
        self.file = file
        self.ranges: list[tuple[int, int]] = []
        offset = 0
        with open(file, "wb") as stream:
            for content in contents * copies:
                stream.write(content)
                self.ranges.append((offset, len(content)))
                offset += len(content)
            stream.flush()
            os.fsync(stream.fileno())  # dirty pages cannot be dropped
        self.layers = (ExpertLayer(0, "", len(self.ranges), RecordLayout((), len(contents[0]))),)

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        offset, n_bytes = self.ranges[expert]
        return (Segment(self.file, offset, 0, n_bytes),)


def read_ms(bench: Bench, pieces: Pieces, expand: Transform | None) -> float:
    """Return milliseconds per MB of contents, read cold and decompressed."""
    bench.drop(pieces, [(0, number) for number in range(len(pieces.ranges))])
    with closing(FileSet("buffered")) as files:

        def one(at: tuple[int, int]) -> int:
            buffer = bytearray(at[1])
            read_range(files.fd(pieces.file), at[0], memoryview(buffer))
            return len(expand(bytes(buffer)) if expand else buffer)

        with ThreadPoolExecutor(DEFAULT_IO_THREADS) as pool:
            started = time.perf_counter()
            n_bytes = sum(pool.map(one, pieces.ranges))
            return 1e3 * (time.perf_counter() - started) / (n_bytes / 1e6)


def run(bench: Bench) -> Outcome:
    """Compress the records of the store, and read both kinds cold with eight threads."""
    installed = codecs()
    if not installed:
        raise SkippedError("lz4 and zstandard are not installed: pip install 'flash-moe[lab]'")
    contents = samples(bench)
    copies = max(FILE_BYTES // sum(map(len, contents)), 1)
    plain = Pieces(bench.scratch / "plain.bin", contents, copies)
    sides = {"plain": partial(read_ms, bench, plain, None)}
    facts = {}
    for codec in installed:
        smaller = [codec.compress(content) for content in contents]
        started = time.thread_time()
        restored = [codec.expand(each) for each in smaller]
        seconds = time.thread_time() - started
        if restored != contents:
            raise ValueError(f"{codec.name} does not restore the records")
        total = sum(map(len, contents))
        facts[f"{codec.name}: size, % of plain"] = 100 * sum(map(len, smaller)) / total
        facts[f"{codec.name}: decompression on one core, GB/s"] = total / seconds / 1e9
        packed = Pieces(bench.scratch / f"{codec.name}.bin", smaller, copies)
        sides[codec.name] = partial(read_ms, bench, packed, codec.expand)
    missing = {"LZ4", "zstd"} - {codec.name for codec in installed}
    notes = [f"{name}: not installed (pip install 'flash-moe[lab]')" for name in sorted(missing)]
    costs = in_turns(sides, bench.rounds)
    return Outcome(
        against_first("ms", costs),
        facts,
        COLD,
        ["ms per MB of contents; padding of records is left out on both sides", *notes],
    )


EXPERIMENT = Experiment(
    "compressed-records",
    "Do records compressed by LZ4 or zstd arrive sooner?",
    "LZ4 makes the 4-bit experts 16 % smaller and decoding 13 % slower",
    ORIGINAL,
    run,
)
