"""Static rANS: its C coder, compiled at first use, and a decoder for a GPU.

A table has 4096 slots for the 256 bytes. On the GPU a thread decodes one stream of
``STREAM_BYTES``; the streams of 32 neighbouring threads take turns in the output, word by word, so
that the threads write side by side.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from flash_moe.ops.kernel import Kernel

SLOTS = 4096
STATES = 8
STREAM_BYTES = 2048
LANES = 32
THREADS = 256

_DECODE = """
  threadgroup uint shared_table[4096];
  for (uint i = thread_index_in_threadgroup; i < 4096; i += 256) {
    shared_table[i] = table[i];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint stream = threadgroup_position_in_grid.x * 256 + thread_index_in_threadgroup;
  if (stream < N_STREAMS) {
    uint at = offsets[stream];
    uint x = static_cast<uint>(data[at]) | (static_cast<uint>(data[at + 1]) << 8) |
             (static_cast<uint>(data[at + 2]) << 16) | (static_cast<uint>(data[at + 3]) << 24);
    at += 4;
    uint place = (stream / 32) * (32 * WORDS) + stream % 32;
    for (int word = 0; word < WORDS; word++) {
      uint packed = 0;
      for (int j = 0; j < 4; j++) {
        const uint entry = shared_table[x & 4095u];
        packed |= (entry & 255u) << (8 * j);
        x = ((entry >> 8) & 4095u) * (x >> 12) + (entry >> 20);
        while (x < 8388608u) {
          x = (x << 8) | static_cast<uint>(data[at]);
          at++;
        }
      }
      out[place] = packed;
      place += 32;
    }
  }
"""


@dataclass(frozen=True)
class _Decoder(Kernel):
    @property
    def source(self) -> str:
        return _DECODE

    @property
    def header(self) -> str:
        return ""


DECODER = _Decoder("rans_decode", ("data", "offsets", "table"), ("out",))


@functools.cache
def library() -> Any:
    """The compiled coder; needs a C compiler."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "coder.so"
        source = Path(__file__).with_name("exact_coding.c")
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", str(built), str(source)], check=True)
        coder = ctypes.CDLL(str(built))
    coder.rans_encode.restype = ctypes.c_long
    return coder


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@dataclass(frozen=True)
class Table:
    """Frequencies of the 256 bytes, each at least 1 where it occurs; the sum is 4096."""

    freq: np.ndarray
    start: np.ndarray
    slots: np.ndarray

    @staticmethod
    def of(symbols: np.ndarray) -> Table:
        counts = np.bincount(symbols, minlength=256).astype(np.float64)
        freq = np.where(counts > 0, np.maximum(np.rint(counts / counts.sum() * SLOTS), 1), 0)
        freq = np.minimum(freq, SLOTS - 1).astype(np.uint32)
        if np.count_nonzero(freq) == 1:  # a second symbol keeps every frequency below 4096
            freq[int(np.argmin(freq))] = 1
        while (off := int(freq.sum()) - SLOTS) != 0:
            # The most frequent bytes lose or gain least by one slot.
            change = np.argsort(freq)[::-1][: min(abs(off), int((freq > 1).sum()))]
            freq[change] -= np.uint32(1) if off > 0 else np.uint32(0xFFFFFFFF)
        start = (np.cumsum(freq) - freq).astype(np.uint32)
        symbol = np.repeat(np.arange(256, dtype=np.uint32), freq)
        within = np.arange(SLOTS, dtype=np.uint32) - start[symbol]
        slots = symbol | freq[symbol] << np.uint32(8) | within << np.uint32(20)
        return Table(freq, start, slots.astype(np.uint32))


def encode(symbols: np.ndarray, table: Table, states: int = STATES) -> np.ndarray:
    """Return the bytes of one stream."""
    out = np.empty(2 * len(symbols) + 64, np.uint8)
    symbols = np.ascontiguousarray(symbols)
    first = library().rans_encode(
        _at(symbols),
        ctypes.c_long(len(symbols)),
        _at(table.freq),
        _at(table.start),
        _at(out),
        ctypes.c_long(len(out)),
        states,
    )
    if first < 0:
        raise ValueError("rans: the output is too small")
    return out[first:].copy()


def decode(data: np.ndarray, n: int, table: Table) -> np.ndarray:
    """Return the ``n`` symbols of a stream with ``STATES`` states."""
    symbols = np.empty(n, np.uint8)
    library().rans_decode(_at(data), _at(symbols), ctypes.c_long(n), _at(table.slots))
    return symbols


def encode_streams(symbols: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes and offsets of the streams of a GPU, one state each."""
    words = symbols.view(np.uint32).reshape(-1, STREAM_BYTES // 4, LANES)
    streams = np.ascontiguousarray(words.swapaxes(1, 2)).reshape(-1, STREAM_BYTES // 4)
    parts = [encode(stream.view(np.uint8), table, 1) for stream in streams]
    offsets = np.cumsum([0, *map(len, parts[:-1])], dtype=np.uint32)
    return np.concatenate([*parts, np.zeros(4, np.uint8)]), offsets


def decode_on_gpu(data: mx.array, offsets: mx.array, slots: mx.array) -> mx.array:
    """Return all words that the streams decode to, uint32."""
    n = offsets.size
    (out,) = DECODER(
        data,
        offsets,
        slots,
        template=[("N_STREAMS", n), ("WORDS", STREAM_BYTES // 4)],
        grid=(-(-n // THREADS) * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[(n * STREAM_BYTES // 4,)],
        output_dtypes=[mx.uint32],
    )
    return out
