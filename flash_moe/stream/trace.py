"""Routing trace: a file with the experts that each layer needed, call by call.

A text file of JSON lines. ``scripts/replay_cache.py`` replays it. The first line is the header, an
object:

| key | meaning |
|---|---|
| ``format``, ``version`` | ``"flash_moe routing"``, 1 |
| ``model_type``, ``top_k`` | the model, experts per token |
| ``policy``, ``budget_bytes`` | eviction policy and bank budget of the recorded run |
| ``layers`` | for each MoE layer ``layer`` (its number), ``path``, ``n_experts``, ``read_bytes`` (bytes read for one record) and ``layout`` (an index) |
| ``layouts`` | record layouts, as in ``flash_moe.json``, with ``record_bytes`` |

Every other line is one call of a layer, ``[layer,[expert,...]]``: the index of the layer in
``layers``, and the distinct experts in the order of the request. A forward pass calls each layer
once, in order, so index 0 begins a new pass.

A line is passed to the system before the reads of its call: after a crash the file is complete up
to that call.
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import FlashMoEError, TraceError
from flash_moe.store.experts import ExpertFiles, ExpertLayer
from flash_moe.store.layout import RecordLayout

FORMAT = "flash_moe routing"
VERSION = 1

Call = tuple[int, tuple[int, ...]]  # (layer index, distinct experts)


@dataclass(frozen=True)
class TraceHeader:
    """The first line of a trace.

    Attributes:
        read_bytes: Bytes read per record, for each layer.
        budget_bytes: Bank budget of the run.
    """

    model_type: str
    top_k: int
    policy: str
    budget_bytes: int
    layers: tuple[ExpertLayer, ...]
    read_bytes: tuple[int, ...]

    @staticmethod
    def of(
        experts: ExpertFiles, model_type: str, top_k: int, policy: str, budget_bytes: int
    ) -> TraceHeader:
        read_bytes = tuple(
            sum(segment.n_bytes for segment in experts.segments(index, 0))
            for index in range(len(experts.layers))
        )
        return TraceHeader(model_type, top_k, policy, budget_bytes, experts.layers, read_bytes)

    def to_json(self) -> dict[str, Any]:
        layouts = list(dict.fromkeys(layer.layout for layer in self.layers))
        return {
            "format": FORMAT,
            "version": VERSION,
            "model_type": self.model_type,
            "top_k": self.top_k,
            "policy": self.policy,
            "budget_bytes": self.budget_bytes,
            "layers": [
                {
                    "layer": layer.number,
                    "path": layer.path,
                    "n_experts": layer.n_experts,
                    "read_bytes": n_bytes,
                    "layout": layouts.index(layer.layout),
                }
                for layer, n_bytes in zip(self.layers, self.read_bytes, strict=True)
            ],
            "layouts": [layout.to_json() for layout in layouts],
        }

    @staticmethod
    def from_json(table: Any) -> TraceHeader:
        """Raises KeyError, TypeError, ValueError or UnsupportedModelError if it is invalid."""
        layouts = [RecordLayout.from_json(row) for row in table["layouts"]]
        layers = tuple(
            ExpertLayer(
                int(row["layer"]),
                str(row["path"]),
                int(row["n_experts"]),
                layouts[int(row["layout"])],
            )
            for row in table["layers"]
        )
        if not layers:
            raise ValueError("no layers")
        read_bytes = tuple(int(row["read_bytes"]) for row in table["layers"])
        return TraceHeader(
            str(table["model_type"]),
            int(table["top_k"]),
            str(table["policy"]),
            int(table["budget_bytes"]),
            layers,
            read_bytes,
        )


class TraceWriter:
    """Writer of a trace. Its methods are called under the lock of the forward pass.

    Raises:
        TraceError: The file cannot be written.
    """

    def __init__(self, file: Path, header: TraceHeader) -> None:
        self._file = file
        try:
            self._stream = open(file, "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise self._problem(error) from None
        self._write(header.to_json())

    def call(self, layer: int, experts: Sequence[int]) -> None:
        """Write one call of a layer, with its distinct experts."""
        self._write([layer, [int(expert) for expert in experts]])

    def close(self) -> None:
        self._stream.close()

    def _write(self, row: Any) -> None:
        try:
            self._stream.write(json.dumps(row, separators=(",", ":")) + "\n")
        except OSError as error:
            raise self._problem(error) from None

    def _problem(self, error: OSError) -> TraceError:
        return TraceError("trace", f"{self._file}: cannot be written: {error.strerror or error}")


@dataclass(frozen=True)
class Trace:
    """A recorded run."""

    header: TraceHeader
    calls: tuple[Call, ...]


def read_trace(file: Path) -> Trace:
    """Read a whole trace.

    Raises:
        TraceError: The file cannot be read or is not a trace, its version is unknown, or a line
            is invalid.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError("trace", f"{file}: cannot be read: {error}") from None
    first, _, rest = text.partition("\n")
    header = _header(file, first)
    return Trace(header, tuple(_calls(file, rest, header)))


def _header(file: Path, line: str) -> TraceHeader:
    hint = "Record one with: flash-moe generate ... --trace FILE"
    try:
        table = json.loads(line)
        if table["format"] != FORMAT:
            raise ValueError
        version = table["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TraceError("trace", f"{file} is not a routing trace", hint) from None
    if version != VERSION:
        raise TraceError(
            "trace", f"{file}: expected version {VERSION}, got {version}", "Update flash_moe."
        )
    try:
        return TraceHeader.from_json(table)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, FlashMoEError) as error:
        raise TraceError("trace", f"{file}: bad header: {error!r}", hint) from None


def _calls(file: Path, text: str, header: TraceHeader) -> Iterator[Call]:
    lines = text.split("\n")
    if lines.pop():
        raise TraceError(
            "trace",
            f"{file}: line {len(lines) + 2} is cut short",
            "Remove that line to use what comes before.",
        )
    sizes = [layer.n_experts for layer in header.layers]
    for number, line in enumerate(lines, start=2):
        try:
            layer, experts = json.loads(line)
            if not all(type(n) is int and n >= 0 for n in (layer, *experts)):
                raise ValueError
            if len(set(experts)) != len(experts) or max(experts, default=0) >= sizes[layer]:
                raise ValueError
        except (ValueError, TypeError, IndexError, RecursionError):
            raise TraceError(
                "trace",
                f"{file}: line {number}: expected [layer,[expert,...]] with distinct experts "
                f"of the layer, got {line[:60]!r}",
            ) from None
        yield layer, tuple(experts)
