"""One hash over the weights of a checkpoint, whatever its shards and their order.

Owns ``weights_hash``. Goldens keep it, so that a drift of the generator is seen as a drift and
not as wrong logits.
"""

from __future__ import annotations

import json
from pathlib import Path

import xxhash

_CHUNK_BYTES = 16 << 20


def weights_hash(path: Path) -> str:
    """xxh3-128 over (name, dtype, shape, bytes) of all tensors in ``model*.safetensors``."""
    entries = sorted(entry for file in path.glob("model*.safetensors") for entry in _entries(file))
    digest = xxhash.xxh3_128()
    for name, layout, start, stop, file in entries:
        digest.update(f"{name} {layout}\n".encode())
        with open(file, "rb") as handle:
            handle.seek(start)
            while start < stop:
                chunk = handle.read(min(_CHUNK_BYTES, stop - start))
                if not chunk:
                    raise ValueError(f"[fingerprint] {file.name}: ends inside tensor {name}")
                digest.update(chunk)
                start += len(chunk)
    return digest.hexdigest()


def _entries(file: Path) -> list[tuple[str, str, int, int, Path]]:
    """(name, dtype and shape, first byte, end byte, file) of each tensor."""
    with open(file, "rb") as handle:
        header_bytes = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(header_bytes))
    header.pop("__metadata__", None)
    data = 8 + header_bytes
    return [
        (
            name,
            f"{tensor['dtype']} {tensor['shape']}",
            data + tensor["data_offsets"][0],
            data + tensor["data_offsets"][1],
            file,
        )
        for name, tensor in header.items()
    ]
