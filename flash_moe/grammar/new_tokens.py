"""New tokens between two calls of an mlx-lm logits processor."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from flash_moe.errors import ConfigError


@dataclass(frozen=True)
class New:
    """Tokens of an answer since the last call.

    Attributes:
        tokens: The new tokens; all tokens of the answer after a restart.
        restarted: Whether earlier tokens have changed, so that the answer restarts with these.
    """

    tokens: list[int]
    restarted: bool = False


class NewTokens:
    """Tracks the tokens of one answer.

    The first call precedes the first generated token; its tokens are the prompt, whole or in
    part, depending on mlx-lm's version. Each later call has one more token. If earlier tokens
    have changed (a draft was rejected), all tokens of the answer are new again.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._n_before: int | None = None

    def update(self, tokens: mx.array) -> New:
        """Return the tokens since the last call.

        Args:
            tokens: Prompt, or its end, and all tokens generated so far: ints [n].

        Raises:
            ConfigError: There are fewer tokens than at the first call: this is a different answer.
        """
        if self._n_before is None:
            self._n_before = tokens.size
        n = tokens.size - self._n_before
        if n < 0:
            raise ConfigError(
                "logits processor",
                f"expected at least the {self._n_before} tokens of the first call, "
                f"got {tokens.size}",
                "Create one processor per answer.",
            )
        if n == len(self._ids) + 1:
            new = New([int(tokens[-1].item())])  # type: ignore[arg-type]
        else:
            new = self._compared([int(i) for i in tokens[self._n_before :].tolist()])  # type: ignore[union-attr, arg-type]
        if new.restarted:
            self._ids.clear()
        self._ids += new.tokens
        return new

    def _compared(self, ids: list[int]) -> New:
        if ids[: len(self._ids)] == self._ids:
            return New(ids[len(self._ids) :])
        return New(ids, restarted=True)
