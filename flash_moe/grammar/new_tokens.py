"""What a logits processor of mlx-lm is shown, told as what is new."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from flash_moe.errors import ConfigError


@dataclass(frozen=True)
class New:
    """Tokens of an answer since the last call.

    Attributes:
        tokens: To go on by.
        again: Whether the answer begins anew with them: earlier ones are not what they were.
    """

    tokens: list[int]
    again: bool = False


class NewTokens:
    """Follows one answer.

    The first call comes before anything is generated; tokens that it is shown are prompt, all or
    a part of it, depending on mlx-lm's version. Each later call is shown one token more. If one
    is shown other tokens than before (a draft was rejected), all of the answer is new again.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._n_before: int | None = None

    def of(self, tokens: mx.array) -> New:
        """
        Args:
            tokens: Prompt, or its end, and all tokens generated so far: ints [n].

        Raises:
            ConfigError: They are fewer than at the first call: this is another answer.
        """
        if self._n_before is None:
            self._n_before = tokens.size
        n = tokens.size - self._n_before
        if n < 0:
            raise ConfigError(
                "logits processor",
                f"expected at least the {self._n_before} tokens of the first call, "
                f"got {tokens.size}",
                "Give each answer a processor of its own.",
            )
        if n == len(self._ids) + 1:
            new = New([int(tokens[-1].item())])  # type: ignore[arg-type]
        else:
            new = self._compared([int(i) for i in tokens[self._n_before :].tolist()])  # type: ignore[union-attr, arg-type]
        if new.again:
            self._ids.clear()
        self._ids += new.tokens
        return new

    def _compared(self, ids: list[int]) -> New:
        if ids[: len(self._ids)] == self._ids:
            return New(ids[len(self._ids) :])
        return New(ids, again=True)
