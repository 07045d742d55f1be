"""``/v1/stats``: the expert cache, requests and memory, once or as server-sent events.

Nothing is recorded for it: a snapshot reads the slot tables and counters when a client needs one,
and clients that watch at the same time share it. docs/serving.md has the fields.
"""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from flash_moe.generation.engine import Engine
from flash_moe.memory.system import machine_memory, peak_memory, resident_memory, usable_memory
from flash_moe.server.http.event_stream import KEEPALIVE_S, Channel, event
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.traffic import Traffic
from flash_moe.stream.contents import CacheContents, Mask
from flash_moe.stream.io_settings import measured_bytes_per_s

# Seconds between the events of a stream. A snapshot of 60 layers of 512 experts takes 1 ms to read
# and encode (benchmarks/bench_page.py); a browser takes 6 ms to draw it.
INTERVAL_S = 1.0
# Streams at once. Each occupies a connection and a thread.
MAX_STREAMS = 16
# Fields that change while nothing happens.
_ALWAYS_NEW = ("time_s", "memory")


@dataclass(frozen=True)
class Snapshot:
    """One reading of everything.

    Attributes:
        head: All fields but those of the layers.
        layers: Fields of each layer.
    """

    taken_at: float
    head: dict[str, Any]
    layers: list[dict[str, Any]]

    def since(self, other: Snapshot | None) -> dict[str, Any]:
        """Return all fields, with the layers that differ from an earlier snapshot."""
        before = other.layers if other else []
        changed = [row for n, row in enumerate(self.layers) if not before or row != before[n]]
        return {**self.head, "layers": changed}

    def differs(self, other: Snapshot) -> bool:
        """True if anything but times and memory has changed."""
        mine, theirs = (
            {name: value for name, value in each.head.items() if name not in _ALWAYS_NEW}
            for each in (self, other)
        )
        return mine != theirs or self.layers != other.layers


class LiveStats:
    """Source of ``/v1/stats``. Thread-safe."""

    def __init__(self, options: ServeOptions, engine: Engine, traffic: Traffic) -> None:
        self._options = options
        self._engine = engine
        self._traffic = traffic
        self._started = time.monotonic()
        self._latest: Snapshot | None = None
        self._lock = threading.Lock()
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        model = engine.flash.model
        loaded = model.streaming
        self._disk = measured_bytes_per_s(loaded.experts, loaded.options.io)
        limit = loaded.options.memory_gb
        self._memory_limit = machine_memory() if limit is None else round(limit * 1e9)
        self._model = {
            "id": options.model,
            "type": model.config.model_type,
            "layers": len(loaded.experts.layers),
            "experts": max(layer.n_experts for layer in loaded.experts.layers),
            "top_k": model.top_k,
            "policy": loaded.options.cache_policy,
            "context": model.config.max_context,
        }

    def send(self, channel: Channel) -> None:
        """Answer with one snapshot, or with events until the client disconnects.

        Raises:
            ApiError: Too many streams.
        """
        if not channel.wants_events:
            channel.send_json(self.snapshot().since(None))
        elif not self._streams.acquire(blocking=False):
            raise ApiError(
                429, f"expected at most {MAX_STREAMS} streams", code="streams", retry_after=5
            )
        else:
            try:
                self._stream(channel)
            finally:
                self._streams.release()

    def _stream(self, channel: Channel) -> None:
        """Send events until the request's time is up; clients of event streams reconnect then."""
        write = channel.begin_events()
        sent, sent_at, changes = None, 0.0, True
        while (now := time.monotonic()) - channel.arrived < self._options.timeout_s - INTERVAL_S:
            channel.check()
            new = self.snapshot()
            changed, changes = changes, sent is None or new.differs(sent)
            # An event without layers follows the last change, so that rates become zero.
            if changed or changes or now - sent_at >= KEEPALIVE_S:
                write(event(new.since(sent)))
                sent, sent_at = new, now
            time.sleep(INTERVAL_S)

    def snapshot(self) -> Snapshot:
        """Return a snapshot that is at most half an interval old."""
        with self._lock:
            now = time.monotonic()
            if self._latest is None or now - self._latest.taken_at > INTERVAL_S / 2:
                self._latest = self._take(now)
            return self._latest

    def _take(self, now: float) -> Snapshot:
        engine, model = self._engine, self._engine.flash.model
        stats, contents = model.stats, model.cache_contents()
        totals = stats.to_json()
        rows: Any = totals.pop("layers")
        masks = encode_masks(contents)
        caches, disk = engine.caches.memory, engine.caches.disk
        head = {
            "time_s": round(now - self._started, 3),
            "model": self._model,
            "requests": {
                "running": engine.n_running,
                "queued": engine.n_queued,
                "max_running": self._options.concurrency,
                "max_queued": self._options.max_queue,
            },
            **self._traffic.to_json(),
            "experts": totals,
            "disk": {"measured_bytes_per_s": self._disk},
            "memory": {
                "resident_bytes": resident_memory(),
                "peak_bytes": peak_memory(),
                "limit_bytes": self._memory_limit,
                "device_limit_bytes": usable_memory(),
                "cached_expert_bytes": stats.bank_bytes - model.lengths.unfilled_bytes,
            },
            "prompt_caches": {
                "entries": 0 if caches is None else len(caches),
                "bytes": 0 if caches is None else caches.nbytes,
                "limit_bytes": engine.caches.n_bytes,
                "disk_bytes": disk.n_bytes if disk else None,
                "disk_hits": disk.hits if disk else None,
            },
        }
        layers = [
            {"index": index, **row, **{name: each[index] for name, each in masks.items()}}
            for index, row in enumerate(rows)
        ]
        return Snapshot(now, head, layers)


def encode_masks(contents: CacheContents) -> dict[str, list[str]]:
    """Return the bitmaps of each layer, by the name of the state."""
    return {name: _bitmaps(mask) for name, mask in vars(contents).items() if mask is not None}


def _bitmaps(mask: Mask) -> list[str]:
    """Encode each row of a mask: base64 of its bits, the lowest bit of a byte first.

    A row without a set bit is the empty text.
    """
    packed = np.packbits(mask, axis=1, bitorder="little")
    return [base64.b64encode(row).decode() if row.any() else "" for row in packed]
