"""Read rate of a disk for the records of decoded tokens, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench_read import raw

from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.plan.disk_tuning import slots
from flash_moe.stream.io_settings import IoSettings
from flash_moe.stream.trace import Call, read_trace


class DiskLimit:
    """Plain direct reads of tokens' records, with the model's number of threads.

    Reads only the records that a bank of one token's experts misses: those that the previous token
    did not use.

    Args:
        store: A packed store.
        trace: Routing of a run that ended with decoded tokens, and at least one before them.
        n_tokens: Number of those tokens.
        n_threads: Number of reader threads.
    """

    def __init__(self, store: Path, trace: Path, n_tokens: int, n_threads: int) -> None:
        self._experts = open_streaming(store, LoadOptions()).experts
        self._settings = IoSettings(io="direct", threads=n_threads)
        n_layers = len(self._experts.layers)
        calls = list(read_trace(trace).calls)[-n_layers * (n_tokens + 1) :]
        self._tokens: Sequence[Sequence[Call]] = [
            calls[i : i + n_layers] for i in range(0, len(calls), n_layers)
        ]

    def reads(self, token: int) -> bool:
        """Return True if a token misses any expert."""
        return any(self._keys(token))

    def at_once(self, token: int) -> float:
        """Bytes per second, all records of a token at once."""
        return self._rate([[key for layer in self._keys(token) for key in layer]])

    def by_layer(self, token: int) -> float:
        """Bytes per second, layer by layer.

        A model cannot read sooner: a layer's experts are known only after the previous layer.
        """
        return self._rate(self._keys(token))

    def _keys(self, token: int) -> list[list[tuple[int, int]]]:
        before = {index: set(experts) for index, experts in self._tokens[token]}
        return [
            [(index, expert) for expert in experts if expert not in before[index]]
            for index, experts in self._tokens[token + 1]
        ]

    def _rate(self, batches: list[list[tuple[int, int]]]) -> float:
        sizes = [
            self._experts.layers[index].layout.record_bytes
            for batch in batches
            for index, _ in batch
        ]
        seconds = 0.0
        with slots(max(map(len, batches)), max(sizes)) as memory:
            for batch in filter(None, batches):
                seconds += raw(self._experts, memory, batch, self._settings)
        return sum(sizes) / seconds
