"""Prompt caches that an engine keeps for later requests, in memory and on disk."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any

from flash_moe.compat.mlx_lm import LRUPromptCache, make_prompt_cache
from flash_moe.generation.commands import found_by_all, smallest_limit
from flash_moe.generation.prompt_cache_dir import PromptCacheDir, checkpoints
from flash_moe.generation.sequence import USER
from flash_moe.ranks.group import Ranks

_MAX_UNSAVED = 8  # caches kept in memory until no prompt waits


class KeptCaches:
    """Prompt caches of one engine, for its thread.

    Args:
        n_entries, n_bytes: Limits of those in memory.

    Attributes:
        memory: mlx-lm's LRU cache; ``None`` once closed.
        disk: Those on disk; ``None`` if there are none.
        n_bytes: Limit of those in memory.
    """

    def __init__(self, n_entries: int, n_bytes: int) -> None:
        self.memory: Any = LRUPromptCache(max_size=n_entries, max_bytes=n_bytes)
        self.disk: PromptCacheDir | None = None
        self.n_bytes = n_bytes
        self._ranks: Ranks | None = None
        self._unsaved: deque[tuple[list[int], list[Any]]] = deque(maxlen=_MAX_UNSAVED)

    def open_disk(self, disk: PromptCacheDir | None, ranks: Ranks | None) -> None:
        """Use a directory if all ranks have one."""
        self._ranks = ranks
        if found_by_all(ranks, int(disk is not None)):
            self.disk = disk

    def fetch(
        self, model: Any, ids: list[int], kinds: dict[int, str], used: int
    ) -> tuple[list[Any], int]:
        """Return a prompt cache for the longest known beginning of ``ids``, and its length.

        At least the last token is left, for the first pass.

        Args:
            kinds: Kinds of the checkpoints to keep, by number of tokens. Gets those of the disk.
            used: See :meth:`keep`.
        """
        cache, rest = self.memory.fetch_nearest_cache(None, ids[:-1])
        cache = make_prompt_cache(model) if cache is None else cache
        n_cached = len(ids) - 1 - len(rest)
        if self.disk is not None:
            n_stored, stored = self.disk.fetch(ids[:-1], n_cached)
            if found_by_all(self._ranks, n_stored) and stored is not None:
                cache, n_cached = stored, n_stored
                kind = kinds.get(n_cached, USER)
                self.keep(ids[:n_cached], copy.deepcopy(stored), kind, used)
            kinds |= dict.fromkeys(checkpoints(len(ids)), USER)
        return cache, n_cached

    def keep(
        self, ids: Sequence[int], cache: list[Any], kind: str, used: int, *, save: bool = False
    ) -> None:
        """Store a prompt cache.

        Args:
            kind: mlx-lm's kind of entry, which determines what is evicted first.
            used: Bytes of the caches of running answers, which count towards the limit.
            save: Also on disk, later.
        """
        self.memory.insert_cache(None, list(ids), cache, cache_type=kind)
        if self.disk is not None:
            used += self.disk.pending_bytes
            if save:
                self._unsaved.append((list(ids), cache))
        self.memory.trim_to(n_bytes=smallest_limit(self._ranks, self.n_bytes - used))

    def save_next(self) -> None:
        """Copy the next kept prompt cache for the disk, if the one before is written."""
        if self._unsaved and self.disk is not None and not self.disk.pending_bytes:
            self.disk.save(*self._unsaved.popleft())

    def save_all(self) -> None:
        """Copy all kept prompt caches for the disk."""
        while self._unsaved and self.disk is not None:
            self.disk.save(*self._unsaved.popleft())

    def close(self) -> None:
        """Save what is kept, and free the memory."""
        self.save_all()
        if self.disk is not None:
            self.disk.close()
        self.memory = None
