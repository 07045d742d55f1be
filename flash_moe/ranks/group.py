"""``Ranks``: the group of processes that run one model, and their agreement."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from flash_moe.errors import ConfigError, FlashMoEError, PeerError, PeerLostError
from flash_moe.ranks.envelope import Kind, Rows, check, own_row
from flash_moe.ranks.watchdog import Watchdog

T = TypeVar("T")
# Loading may take longer on one machine than on another: its waits get a multiple of the timeout.
LOADING = 10.0
_MAX_TEXT = 2000  # bytes of an error that other ranks quote


class Ranks:
    """A group of ``mx.distributed`` with a watchdog, in which control messages cannot be mixed up.

    All methods are collective unless they say otherwise: every rank has to call them in the same
    order, in one thread at a time. After a :class:`PeerLostError` the group cannot be used again.

    Args:
        group: Result of ``mx.distributed.init()``.
        timeout_s: Longest wait for other ranks; then the process ends.
        ring_threads: Threads that ``init()`` has started.

    Raises:
        ConfigError: This rank of NCCL has several GPUs to choose from.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        failure: Error of this rank in the running pass; the other ranks get its text at the end.
        n_on_machine: Number of ranks that share the memory of this machine.
    """

    def __init__(self, group: Any, timeout_s: float, ring_threads: Collection[int] = ()) -> None:
        _check_gpu()
        self.ring_threads = ring_threads
        self.n_on_machine = 1
        self.group = group
        self.rank: int = group.rank()
        self.size: int = group.size()
        self.watchdog = Watchdog(timeout_s, f"rank {self.rank}")
        self.failure: FlashMoEError | None = None
        self._number = 0
        self._lost: str | None = None

    @property
    def first(self) -> bool:
        """True for the rank that reads input, prints and serves; not collective."""
        return self.rank == 0

    @contextlib.contextmanager
    def waiting(self, what: str, times: float = 1.0) -> Iterator[None]:
        """Watch work that waits for other ranks. An error within ends the use of the group.

        Not collective.

        Raises:
            PeerLostError: A collective failed, or this rank left work that the others continue.
        """
        if self._lost is not None:
            raise PeerLostError("ranks", self._lost, "Start all machines again.")
        self.watchdog.wait_for(what, times)
        try:
            yield
        except BaseException as error:
            self._lost = f"{what}: {type(error).__name__}: {error}"
            if isinstance(error, Exception):
                raise PeerLostError(
                    "ranks",
                    f"the connection to the other ranks is lost in {self._lost}",
                    "Start all machines again.",
                ) from error
            raise
        finally:
            self.watchdog.done()

    def envelope(
        self, kind: Kind, same: Mapping[str, int] | None = None, *fields: int, times: float = 1.0
    ) -> Rows:
        """Exchange integers; return those of all ranks ``[ranks, N_FIELDS]``.

        Args:
            same: The first fields, which have to be equal on all ranks, by name.
            fields: The others.

        Raises:
            PeerError: The ranks are not at the same point; on all ranks. The group stays usable.
            PeerLostError: A rank has ended.
        """
        values = [*(same or {}).values(), *fields]
        row = own_row(self.rank, self.size, kind, self._number, values)
        self._number += 1
        total = self._sum(kind.name.lower(), row, times)
        return check(total, same)

    def _sum(self, what: str, array: Any, times: float = 1.0) -> Any:
        """Return the sum of the NumPy arrays of all ranks."""
        with self.waiting(what, times):
            total = mx.distributed.all_sum(mx.array(array), group=self.group)
            mx.eval(total)  # np.array alone drops the error of a lost connection
        return np.array(total)

    def smallest(self, kind: Kind, value: int, same: Mapping[str, int] | None = None) -> int:
        """Return the smallest value of all ranks."""
        return int(self.envelope(kind, same, value)[:, len(same or ())].min())

    def share(self, value: T | None) -> T | None:
        """Return the object of rank 0 on all ranks, by pickle; others pass ``None``."""
        data = pickle.dumps(value) if self.first and value is not None else b""
        n_bytes = int(self.envelope(Kind.SHARE, None, len(data))[0, 0])
        if not n_bytes:
            return None
        sent = np.frombuffer(data, np.uint8) if self.first else np.zeros(n_bytes, np.uint8)
        got = self._sum("share", sent)
        return value if self.first else pickle.loads(got.tobytes())

    def texts(self, text: str, times: float = 1.0) -> list[str]:
        """Return the texts of all ranks, cut at 2000 bytes."""
        data = text.encode()[:_MAX_TEXT]
        lengths = self.envelope(Kind.TEXTS, None, len(data), times=times)[:, 0]
        sent = np.zeros((1, max(int(lengths.max()), 1)), np.uint8)
        sent[0, : len(data)] = np.frombuffer(data, np.uint8)
        with self.waiting("texts"):
            gathered = mx.distributed.all_gather(mx.array(sent), group=self.group)
            mx.eval(gathered)
        got = np.array(gathered)
        rows = zip(got, lengths, strict=True)
        return [bytes(row[:n]).decode(errors="replace") for row, n in rows]

    def together(self, function: Callable[[], T]) -> T:
        """Return ``function()`` of this rank once it has worked on all ranks.

        Raises:
            FlashMoEError: It failed here.
            PeerError: It failed on another rank; has its text.
        """
        try:
            result, failure = function(), None
        except FlashMoEError as error:
            failure = error
        self.raise_failures(failure, self.texts(str(failure or ""), LOADING))
        return result

    def raise_failures(self, failure: FlashMoEError | None, texts: list[str]) -> None:
        """Raise this rank's failure, or the first of another rank; not collective."""
        if failure is not None:
            raise failure
        for rank, text in enumerate(texts):
            if text:
                raise PeerError("ranks", f"rank {rank}: {text}")

    def compare(self, facts: Mapping[str, object]) -> None:
        """Check that facts about the ranks are the same on all of them, by name.

        Raises:
            PeerError: Some differ; has their names, and their values by rank.
        """
        rows = [json.loads(text) for text in self.texts(json.dumps(facts), LOADING)]
        different = [
            f"{name} {', '.join(str(row.get(name)) for row in rows)}"
            for name in facts
            if any(row.get(name) != rows[0].get(name) for row in rows)
        ]
        if different:
            raise PeerError(
                "ranks", f"expected the same on all ranks, got by rank: {'; '.join(different)}"
            )


def _check_gpu() -> None:
    """Check that NCCL and MLX use the same GPU: NCCL takes that of the rank, MLX the first.

    Raises:
        ConfigError: They may differ; then MLX would end the process in the first collective.
    """
    n_gpus = mx.device_count(mx.gpu)
    # The group that init() made if its backend is NCCL, else a group of one.
    if n_gpus > 1 and mx.distributed.init(backend="nccl").size() > 1:
        raise ConfigError(
            "ranks",
            f"visible GPUs of a rank: expected 1, got {n_gpus}",
            "Start the ranks of a host with mlx.launch -n, or set CUDA_VISIBLE_DEVICES.",
        )
