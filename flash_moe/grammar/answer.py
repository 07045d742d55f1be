"""State of one constrained answer: its current part, and the tokens that may follow. No MLX."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, TypeAlias

import numpy as np
from llguidance import LLMatcher

from flash_moe.errors import GrammarError
from flash_moe.grammar.vocabulary import Vocabulary, Words, add, remove, words_of

# Templates put an empty line between reasoning, text and calls.
MAX_NEWLINES = 2

Thinking: TypeAlias = Literal["begun", "may"]


@dataclass(frozen=True)
class Calls:
    """Tool calls of an answer, if the grammar constrains those and not the whole answer.

    Attributes:
        begin: Token that opens a call; the grammar applies after it.
        end: Token that closes a call; the grammar ends with it.
        text: Whether free text around calls is allowed.
        required: Whether the answer needs a call, or the answer that may take the place of calls.
        many: Whether more than one call is allowed.
        markers: Texts of ``begin`` and ``end``, which no other tokens may spell.
    """

    begin: int
    end: int
    text: bool
    required: bool
    many: bool
    markers: tuple[bytes, ...]


@dataclass(frozen=True)
class Reasoning:
    """Unconstrained reasoning before the answer.

    Attributes:
        end: Token that ends reasoning.
        marker: Text of ``end``, which no other tokens may spell.
        begin: Token that opens reasoning, if it is optional; ``None`` if the prompt ends inside
            reasoning, or reasoning always comes first.
    """

    end: int
    marker: bytes
    begin: int | None


@dataclass(frozen=True)
class Plan:
    """Parts of an answer: reasoning, if any; then a constrained answer, or text with calls."""

    vocabulary: Vocabulary
    reasoning: Reasoning | None
    calls: Calls | None


class Part(Enum):
    START = auto()  # nothing generated; reasoning may begin
    REASONING = auto()
    AROUND_CALLS = auto()  # before, between and after calls
    CALL = auto()
    WHOLE = auto()  # the grammar constrains the whole answer
    DONE = auto()


class Answer:
    """State of one answer. Used by one thread.

    Args:
        matcher: Grammar at its start, of the whole answer or of one call; copied, never changed.
        instead: Grammar at its start of an answer that may take the place of calls, or ``None``.
    """

    def __init__(self, plan: Plan, matcher: LLMatcher, instead: LLMatcher | None = None) -> None:
        self._plan = plan
        self._vocabulary = plan.vocabulary
        self._fresh = matcher
        self._instead = instead
        self._matcher = matcher
        self._n_calls = 0
        self._newlines = 0  # newlines that are still allowed before the next part
        self._tail = b""  # the last bytes, if they can begin a marker
        self._part = Part.START
        if plan.reasoning is None:
            self._begin_answer()
        elif plan.reasoning.begin is None:
            self._part = Part.REASONING

    @property
    def done(self) -> bool:
        return self._part is Part.DONE

    def allowed(self) -> Words:
        """Return the tokens that may come next.

        Raises:
            GrammarError: No token can follow: the grammar is too complex.
        """
        plan, vocabulary = self._plan, self._vocabulary
        words: Words
        if self._part is Part.DONE:
            return vocabulary.end_words
        if self._part is Part.REASONING:
            assert plan.reasoning is not None
            words = vocabulary.text_words.copy()
            add(words, (plan.reasoning.end,))
        elif self._part is Part.START:
            assert plan.reasoning is not None
            assert plan.reasoning.begin is not None
            begun = Answer(Plan(vocabulary, None, plan.calls), self._fresh, self._instead)
            words = begun.allowed().copy()
            add(words, (plan.reasoning.begin,))
        elif self._part is Part.AROUND_CALLS:
            words = self._around_calls()
        else:
            words = self._grammar_words()
        if self._newlines:
            newlines = vocabulary.newline_ids
            add(words, (i for i, n in newlines.items() if n <= self._newlines))
        for marker in self._markers():
            remove(words, vocabulary.spelling_ids)
            for n in range(1, len(marker)):
                if self._tail.endswith(marker[:n]):
                    remove(words, vocabulary.beginning_with(marker[n:]))
        if not words.any():
            problem = self._matcher.get_error().strip().split("\n")[0] or "no token can follow"
            raise GrammarError("grammar", f"the answer cannot continue: {problem}", _SIMPLER)
        return words

    def take(self, token: int) -> None:
        """Advance by a token.

        Raises:
            GrammarError: The token was not allowed.
        """
        plan = self._plan
        if self._part is Part.DONE:
            return  # mlx-lm looks one token beyond the end
        if token in self._vocabulary.end_ids:
            if not self._may_end():
                raise self._refused(token)
            self._part = Part.DONE
            return
        if self._part is Part.START:
            assert plan.reasoning is not None
            if token == plan.reasoning.begin:
                self._part = Part.REASONING
                return
            self._begin_answer()
        if self._part is Part.REASONING:
            assert plan.reasoning is not None
            if token == plan.reasoning.end:
                self._begin_answer()
                self._newlines = MAX_NEWLINES
            else:
                self._extend_tail(token)
        elif self._part is Part.AROUND_CALLS:
            self._take_around_calls(token)
        else:
            self._take_in_grammar(token)

    def _begin_answer(self) -> None:
        self._tail = b""
        if self._plan.calls is None:
            self._begin_grammar(Part.WHOLE, self._fresh)
        else:
            self._part = Part.AROUND_CALLS

    def _begin_grammar(self, part: Part, fresh: LLMatcher) -> None:
        self._part = part
        self._matcher = fresh.deep_copy()
        self._tail = b""
        self._newlines = 0

    def _around_calls(self) -> Words:
        calls = self._plan.calls
        assert calls is not None
        vocabulary = self._vocabulary
        words = vocabulary.text_words.copy() if calls.text else words_of((), vocabulary.size)
        add(words, (calls.begin,))
        if self._instead is not None and self._n_calls == 0:
            words |= self._allowed_by(self._instead.deep_copy())
        if self._may_end():
            words |= vocabulary.end_words
        return words

    def _take_around_calls(self, token: int) -> None:
        calls = self._plan.calls
        assert calls is not None
        if token == calls.begin:
            self._n_calls += 1
            self._begin_grammar(Part.CALL, self._fresh)
        elif calls.text:
            self._extend_tail(token)
        elif token in self._vocabulary.newline_ids:  # JSON does not begin with one
            self._take_newlines(token)
        elif self._instead is not None and self._n_calls == 0:
            self._begin_grammar(Part.WHOLE, self._instead)
            self._take_in_grammar(token)
        else:
            raise self._refused(token)

    def _grammar_words(self) -> Words:
        words = self._allowed_by(self._matcher)
        if self._may_end():
            words |= self._vocabulary.end_words
        return words

    def _allowed_by(self, matcher: LLMatcher) -> Words:
        """Return the tokens that a grammar allows next, without end tokens."""
        ends = self._vocabulary.end_words
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        return mask[: len(ends)] & ~ends  # llguidance's mask may have one word more

    def _take_in_grammar(self, token: int) -> None:
        calls = self._plan.calls
        if self._matcher.try_consume_tokens([token]) != 1:
            self._take_newlines(token)
            return
        self._newlines = 0
        self._extend_tail(token)
        if self._part is Part.CALL and calls is not None and token == calls.end:
            self._tail = b""
            self._newlines = 0 if calls.text else MAX_NEWLINES
            self._part = Part.AROUND_CALLS if calls.many else Part.DONE

    def _take_newlines(self, token: int) -> None:
        n = self._vocabulary.newline_ids.get(token, MAX_NEWLINES + 1)
        if n > self._newlines:
            raise self._refused(token)
        self._newlines -= n

    def _may_end(self) -> bool:
        calls = self._plan.calls
        if self._part is Part.WHOLE:
            return bool(self._matcher.is_accepting())
        if self._part is Part.AROUND_CALLS:
            assert calls is not None
            return not calls.required or self._n_calls > 0
        return self._part is Part.DONE

    def _markers(self) -> tuple[bytes, ...]:
        """Return the markers that text in this part may not spell."""
        if self._part is Part.REASONING and self._plan.reasoning is not None:
            return (self._plan.reasoning.marker,)
        return self._plan.calls.markers if self._plan.calls is not None else ()

    def _extend_tail(self, token: int) -> None:
        keep = max(map(len, self._markers()), default=1) - 1
        tail = self._tail + self._vocabulary.text(token)
        self._tail = tail[len(tail) - keep :] if len(tail) > keep else tail

    def _refused(self, token: int) -> GrammarError:
        text = self._vocabulary.tokenizer.dbg_tokens([token])
        return GrammarError(
            "grammar",
            f"expected a token that the constraint allows, got {token} ({text})",
            "Put the constraint's processor last, and create one processor per answer.",
        )


_SIMPLER = "Use a simpler schema, or add bounds."
