"""Surroundings of an experiment: the store, records on disk, cold reads, and a text to decode.

Cold means: the files are dropped from the page cache (``posix_fadvise``; ``msync`` on macOS) before
each measurement, and ``mincore`` finds none of the read ranges in it, or ``io="direct"`` reads
(``O_DIRECT``, ``F_NOCACHE``) after such a check. Where pages stay cached, as on a file system in
memory or a store that the user cannot write to, the experiment is skipped. The caches of a drive,
and of the host of a virtual machine, are below the page cache and cannot be seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flash_moe.compat.mlx_lm import open_tokenizer
from flash_moe.errors import ConfigError
from flash_moe.eval.answers import supported_prompts
from flash_moe.eval.prompts import read_prompts
from flash_moe.eval.windows import read_text
from flash_moe.files.sizes import format_bytes
from flash_moe.lab.verdict import ROUNDS
from flash_moe.model.streaming import Streaming
from flash_moe.plan.disk_tuning import Key, batches, drop, read_batches
from flash_moe.plan.machine_speed import new_records
from flash_moe.store.experts import ExpertFiles, token_bytes
from flash_moe.store.reader import supported_modes
from flash_moe.stream.io_settings import IoSettings

# Stores with smaller records than this (the demo model has 32 KB) say little about a disk: there
# the disk is measured with random records of the size of the 397B's.
SMALL_RECORD_BYTES = 1_000_000
LARGE_RECORD_BYTES = 7_077_888
N_LARGE_RECORDS = 40
N_TOGETHER = 10  # records of one layer and token, as in the 397B
N_BATCHES = 2  # per turn: some 50 ms of cold reads

COLD = "cold: dropped from the page cache before each turn, none left by mincore"
WARM = "warm: from the page cache"


class SkippedError(Exception):
    """The experiment cannot be run here; the message has the reason."""


@dataclass
class Bench:
    """The store under test and the means to measure it.

    Args:
        scratch: Existing directory on the disk to measure, for temporary files.
        rounds: Counted rounds of each comparison.
    """

    store: Path
    streaming: Streaming
    scratch: Path
    rounds: int = ROUNDS
    choose: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def experts(self) -> ExpertFiles:
        """The experts of the store."""
        return self.streaming.experts

    @property
    def record_bytes(self) -> int:
        """Bytes of the largest record of the store."""
        return max(layer.layout.record_bytes for layer in self.experts.layers)

    @cached_property
    def records(self) -> ExpertFiles:
        """Records for experiments on the disk: those of the store, unless they are small."""
        if self.record_bytes >= SMALL_RECORD_BYTES:
            return self.experts
        return self.scratch_records

    @cached_property
    def scratch_records(self) -> ExpertFiles:
        """Random records in a scratch file, of the size of the 397B's."""
        file = self.scratch / "records.bin"
        return new_records(file, N_LARGE_RECORDS, 2 * N_TOGETHER, LARGE_RECORD_BYTES)

    @property
    def records_note(self) -> str:
        """Description of ``records``."""
        n_bytes = self.records.layers[0].layout.record_bytes
        if self.records is self.experts:
            return f"records of the store, {format_bytes(n_bytes)}"
        return f"random records of {format_bytes(n_bytes)}, those of the store are small"

    def batches(self, experts: ExpertFiles, n: int = 1) -> list[list[Key]]:
        """Return ``n`` random batches of the records of one token and layer."""
        together = min(N_TOGETHER, experts.layers[0].n_experts)
        n_bytes = n * together * experts.layers[0].layout.record_bytes
        return list(batches(experts, together, n_bytes, self.choose))

    def drop(self, experts: ExpertFiles, keys: Sequence[Key]) -> None:
        """Drop records from the page cache.

        Raises:
            SkippedError: They stay cached.
        """
        try:
            drop(experts, keys)
        except ConfigError as error:
            raise SkippedError(f"cold reads cannot be had here: {error.problem}") from None

    def read_ms(self, experts: ExpertFiles, settings: IoSettings, *, cold: bool = True) -> float:
        """Return milliseconds per record of some random batches through the reader threads."""
        chosen = self.batches(experts, N_BATCHES)
        if cold:
            self.drop(experts, [key for batch in chosen for key in batch])
        else:
            read_batches(experts, IoSettings(), chosen)
        gb_s = read_batches(experts, settings, chosen)
        return experts.layers[0].layout.record_bytes / gb_s / 1e6

    def require_direct(self, experts: ExpertFiles) -> None:
        """Raise SkippedError if direct reads are not supported."""
        if "direct" not in supported_modes(experts):
            raise SkippedError("direct reads are not supported by this disk or store")

    def budget_gb(self, share: float) -> float:
        """Return a budget for a share of all experts, at least those of one token, in GB."""
        largest = self.streaming.plan_memory().bank_bytes
        n_bytes = share * self.experts.n_bytes
        if n_bytes > max(largest, self.token_bytes):
            raise SkippedError(
                f"{share:.0%} of the experts are {format_bytes(n_bytes)}, "
                f"{format_bytes(largest)} of memory are available"
            )
        return max(n_bytes, self.token_bytes) / 1e9

    @property
    def token_bytes(self) -> int:
        """Bytes of the experts of one token."""
        return token_bytes(self.experts.layers, self.streaming.top_k)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of the bundled prompts, by the chat template; else of the bundled text."""
        tokenizer: Any = open_tokenizer("lab", self.store)
        texts = [
            tokenizer.apply_chat_template(
                p["messages"], tools=p["tools"] or None, tokenize=True, add_generation_prompt=True
            )
            for p in supported_prompts(tokenizer, read_prompts())
        ]
        return [list(map(int, ids)) for ids in texts] or [
            list(map(int, tokenizer.encode(read_text(), add_special_tokens=False)))
        ]

    @cached_property
    def text(self) -> list[int]:
        """Token ids of a text to decode: the prompts one after another."""
        return [token for ids in self.prompts for token in ids]
