"""Limit of reasoning tokens: a logits processor that forces the end marker.

At a few tokens/s, a thousand tokens of reasoning take minutes. The forced marker is that of the
chat template; the answer that follows is the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from flash_moe.errors import ConfigError
from flash_moe.grammar.new_tokens import NewTokens
from flash_moe.tools.splitter import opens_thinking


class ThinkingLimit:
    """Logits processor that ends the reasoning of one answer after ``limit`` tokens in total.

    Args:
        tokenizer: mlx-lm's wrapper, which has the reasoning markers.
        limit: Maximum reasoning tokens, without markers; 0 or more.
        begun: Whether the prompt ends inside reasoning.
    """

    def __init__(self, tokenizer: Any, limit: int, *, begun: bool) -> None:
        self._limit = limit
        self._begin: list[int] = list(tokenizer.think_start_tokens)
        self._end: list[int] = list(tokenizer.think_end_tokens)
        # A call inside reasoning ends it, as in tools/splitter.py.
        self._call: list[int] = list(tokenizer.tool_call_start_tokens or ())
        self._tokenizer = tokenizer
        self._begun = begun
        self._new = NewTokens()
        self._start()

    def _start(self) -> None:
        self._thinks = self._begun
        self._n_tokens = 0  # of reasoning
        self._ended = False  # whether reasoning has ended; its markers are text after that
        self._tail: list[int] = []  # of the current part of the answer

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return the logits; at the limit, only the next token of the end marker is possible.

        Args:
            tokens: Prompt, or its end, and all tokens generated so far: ints [n].
            logits: Logits of the next token, [1, V].
        """
        new = self._new.update(tokens)
        if new.restarted:
            self._start()
        for token in new.tokens:
            self._take(token)
        forced = self._forced()
        if forced is None:
            return logits
        # Not the token's own logit, which an earlier processor may have set to minus infinity.
        only = mx.arange(logits.shape[-1]) == forced
        return mx.where(only, mx.zeros_like(logits), -mx.inf)

    def _take(self, token: int) -> None:
        if self._ended:
            return
        self._tail.append(token)
        if self._thinks:
            self._n_tokens += 1
        ends = (self._end, self._call) if self._thinks else (self._begin,)
        for marker in ends:
            if marker and self._tail[-len(marker) :] == marker:
                before = self._tail[: -len(marker)]
                if not self._thinks and before and self._tokenizer.decode(before).strip():
                    continue  # reasoning begins only at the start of an answer
                self._n_tokens -= len(marker) if self._thinks else 0
                self._ended = self._thinks
                self._thinks, self._tail = not self._thinks, []
                return

    def _forced(self) -> int | None:
        """Return the token that has to come next; ``None`` if any may."""
        if not self._thinks or self._n_tokens < self._limit:
            return None
        begun = next(n for n in range(len(self._end), -1, -1) if self._ends_with(self._end[:n]))
        return self._end[begun]

    def _ends_with(self, ids: Sequence[int]) -> bool:
        return not ids or self._tail[-len(ids) :] == ids


def thinking_limit(tokenizer: Any, ids: Sequence[int], limit: int | None) -> ThinkingLimit | None:
    """Return the processor for the answer to a prompt; ``None`` without limit or reasoning.

    Args:
        ids: The prompt, or its end.

    Raises:
        ConfigError: The limit is negative.
    """
    if limit is None:
        return None
    if limit < 0:
        raise ConfigError("generate", f"max_thinking_tokens: expected 0 or more, got {limit}")
    if not tokenizer.has_thinking:
        return None
    return ThinkingLimit(tokenizer, limit, begun=opens_thinking(tokenizer, ids))
