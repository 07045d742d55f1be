"""Constraints of answers, shared by threads; each answer has its own logits processor."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher

from flash_moe.errors import GrammarError
from flash_moe.grammar.answer import Answer, Calls, Plan, Reasoning, Thinking
from flash_moe.grammar.new_tokens import NewTokens
from flash_moe.grammar.vocabulary import Vocabulary, Words, vocabulary_of

JSON_SCHEMA = "JSON schema"  # in errors


class Constraint:
    """Constraint of answers; :func:`json_schema`, :func:`tool_calls` and others create one.

    Args:
        tokenizer: mlx-lm's wrapper, or a fast tokenizer from transformers.
        grammar: Grammar in llguidance's form.
        what: Name of the grammar in errors.
        after: Text of the token that ends reasoning, like ``"</think>"``; the grammar applies
            after it and up to two newlines. ``None`` if there is no reasoning.
        thinking: With ``after``: "begun" if the prompt ends inside reasoning, or reasoning always
            comes first; "may" if the answer can begin with or without its opening token.
        calls: Given if the grammar constrains tool calls, and not the whole answer.
        instead: With ``calls``: grammar of an answer that may take their place.

    Raises:
        GrammarError: The grammar or the tokenizer cannot be used.
    """

    def __init__(
        self,
        tokenizer: Any,
        grammar: str,
        what: str,
        *,
        after: str | None = None,
        thinking: Thinking = "begun",
        calls: Calls | None = None,
        instead: str | None = None,
    ) -> None:
        vocabulary = vocabulary_of(tokenizer)
        reasoning = None if after is None else _reasoning(vocabulary, tokenizer, after, thinking)
        self._plan = Plan(vocabulary, reasoning, calls)
        self._matcher = _matcher(vocabulary, grammar, what)
        self._instead = None if instead is None else _matcher(vocabulary, instead, JSON_SCHEMA)

    def processor(self) -> Processor:
        """Return a logits processor for one answer: ``(tokens [n], logits [1, V]) -> logits``."""
        return Processor(self._plan, self._matcher, self._instead)


class Processor:
    """Logits processor of mlx-lm that enforces a constraint on one answer.

    If earlier tokens have changed (a draft was rejected), it replays the whole answer.
    """

    def __init__(self, plan: Plan, matcher: LLMatcher, instead: LLMatcher | None) -> None:
        self._begun = functools.partial(Answer, plan, matcher, instead)
        self._answer = self._begun()
        self._new = NewTokens()

    @property
    def done(self) -> bool:
        """True if the answer is complete and ended."""
        return self._answer.done

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return the logits with minus infinity for tokens that may not come next.

        Args:
            tokens: Prompt, or its end, and all tokens generated so far: ints [n].
            logits: Logits of the next token, [1, V].

        Raises:
            GrammarError: A generated token was not allowed, or the grammar is too complex to
                continue.
            ConfigError: The processor was used for another answer.
        """
        mx.async_eval(logits)  # the device computes while the host builds the mask
        new = self._new.update(tokens)
        if new.restarted:
            self._answer = self._begun()
        for token in new.tokens:
            self._answer.take(token)
        return masked(logits, flags_of(self._answer.allowed(), logits.shape[-1]))


def flags_of(words: Words, n: int) -> mx.array:
    """Return membership of the ids 0 to n - 1: bool [n]; false for ids beyond the words."""
    bits = np.unpackbits(words.view(np.uint8), count=n, bitorder="little")
    return mx.array(bits.view(np.bool_))


def masked(logits: mx.array, flags: mx.array) -> mx.array:
    """Return logits [..., V] with minus infinity where ``flags`` [V] is false."""
    return mx.where(flags, logits, mx.array(-mx.inf, logits.dtype))


def _matcher(vocabulary: Vocabulary, grammar: str, what: str) -> LLMatcher:
    made = LLMatcher(vocabulary.tokenizer, grammar, log_level=0)
    if made.is_error():
        raise GrammarError("grammar", f"{what}: {reason(made.get_error())}")
    begun = made.deep_copy()
    begun.compute_bitmask()
    if begun.is_stopped() and not begun.is_accepting():
        raise GrammarError("grammar", f"{what}: expected a valid answer, but none exists")
    return made


def reason(error: str) -> str:
    """Return an error of llguidance in one line, without its prefix and parser state."""
    text = " ".join(error.removeprefix("ERROR: ").split("<state>")[0].split())
    return text[:300].rstrip(" .")


def _reasoning(vocabulary: Vocabulary, tokenizer: Any, after: str, thinking: Thinking) -> Reasoning:
    if thinking not in ("begun", "may"):
        raise GrammarError("grammar", f'thinking: expected "begun" or "may", got {thinking!r}')
    end = vocabulary.added_ids.get(after)
    if end is None:
        raise GrammarError(
            "grammar",
            f"after: expected the text of one of the tokenizer's added tokens, got {after!r}",
            "Pass tokenizer.think_end, or None if this model does not think.",
        )
    begin = None
    if thinking == "may":
        begin = vocabulary.added_ids.get(getattr(tokenizer, "think_start", None) or "")
        if begin is None:
            raise GrammarError(
                "grammar",
                'thinking="may": expected a tokenizer with one token that begins reasoning',
                'Use thinking="begun" if reasoning always comes first.',
            )
    return Reasoning(end, after.encode(), begin)
