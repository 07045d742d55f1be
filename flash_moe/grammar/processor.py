"""The logits processor of one answer: finds out what is new, and masks what may not follow."""

from __future__ import annotations

import mlx.core as mx
from llguidance import LLMatcher

from flash_moe.errors import GrammarError
from flash_moe.grammar.answer import Answer
from flash_moe.grammar.masks import flags_of, masked
from flash_moe.grammar.plan import Plan


class Processor:
    """Holds one answer to a constraint, as a logits processor of mlx-lm.

    The first call comes before anything is generated; tokens that it is shown are prompt, all or
    a part of it, depending on mlx-lm's version. Each later call is shown one token more. If one
    is shown other tokens than before (a draft was rejected), the answer is gone through again.
    """

    def __init__(self, plan: Plan, matcher: LLMatcher) -> None:
        self._plan = plan
        self._matcher = matcher
        self._answer = Answer(plan, matcher)
        self._ids: list[int] = []
        self._n_before: int | None = None

    @property
    def done(self) -> bool:
        """Whether the answer is complete and ended."""
        return self._answer.done

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits with minus infinity for tokens that may not come next.

        Args:
            tokens: Prompt, or its end, and all tokens generated so far: ints [n].
            logits: Of the next token: [1, V].

        Raises:
            GrammarError: A token was generated that was not allowed; or the grammar is too
                complex to go on with.
        """
        mx.async_eval(logits)  # the device works while the host makes the mask
        self._follow(tokens)
        return masked(logits, flags_of(self._answer.allowed(), logits.shape[-1]))

    def _follow(self, tokens: mx.array) -> None:
        if self._n_before is None:
            self._n_before = tokens.size
        n = tokens.size - self._n_before
        if n == len(self._ids) + 1:
            fresh = [int(tokens[-1].item())]  # type: ignore[arg-type]
        elif n < 0:
            raise GrammarError(
                "grammar",
                f"expected at least the {self._n_before} tokens of the first call, "
                f"got {tokens.size}",
                "Give each answer a processor of its own.",
            )
        else:
            fresh = self._changed(tokens[self._n_before :])
        for token in fresh:
            self._answer.take(token)
            self._ids.append(token)

    def _changed(self, generated: mx.array) -> list[int]:
        """Tokens to go on by, after starting again if earlier ones are other than they were."""
        ids = [int(i) for i in generated.tolist()]  # type: ignore[union-attr, arg-type]
        if ids[: len(self._ids)] != self._ids:
            self._answer = Answer(self._plan, self._matcher)
            self._ids = []
        return ids[len(self._ids) :]
