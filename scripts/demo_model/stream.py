"""Training windows that other processes generate during training; none is repeated."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.demo_model import windows as files
from scripts.demo_model.chat import Tokens
from scripts.demo_model.packing import SHARD, shard

SEEDS = 1_000_000  # per seed of a run
CAPACITY = 100_000  # latest windows kept on the device


class Stream:
    """Windows from worker processes; create it before CUDA is first used.

    As long as the workers keep ahead, a seed gives the same windows in the same order. Otherwise
    random earlier windows are repeated.

    Attributes:
        used, repeated: Windows taken, and how many of them were repeats.
    """

    def __init__(self, folder: Path, seed: int, processes: int, capacity: int = CAPACITY) -> None:
        self.used = self.repeated = self.made = 0
        self.capacity = capacity // SHARD * SHARD
        self._seed = seed
        self._waiting: deque[Tokens] = deque()
        self._failure: Exception | None = None
        self._table: Tensor | None = None
        # Forked: a fresh interpreter would import torch in every process.
        self._pool = multiprocessing.get_context("fork").Pool(processes, os.nice, (15,))
        seeds = range(SEEDS * (seed + 1), SEEDS * (seed + 2))
        arriving = self._pool.imap(partial(shard, folder=folder), seeds)
        threading.Thread(target=self._fetch, args=(arriving,), daemon=True).start()

    def _fetch(self, arriving: Iterator[Tokens]) -> None:
        try:
            for part in arriving:
                self._waiting.append(part)
        except Exception as reason:  # raised by the next wait() or take()
            self._failure = reason

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("[stream] no more windows: a maker failed") from self._failure

    def wait(self, n: int) -> None:
        """Wait until at least ``n`` windows are ready."""
        until = threading.Event()
        while len(self._waiting) * SHARD < n:
            self._check()
            until.wait(0.1)

    def to(self, device: torch.device) -> None:
        """Set the device of the next windows."""
        self._table = torch.zeros(self.capacity, files.WINDOW, dtype=torch.int16, device=device)
        self._random = torch.Generator().manual_seed(self._seed)

    def take(self, n: int) -> Tensor:
        """Return the next ``n`` windows ``[n, WINDOW]``, int64."""
        assert self._table is not None, "[stream] no device: call to() first"
        self._check()
        first = self.used - self.repeated  # first unused window
        while self._waiting and self.made - first <= self.capacity - SHARD:
            part = torch.from_numpy(self._waiting.popleft().view(np.int16))
            if self._table.is_cuda:
                part = part.pin_memory()
            place = self.made % self.capacity
            self._table[place : place + SHARD].copy_(part, non_blocking=True)
            self.made += SHARD
        new = min(n, self.made - first)
        places = torch.arange(first, first + new) % self.capacity
        if new < n:
            known = min(self.made, self.capacity)
            places = torch.cat([places, torch.randint(known, (n - new,), generator=self._random)])
        self.used += n
        self.repeated += n - new
        if self._table.is_cuda:
            places = places.pin_memory()
        chosen = self._table[places.to(self._table.device, non_blocking=True)]
        return chosen.to(torch.long) & 0xFFFF

    def close(self) -> None:
        """End the processes."""
        self._pool.terminate()
