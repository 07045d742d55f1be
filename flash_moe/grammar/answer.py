"""One answer as it grows: which part of it this is, and which tokens may come next. No MLX."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, TypeAlias

import numpy as np
from llguidance import LLMatcher

from flash_moe.errors import GrammarError
from flash_moe.grammar.vocabulary import Vocabulary, Words, add, remove, words_of

# Templates put an empty line between thoughts, text and calls.
MAX_NEWLINES = 2

Thinking: TypeAlias = Literal["begun", "may"]


@dataclass(frozen=True)
class Calls:
    """Tool calls that a grammar constrains, in the place of the whole answer.

    Attributes:
        begin: Token that opens a call; what follows it is the grammar's.
        end: Token that closes it; the grammar ends with it.
        text: Whether free text may stand around calls.
        required: Whether there must be a call, or the answer that may come in the place of calls.
        many: Whether there may be more than one.
        markers: Texts of ``begin`` and ``end``, which no other tokens may spell.
    """

    begin: int
    end: int
    text: bool
    required: bool
    many: bool
    markers: tuple[bytes, ...]


@dataclass(frozen=True)
class Thoughts:
    """Thoughts before an answer, which no grammar constrains.

    Attributes:
        end: Token after which the answer begins.
        marker: Its text, which no other tokens may spell.
        begin: Token that opens thoughts, if an answer may do so or not; ``None`` if the prompt
            ends inside them, or they always come.
    """

    end: int
    marker: bytes
    begin: int | None


@dataclass(frozen=True)
class Plan:
    """An answer: thoughts, if any; then what the grammar holds, or text with calls it holds."""

    vocabulary: Vocabulary
    thoughts: Thoughts | None
    calls: Calls | None


class Part(Enum):
    START = auto()  # nothing generated; thoughts may begin
    THOUGHTS = auto()
    AROUND_CALLS = auto()  # before, between and after calls
    CALL = auto()
    WHOLE = auto()  # an answer that the grammar holds as a whole
    DONE = auto()


class Answer:
    """The state of one answer. Used by one thread.

    Args:
        matcher: The grammar at its start, of the whole answer or of one call; it is copied, never
            changed.
        instead: The grammar of an answer in the place of calls, where there may be one; the same.
    """

    def __init__(self, plan: Plan, matcher: LLMatcher, instead: LLMatcher | None = None) -> None:
        self._plan = plan
        self._vocabulary = plan.vocabulary
        self._fresh = matcher
        self._instead = instead
        self._matcher = matcher
        self._n_calls = 0
        self._newlines = 0  # how many may still come before the next part
        self._tail = b""  # the last bytes, as far as they can begin a marker
        self._part = Part.START
        if plan.thoughts is None:
            self._begin_answer()
        elif plan.thoughts.begin is None:
            self._part = Part.THOUGHTS

    @property
    def done(self) -> bool:
        return self._part is Part.DONE

    def allowed(self) -> Words:
        """The tokens that may come next.

        Raises:
            GrammarError: There is none: the grammar is too complex to go on with.
        """
        plan, vocabulary = self._plan, self._vocabulary
        words: Words
        if self._part is Part.DONE:
            return vocabulary.end_words
        if self._part is Part.THOUGHTS:
            assert plan.thoughts is not None
            words = vocabulary.text_words.copy()
            add(words, (plan.thoughts.end,))
        elif self._part is Part.START:
            assert plan.thoughts is not None
            assert plan.thoughts.begin is not None
            begun = Answer(Plan(vocabulary, None, plan.calls), self._fresh, self._instead)
            words = begun.allowed().copy()
            add(words, (plan.thoughts.begin,))
        elif self._part is Part.AROUND_CALLS:
            words = self._around_calls()
        else:
            words = self._of_grammar()
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
            raise GrammarError("grammar", f"the answer cannot go on: {problem}", _SIMPLER)
        return words

    def take(self, token: int) -> None:
        """Go on by a token.

        Raises:
            GrammarError: It was not allowed.
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
            assert plan.thoughts is not None
            if token == plan.thoughts.begin:
                self._part = Part.THOUGHTS
                return
            self._begin_answer()
        if self._part is Part.THOUGHTS:
            assert plan.thoughts is not None
            if token == plan.thoughts.end:
                self._begin_answer()
                self._newlines = MAX_NEWLINES
            else:
                self._extend_tail(token)
        elif self._part is Part.AROUND_CALLS:
            self._take_around_calls(token)
        else:
            self._take_of_grammar(token)

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
            words |= self._of(self._instead.deep_copy())
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
            self._take_of_grammar(token)
        else:
            raise self._refused(token)

    def _of_grammar(self) -> Words:
        words = self._of(self._matcher)
        if self._may_end():
            words |= self._vocabulary.end_words
        return words

    def _of(self, matcher: LLMatcher) -> Words:
        """The tokens that a grammar lets follow, ends left out."""
        ends = self._vocabulary.end_words
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        return mask[: len(ends)] & ~ends  # llguidance's may have a word more

    def _take_of_grammar(self, token: int) -> None:
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
        """What must not be spelled here."""
        if self._part is Part.THOUGHTS and self._plan.thoughts is not None:
            return (self._plan.thoughts.marker,)
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
            "Let no later processor or sampler bring other tokens back, and give each answer a "
            "processor of its own.",
        )


_SIMPLER = "Use a simpler schema, or one with bounds."
