"""A model divided among several machines: each rank holds a slice of every expert and weight.

mlx-lm's own ``Model.shard(group)`` divides attention, shared experts and head, and its MoE blocks
sum the outputs of all ranks. With ``divide="experts"`` only the MoE blocks are divided. A slice of
a store has rows of gate and up and columns of down, so the experts of a rank give its share of that
sum, and nothing else changes.

A rank whose read fails takes part in the collectives of the pass with zeros. At the end of the pass
the ranks exchange failures and a checksum of the expert ids that they chose, and raise together.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from flash_moe.compat.cudart import on_cuda
from flash_moe.compat.division import shard
from flash_moe.compat.lazy_loading import Projection
from flash_moe.errors import FlashMoEError, PeerError
from flash_moe.model.switch import Ints, StreamedExperts, T
from flash_moe.ops.moe_experts import Shared
from flash_moe.ranks.envelope import N_FIELDS, Kind, Rows
from flash_moe.ranks.group import LOADING, Ranks
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.held import HeldLayer
from flash_moe.stream.stats import RankStats

_N_TOTALS = 8  # fields of END before the waits of the layers
_N_WAITS = N_FIELDS - _N_TOTALS


class Division:
    """The share of one rank in a model's passes.

    Args:
        bank: The model's expert bank.
    """

    def __init__(self, ranks: Ranks, bank: ExpertBank) -> None:
        self.ranks = ranks
        self._bank = bank
        self._chosen: list[Any] = []
        self._waited: list[float] = []
        self._peer_wait_s = [0.0] * ranks.size
        self._patience = 1.0
        self._compiled: set[int] = set()  # sizes of passes, as powers of two
        self.stats: tuple[RankStats, ...] = ()

    def chosen(self, layer: int, ids: mx.array | Ints) -> None:
        """Record the expert ids of a layer, to compare them at the end of the pass."""
        self._chosen.append(ids)
        self.report_progress(layer)

    def report_progress(self, layer: int) -> None:
        """Begin the wait of the watchdog again."""
        self.ranks.watchdog.wait_for(f"layer {layer}", self._patience)

    @contextmanager
    def in_step(self, tokens: Any) -> Iterator[None]:
        """Run a forward pass that all ranks run.

        Args:
            tokens: Token ids ``[rows, tokens]``.

        Raises:
            PeerError: The ranks have different tokens, or another rank's read failed.
            PeerLostError: A rank has ended, or this one cannot finish the pass.
        """
        ranks = self.ranks
        ids = np.array(tokens)
        same = {"rows": ids.shape[0], "tokens": ids.size, "checksum": zlib.crc32(ids.tobytes())}
        ranks.envelope(Kind.PASS, same)
        self._chosen.clear()
        ranks.failure = None
        size = ids.size.bit_length()
        # CUDA compiles the kernels of a pass of a new size, for minutes on a new machine.
        self._patience = LOADING if on_cuda() and size not in self._compiled else 1.0
        with ranks.waiting("forward pass", self._patience):
            yield
            crc = 0
            for chosen in self._chosen:
                crc = zlib.crc32(np.array(chosen).tobytes(), crc)
        self._compiled.add(size)
        self._end(crc)

    def pending(self, out: Any, tokens: Any, cache: Sequence[Any] | None) -> list[Any]:
        """Return what the end of a pass has to evaluate under the watchdog.

        The logits of a prompt are large and usually unused, so they stay lazy.
        """
        if on_cuda() and self._chosen:
            # Each array of a GPU that the host reads is copied to new memory: one array, one copy.
            self._chosen = [mx.concatenate([ids.reshape(-1) for ids in self._chosen])]
        states = [*self._chosen, *(each.state for each in cache or ())]
        return [*states, out] if tokens.shape[1] == 1 and out is not None else states

    def _end(self, crc: int) -> None:
        """Compare the results of a pass, and exchange counters."""
        ranks, column = self.ranks, self._bank.column
        waited = column("wait_s")
        before, self._waited = self._waited or [0.0] * len(waited), waited
        waits = np.zeros(_N_WAITS)
        for n, (now, then) in enumerate(zip(waited, before, strict=True)):
            waits[n % _N_WAITS] += now - then
        failure, ranks.failure = ranks.failure, None
        sums = (sum(column(name)) for name in ("bytes_read", "hits", "misses"))
        totals = (*sums, self._bank.n_bytes, sum(waited) * 1e6)
        fields = [int(n) for n in (failure is not None, *totals, 0, *(waits * 1e6))]
        rows = ranks.envelope(Kind.END, None, crc, *fields)
        self._count(rows)
        if rows[:, 1].any():
            ranks.raise_failures(failure, ranks.texts(str(failure or "")))
        if (rows[:, 0] != rows[0, 0]).any():
            raise PeerError(
                "ranks",
                "expected the same experts on all ranks, got different ones: the routers' results "
                f"have the checksums {', '.join(map(str, rows[:, 0]))}",
                "Use machines of one kind, and the same versions of MLX.",
            )

    def _count(self, rows: Rows) -> None:
        """Update the counters of all ranks; a rank waits for the slowest reads of each layer."""
        waits = rows[:, _N_TOTALS:]
        behind = (waits.max(axis=0) - waits).sum(axis=1) / 1e6
        self._peer_wait_s = [a + float(b) for a, b in zip(self._peer_wait_s, behind, strict=True)]
        self.stats = tuple(
            RankStats(rank, read, hits, misses, bank, waited / 1e6, self._peer_wait_s[rank])
            for rank, (read, hits, misses, bank, waited) in enumerate(rows[:, 2:7].tolist())
        )


class DividedExperts(StreamedExperts):
    """The slices of the experts of one layer that this rank holds.

    Args:
        division: The share of this rank in the passes.
        arguments: Those of :class:`StreamedExperts`.
    """

    # Of the class, so that they are no children: mlx-lm's shard() finds nothing to divide.
    gate_proj: ClassVar[nn.Module] = Projection()  # type: ignore[no-untyped-call]
    up_proj: ClassVar[nn.Module] = Projection()  # type: ignore[no-untyped-call]
    down_proj: ClassVar[nn.Module] = Projection()  # type: ignore[no-untyped-call]

    def __init__(self, division: Division, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._division = division
        self._may_defer = False  # an error of a read belongs to its own layer

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        if self._choose_only:
            return super().__call__(x, indices)
        shape = (*indices.shape, x.shape[-1])
        compute = super().__call__
        return self._or_zeros(indices, lambda: compute(x, indices), shape, x.dtype)

    def weighted(
        self,
        x: mx.array,
        ids: mx.array,
        weights: mx.array,
        shared: Shared | None,
        dtype: mx.Dtype | None = None,
    ) -> mx.array:
        compute = super().weighted
        return self._or_zeros(
            ids, lambda: compute(x, ids, weights, shared, dtype), x.shape, dtype or x.dtype
        )

    def held_layer(self) -> HeldLayer | None:
        return None if self._division.ranks.failure is not None else super().held_layer()

    def used(self, y: mx.array, ids: mx.array) -> None:
        super().used(y, ids)
        self._division.chosen(self.layer, ids)

    def attempt(self, ids: mx.array | Ints, compute: Callable[[], T]) -> T | None:
        """Return ``compute()``; ``None`` in a pass that has failed on this rank."""
        if self._recording is not None:
            return compute()
        ranks = self._division.ranks
        self._division.chosen(self.layer, ids)
        if ranks.failure is None:
            try:
                return compute()
            except FlashMoEError as error:
                ranks.failure = error
                self.bank.recover()
        return None

    def report_progress(self) -> None:
        self._division.report_progress(self.layer)

    def _or_zeros(
        self, ids: mx.array, compute: Callable[[], mx.array], shape: Sequence[int], dtype: mx.Dtype
    ) -> mx.array:
        """Return ``compute()``, or zeros in a pass that has failed on this rank."""
        self.begin()  # ends a pass on all ranks, also on one that has failed
        made = self.attempt(ids, compute)
        if made is None:
            self.bank.fence(self.layer, ids)  # the collectives before, as on other ranks
            return mx.zeros(shape, dtype)
        return made


def divide(model: Any, ranks: Ranks, parts: str) -> None:
    """Divide the resident weights of a model among the ranks, in place, and read them.

    Args:
        parts: The option ``divide`` of ``load``.

    Raises:
        UnsupportedModelError: mlx-lm cannot divide this model, or not by that many ranks.
    """
    experts = [p for p, module in model.named_modules() if isinstance(module, DividedExperts)]
    shard(model, ranks.group, experts if parts == "experts" else None)
    mx.eval(model.parameters())
