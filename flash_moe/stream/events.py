"""Timeline of a run for a trace viewer (ui.perfetto.dev, chrome://tracing).

The file is a JSON array in the Chrome trace event format. The thread of the forward pass has spans
``compute`` (MLX evaluates up to a layer's router, or the end of a pass) and ``wait`` (for reads);
each reader thread has a span ``read LAYER/EXPERT`` for each record, or part of one, that it reads.
So the file shows how reads and computing overlap. Times are in microseconds since the model was
loaded.

A file without its closing bracket, as a crash leaves it, can still be viewed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_moe.errors import TraceError
from flash_moe.store.experts import ExpertFiles, ExpertLayer
from flash_moe.store.reader import RecordReader


class EventLog:
    """Collects spans from any thread; the thread of the forward pass writes them.

    Reader threads only append to a queue, so that a full disk cannot make a read fail.

    Raises:
        TraceError: The file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pid = os.getpid()
        self._start = time.perf_counter()
        self._spans: deque[tuple[str, int, str, float, float, dict[str, int]]] = deque()
        self._threads: set[int] = set()  # threads whose names are in the file
        self._separator = "[\n"
        try:
            self._stream = open(file, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise self._problem(error) from None

    def span(self, name: str, started: float, ended: float, **arguments: int) -> None:
        """Add a span of the calling thread; times are those of ``time.perf_counter``."""
        thread = threading.current_thread()
        self._spans.append((name, thread.native_id or 0, thread.name, started, ended, arguments))

    def layer_span(
        self,
        name: str,
        layers: Sequence[ExpertLayer],
        index: int | None,
        started: float,
        ended: float,
    ) -> None:
        """Add a span of the layer with this index, or one that belongs to no layer."""
        if index is None:
            self.span(name, started, ended)
        else:
            number = layers[index].number
            self.span(f"{name} {number}", started, ended, layer=number)

    def flush(self) -> None:
        """Write the queued spans. Only one thread may call it at a time."""
        try:
            while self._spans:
                self._write(*self._spans.popleft())
        except OSError as error:
            raise self._problem(error) from None

    def close(self) -> None:
        """Write the queued spans and close the array. A second call does nothing."""
        if self._stream.closed:
            return
        try:
            with self._stream:
                while self._spans:
                    self._write(*self._spans.popleft())
                self._stream.write("\n]\n" if self._threads else "[]\n")
        except OSError as error:
            raise self._problem(error) from None

    def _write(
        self,
        name: str,
        thread: int,
        thread_name: str,
        started: float,
        ended: float,
        arguments: dict[str, int],
    ) -> None:
        place = {"pid": self._pid, "tid": thread}
        if thread not in self._threads:
            self._threads.add(thread)
            self._put(
                {"name": "thread_name", "ph": "M", "ts": 0, **place, "args": {"name": thread_name}}
            )
        # Round the ends, not the lengths: consecutive spans must not overlap by rounding.
        ts, end = self._us(started), self._us(ended)
        self._put({"name": name, "ph": "X", "ts": ts, "dur": end - ts, **place, "args": arguments})

    def _us(self, seconds: float) -> int:
        return int(1e6 * (seconds - self._start))

    def _put(self, event: dict[str, Any]) -> None:
        self._stream.write(self._separator + json.dumps(event, separators=(",", ":")))
        self._separator = ",\n"

    def _problem(self, error: OSError) -> TraceError:
        return TraceError("events", f"{self._file}: cannot be written: {error.strerror or error}")


def read_waits(file: Path) -> list[dict[int, float]]:
    """Return the seconds that each layer waited for reads, by its number, for each forward pass.

    Raises:
        TraceError: The file cannot be read or is not such a timeline.
    """
    problem = f"{file}: expected a timeline of --trace-events"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError("events", f"{file}: cannot be read: {error}") from None
    try:
        rows = json.loads(text if text.rstrip().endswith("]") else text + "]")
        passes: list[dict[int, float]] = [{}]
        for row in rows:
            layer = row["args"].get("layer")
            if row["name"] == f"wait {layer}":
                passes[-1][layer] = passes[-1].get(layer, 0.0) + row["dur"] / 1e6
            elif row["name"] == "compute":  # of no layer: the end of a pass
                passes.append({})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TraceError("events", f"{problem}, got {error!r:.100}") from None
    return passes[:-1]


class LoggingReader(RecordReader):
    """Record reader that adds a span to an event log for each read."""

    def __init__(self, events: EventLog, experts: ExpertFiles, **options: Any) -> None:
        super().__init__(experts, **options)
        self._events = events

    # All reads, of whole records and of parts, call this method.
    def read_part(self, layer: int, expert: int, record: memoryview, start: int, stop: int) -> int:
        started = time.perf_counter()
        n_bytes = 0
        try:
            n_bytes = super().read_part(layer, expert, record, start, stop)
        finally:
            number = self.experts.layers[layer].number
            self._events.span(
                f"read {number}/{expert}",
                started,
                time.perf_counter(),
                layer=number,
                expert=expert,
                bytes=n_bytes,
            )
        return n_bytes
