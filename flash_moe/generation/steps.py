"""Steps of a generation: chunked prefill, one decode step, and detokenization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from tokenizers.decoders import DecodeStream

from flash_moe.compat.mlx_lm import generation_stream
from flash_moe.generation.sampling import LogitsProcessor, Sampler
from flash_moe.memory.system import release_free_memory
from flash_moe.model.streamed import StreamedModel
from flash_moe.tools.stop_text import StopText


def prefill(
    model: StreamedModel,
    ids: Sequence[int],
    cache: Sequence[Any],
    *,
    step: int | None = None,
    ends: Iterable[int] = (),
    most: Callable[[], int | None] = lambda: None,
) -> Iterator[int]:
    """Process a prompt in chunks; yield the number of processed tokens after each.

    Args:
        cache: The prompt cache, updated in place.
        step: Tokens per chunk. By default derived from the prompt and from memory
            (``memory/plan.py``): each chunk reads nearly all experts that are not cached.
        ends: Numbers of tokens at which a chunk always ends.
        most: Returns the limit of the next chunk, called before each; ``None`` is no limit.
    """
    done = 0
    for end in [*sorted(n for n in set(ends) if 0 < n < len(ids)), len(ids)]:
        while done < end:
            left = end - done
            size = min(step or model.chunks_of(left, cache)[0], left, most() or left)
            with mx.stream(generation_stream):
                model(mx.array([list(ids[done : done + size])]), cache=cache)
                mx.eval([c.state for c in cache])
            mx.clear_cache()
            release_free_memory()
            done += size
            yield done


def next_token(
    model: StreamedModel,
    ids: Sequence[int],
    cache: Sequence[Any],
    seen: list[int],
    sampler: Sampler,
    processors: Sequence[LogitsProcessor],
) -> tuple[int, mx.array]:
    """Process ``ids`` and sample the token that follows.

    Args:
        seen: All tokens before ``ids``, for the logits processors; extended by ``ids``.

    Returns:
        The token, and its log probabilities ``[V]``.
    """
    with mx.stream(generation_stream):
        logits = model(mx.array([list(ids)]), cache=cache)[:, -1, :]
        seen.extend(ids)
        for processor in processors:
            logits = processor(mx.array(seen), logits)
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        return int(sampler(logprobs).item()), logprobs[0]  # type: ignore[arg-type]


class Detokenizer:
    """Streaming detokenizer; all pieces together are ``tokenizer.decode(ids)``.

    mlx-lm's detokenizers drop a leading space of the answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._stream = DecodeStream(skip_special_tokens=False)
        self._ids: list[int] = []
        self._text = ""

    def add(self, token: int) -> str:
        """Take a token; return the text that no later token changes."""
        self._ids.append(token)
        if self._backend is not None:
            try:
                piece = self._stream.step(self._backend, token) or ""
                self._text += piece
                return piece
            except Exception:  # the decoder changes earlier text: decode all ids from here on
                self._backend = None
        return self._beyond(self._tokenizer.decode(self._ids).rstrip("\ufffd"))

    def finish(self) -> str:
        """Return the rest: the bytes of an incomplete character."""
        return self._beyond(self._tokenizer.decode(self._ids))

    def _beyond(self, whole: str) -> str:
        piece = whole[len(self._text) :] if whole.startswith(self._text) else ""
        self._text += piece
        return piece


class AnswerText:
    """Text of an answer from its tokens, cut at a stop text.

    Attributes:
        finish_reason: ``None`` while the answer runs, then ``"stop"`` or ``"length"``.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, stops: Sequence[str] = ()) -> None:
        self._ends = tokenizer.eos_token_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopText(stops)
        self._left = max_tokens
        self.finish_reason: str | None = None

    def feed(self, token: int) -> str:
        """Take a token; return the new text that is final."""
        self._left -= 1
        ended = token in self._ends
        self.finish_reason = "stop" if ended else "length" if self._left == 0 else None
        new = "" if ended else self._detokenizer.add(token)
        if self.finish_reason:
            new += self._detokenizer.finish()
        text = self._stop.feed(new, last=bool(self.finish_reason))
        if self.stop_text is not None:
            self.finish_reason = "stop"
        return text

    @property
    def stop_text(self) -> str | None:
        """The stop text that has ended the answer."""
        return self._stop.found
