"""mlx-lm's prompt caches, without the one answer of theirs that its server does not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flash_moe.mlx_lm_api import server_module

_mlx = server_module()


class PromptCaches(_mlx.LRUPromptCache):  # type: ignore[misc, name-defined]
    """Always leaves a token of the prompt to process.

    A prompt that is all in a cache (a completion of an earlier prompt and its answer) leaves
    nothing to begin with, and mlx-lm's thread of generation ends with an error.
    """

    def fetch_nearest_cache(
        self, model: Any, tokens: Sequence[int]
    ) -> tuple[list[Any] | None, list[int]]:
        ids = list(tokens)
        cache, rest = super().fetch_nearest_cache(model, ids[:-1])
        return cache, [*rest, *ids[-1:]]
