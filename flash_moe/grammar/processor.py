"""The logits processor of one answer: finds out what is new, and masks what may not follow."""

from __future__ import annotations

import functools

import mlx.core as mx
from llguidance import LLMatcher

from flash_moe.grammar.answer import Answer
from flash_moe.grammar.masks import flags_of, masked
from flash_moe.grammar.new_tokens import NewTokens
from flash_moe.grammar.plan import Plan


class Processor:
    """Holds one answer to a constraint, as a logits processor of mlx-lm.

    If tokens are other than before (a draft was rejected), the answer is gone through again.
    """

    def __init__(self, plan: Plan, matcher: LLMatcher, instead: LLMatcher | None) -> None:
        self._begun = functools.partial(Answer, plan, matcher, instead)
        self._answer = self._begun()
        self._new = NewTokens()

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
            ConfigError: The processor was used for another answer.
        """
        mx.async_eval(logits)  # the device works while the host makes the mask
        new = self._new.of(tokens)
        if new.again:
            self._answer = self._begun()
        for token in new.tokens:
            self._answer.take(token)
        return masked(logits, flags_of(self._answer.allowed(), logits.shape[-1]))
