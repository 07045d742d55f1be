"""Steps of a generation: chunked prefill, one decode step, and detokenization."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import mlx.core as mx
from tokenizers.decoders import DecodeStream

from flash_moe.compat.mlx_lm import generation_stream
from flash_moe.generation.sampling import LogitsProcessor, Sampler
from flash_moe.memory.system import release_free_memory
from flash_moe.model.layer_pass import LayerPass
from flash_moe.model.streamed import StreamedModel
from flash_moe.tools.stop_text import StopText


class Prefilled(NamedTuple):
    """Progress of a prompt.

    Attributes:
        n_tokens: Tokens processed; in the middle of a pass, the share of its layers in tokens.
        cache: The prompt cache of exactly these tokens, or a copy; ``None`` within a pass.
    """

    n_tokens: int
    cache: list[Any] | None


def prefill(
    model: StreamedModel,
    ids: Sequence[int],
    cache: list[Any],
    *,
    step: int | None = None,
    marks: Iterable[int] = (),
    most: Callable[[], int | None] = lambda: None,
) -> Iterator[Prefilled]:
    """Process a prompt; yield the progress after each chunk, or after each layer.

    A prompt of several chunks runs layer by layer if the model allows it and all experts do not fit
    the bank. If the iterator is closed within such a pass, the cache is as before the pass.

    Args:
        cache: The prompt cache, updated in place.
        step: Tokens per chunk; then nothing runs layer by layer. By default derived from the prompt
            and from memory (``memory/plan.py``).
        marks: Numbers of tokens after which the prompt cache is yielded; those within the last pass
            behind its end, because copies take time that a first token need not wait for.
        most: Returns the limit of the next chunk, called before each; ``None`` is no limit.
    """
    ends = sorted({n for n in marks if 0 < n < len(ids)} | {len(ids)})
    done, layered = 0, True
    while done < len(ids):
        left = [end - done for end in ends if end > done]
        if step is not None:
            tiles = [step]
        elif layered:
            tiles = model.lengths.tiles_of(left[-1], cache, left[:-1])
        else:
            tiles = model.lengths.chunks_of(left[-1], cache)[:1]
        if len(tiles) > 1:
            n = sum(tiles)
            passes = model.layer_pass(ids[done : done + n], cache, tiles, left[:-1])
            layered = passes is not None
            if passes is not None:
                with closing(passes):
                    yield from _layers(passes, done, n, cache, left)
                done += n
            continue
        streamed = isinstance(model, StreamedModel)
        end = left[-1] if streamed and model.takes_marks(cache) else left[0]
        size = min(tiles[0], end, most() or end)
        inner = [mark for mark in left if mark < size]
        copies: list[Callable[[], list[Any]]] = []
        with mx.stream(generation_stream):
            tokens = mx.array([list(ids[done : done + size])])
            if streamed:
                copies = model.fill(tokens, cache, inner)
            else:
                model(tokens, cache=cache)  # resident mlx-lm, in flash-moe eval
            mx.eval([each.state for each in cache])
        mx.clear_cache()
        release_free_memory(model.lengths.plan.kept_bytes if streamed else 0)
        begin, done = done, done + size
        yield Prefilled(done, cache)
        for mark, copied in zip(inner, copies, strict=True):
            with mx.stream(generation_stream):
                copy = copied()
                mx.eval([each.state for each in copy])
            yield Prefilled(begin + mark, copy)


def _layers(
    passes: Iterator[LayerPass], done: int, n: int, cache: list[Any], marks: Sequence[int]
) -> Iterator[Prefilled]:
    """Run a pass over ``n`` tokens after ``done``; yield its progress, then the caches at marks."""
    for count in itertools.count(1):
        with mx.stream(generation_stream):
            layers = next(passes, None)
        if layers is None:
            break
        if count < layers.n_steps:
            yield Prefilled(done + n * count // layers.n_steps, None)
        last = layers
    for mark in marks:
        if mark < n:
            yield Prefilled(done + mark, last.cache_at(mark))
    yield Prefilled(done + n, cache)


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
