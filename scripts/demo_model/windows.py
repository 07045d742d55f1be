"""Files of training windows: 1025 tokens each, with their classes, compressed."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

from scripts.demo_model.chat import Tokens

WINDOW = 1025  # inputs are the first 1024, targets the last
HELD_OUT = "held_out.xz"
_MAGIC = b"windows\0"


def save(path: Path, tokens: Tokens) -> None:
    """Compress windows ``[N, width]``: magic, count, then little-endian uint16."""
    header = _MAGIC + len(tokens).to_bytes(8, "little")
    path.write_bytes(lzma.compress(header + tokens.astype("<u2").tobytes(), preset=1))


def load(path: Path, width: int = WINDOW) -> Tokens:
    """Return the windows of a file, ``[N, width]``.

    Raises:
        ValueError: The file has an unknown format, or fewer windows than its header lists.
    """
    data = lzma.decompress(path.read_bytes())
    if data[:8] != _MAGIC:
        raise ValueError(f"[windows] {path}: not a file of windows")
    tokens = np.frombuffer(data, "<u2", offset=16).reshape(-1, width)
    if len(tokens) != int.from_bytes(data[8:16], "little"):
        raise ValueError(f"[windows] {path}: got {len(tokens)} windows")
    return tokens
