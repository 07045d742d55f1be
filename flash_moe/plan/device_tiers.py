"""Seconds per token on a GPU with memory of its own, by the tiers that hold its experts.

Pure arithmetic, part of ``forecast.py``::

    token   = max(weights, layers * layer cost) + left * waiting
    waiting = sum over layers of copies + page cache + disk

- **Weights**: one pass over all weights of a token. The host builds the graph of the next layer
  while the GPU computes, so the longer of the two counts. The layer cost depends on the reader
  threads (``Readers``); a layer whose experts are all on the GPU needs no synchronisation
  (``HELD_LAYER_COST``).
- **Tiers**: GPU, pinned host memory (``host_cache_gb``), page cache, disk. Each has what the tiers
  before it have evicted, so the first two hit as often as one cache of their common size
  (``hit_rate_model.py``), and so on. The page cache outlives a process: it is settled at both ends.
- **Copies and page cache**: n records of a layer that come together take ``first + (n - 1) * next``
  (``Transfer``), where n is binomial. Both rates are measured in the path of the slabs
  (``device_speed.py``). KvikIO reads while Python builds the graph of the next layer, which hides
  up to ``Readers.hidden_s`` of each layer.
- **Disk**: bytes by the rate of cold reads; the copies of their parts overlap with other reads.
- The three are added: reader threads and the thread that queues copies share a GIL.
- **Lookahead** hides some waiting; the share ``LOOKAHEAD_LEFT`` is left. 1 without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from flash_moe.plan.figure import Figure
from flash_moe.plan.hit_rate_model import hit_rates
from flash_moe.store.experts import ExpertLayer, expert_bytes

Ends = npt.NDArray[Any]  # [2] float64: from an empty bank, and settled

# Seconds of a layer whose experts are all in device memory: no synchronisation with the host.
HELD_LAYER_COST = Figure(
    0.0004,
    "published",
    "one H200 took 0.38 to 0.41 ms per layer with 8 and 12 layers of the 397B, 2026-11-30",
)
# Share of the waiting that is left with lookahead. One H200, 397B shape, 2026-11-29: 0.36 to 0.44
# with a bank of 100 GB (0.095 to 0.037 s, 0.056 to 0.023, 0.066 to 0.029), 0.55 with 60 GB (0.10 to
# 0.055), by Python's threads; by KvikIO 0.026 to 0.005 and 0.009 to 0.003 (docs/experiments.md).
LOOKAHEAD_LEFT = 0.5


@dataclass(frozen=True)
class Transfer:
    """Rates at which records reach device memory from one source, in bytes per second.

    Attributes:
        one: A record that comes alone.
        many: ``n`` records that come together.
    """

    one: Figure
    many: Figure
    n: int

    def seconds(self, record_bytes: int, top_k: int, share: Ends, *, hidden_s: float = 0.0) -> Ends:
        """Return mean seconds per layer if each of ``top_k`` experts comes with this probability.

        Args:
            share: Probability that an expert comes from this source.
            hidden_s: Seconds of each layer that other work hides.
        """
        first = 1 / self.one.value
        following = first
        if self.n > 1:
            following = max((self.n / self.many.value - first) / (self.n - 1), 0.0)
        seconds = np.zeros(2)
        for n in range(1, top_k + 1):
            n_come = comb(top_k, n) * share**n * (1 - share) ** (top_k - n)
            seconds += n_come * max(record_bytes * (first + (n - 1) * following) - hidden_s, 0.0)
        return seconds


# For a machine that is not measured.
PUBLISHED_COPY = Transfer(
    Figure(54e9, "published", "one H200 on PCIe 5, 0.13 ms for a record of 7.1 MB"),
    Figure(54e9, "published", "one H200 on PCIe 5, one stream"),
    5,
)


@dataclass(frozen=True)
class Readers:
    """Times of one kind of reader threads, of a host with an H200.

    Attributes:
        layer_s: Seconds per layer beyond waiting, computing included.
        hidden_s: Seconds of the reads of a layer that other work hides.
        page_cache: Rates for a machine that is not measured.
    """

    layer_s: Figure
    hidden_s: float
    page_cache: Transfer


PYTHON_READERS = Readers(
    Figure(
        0.0013,
        "published",
        "flash_moe on an H200, 10 of 512 experts, reader threads of Python: 0.075 to 0.083 s of a "
        "token are not waiting, 60 layers (docs/experiments.md)",
    ),
    0.0,
    Transfer(
        # Solved from 0.066 s of waiting for 90 records of a token, bank 100 GB, and the next rate.
        Figure(6.4e9, "published", "one H200, 16 cores: 1.1 ms for a record of 7.1 MB in 3 parts"),
        Figure(15.4e9, "published", "one H200, 16 cores: 2.3 ms for 5 records of 7.1 MB"),
        5,
    ),
)
# Of tokens with 46, 119, 162, 252 and 386 missing experts 62, 64, 70, 76 and 81 ms were not
# waiting, and 9, 26, 34, 50 and 84 ms were. With the rates below, 0.55 ms hidden in each layer give
# 9, 26, 35, 56 and 87 ms (docs/experiments.md).
KVIKIO_READERS = Readers(
    Figure(
        0.0011,
        "published",
        "flash_moe on an H200, 10 of 512 experts, KvikIO: 0.062 to 0.070 s of a token with 46 to "
        "162 missing experts are not waiting, 60 layers, 2026-11-30 (docs/experiments.md)",
    ),
    0.00055,
    Transfer(
        Figure(9.5e9, "published", "one H200, 32 cores: 0.75 ms for a record of 7.1 MB, KvikIO"),
        Figure(21.2e9, "published", "one H200, 32 cores: 1.7 ms for 5 records of 7.1 MB, KvikIO"),
        5,
    ),
)


@dataclass(frozen=True)
class DeviceTiers:
    """Tiers behind the memory of a GPU.

    Attributes:
        copy: From pinned host memory.
        page_cache: From the page cache, by the reader threads.
        host_bytes: Pinned host memory for experts.
        page_bytes: Record files in the page cache.
        lookahead: True if experts of the next layer are prefetched.
        kvikio: True if KvikIO can be used.
    """

    copy: Transfer
    page_cache: Transfer
    host_bytes: int
    page_bytes: int
    lookahead: bool = False
    held_layer_s: Figure = HELD_LAYER_COST
    kvikio: bool = False

    @property
    def readers(self) -> Readers:
        """The reader threads: KvikIO's fill no second tier."""
        return KVIKIO_READERS if self.kvikio and not self.host_bytes else PYTHON_READERS

    def seconds(self, n_bytes: int, disk: float) -> float:
        """Return the seconds for ``n_bytes`` of experts, as many as possible from host memory."""
        on_host = min(n_bytes, self.host_bytes)
        in_pages = min(n_bytes - on_host, self.page_bytes)
        from_disk = n_bytes - on_host - in_pages
        return (
            on_host / self.copy.many.value
            + in_pages / self.page_cache.many.value
            + from_disk / disk
        )

    @property
    def rates(self) -> tuple[Figure, ...]:
        """All rates."""
        return tuple(
            rate for kind in (self.copy, self.page_cache) for rate in (kind.one, kind.many)
        )


@dataclass(frozen=True)
class DeviceToken:
    """A token on a GPU, from an empty bank and settled.

    Attributes:
        seconds: Seconds per token.
        wait_s: Seconds of them that are waiting.
        disk_bytes: Bytes read from the disk.
    """

    seconds: Ends
    wait_s: Ends
    disk_bytes: Ends


def device_token(
    slots: Iterable[tuple[ExpertLayer, int]],
    top_k: int,
    tiers: DeviceTiers,
    *,
    compute_s: float,
    layer_s: float,
    disk: float,
) -> DeviceToken:
    """Return the time of a token.

    Args:
        slots: Each layer with its slots; 0 if all layers share slots.
        compute_s: One pass over all weights of a token.
        layer_s: Seconds per layer beyond waiting.
        disk: Cold reads, in bytes per second.
    """
    layers, hidden_s = list(slots), tiers.readers.hidden_s
    total = expert_bytes(layer for layer, _ in layers)
    wait, disk_bytes, host = np.zeros(2), np.zeros(2), np.zeros(2)
    for layer, n_slots in layers:
        n, n_bytes = min(top_k, layer.n_experts), layer.layout.record_bytes
        # Slots of the layer up to each tier; the tiers are divided as the experts are.
        behind = (0, tiers.host_bytes, tiers.host_bytes + tiers.page_bytes)
        sizes = [n_slots + size * layer.n_experts // total for size in behind]
        on_device, on_host, in_memory = (
            np.array(hit_rates(layer.n_experts, n, min(size, layer.n_experts))) for size in sizes
        )
        in_memory = np.maximum(in_memory[1], on_host) if tiers.page_bytes else on_host
        wait += tiers.copy.seconds(n_bytes, n, on_host - on_device)
        wait += tiers.page_cache.seconds(n_bytes, n, in_memory - on_host, hidden_s=hidden_s)
        disk_bytes += n * (1 - in_memory) * n_bytes
        held = n_slots >= layer.n_experts
        host += [layer_s, tiers.held_layer_s.value if held else layer_s]
    wait += disk_bytes / disk
    wait *= LOOKAHEAD_LEFT if tiers.lookahead else 1
    return DeviceToken(np.maximum(compute_s, host) + wait, wait, disk_bytes)
