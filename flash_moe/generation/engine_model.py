"""A model behind an engine, with the interface of a loaded one, for conversations.

The engines of all ranks run the same requests, so a conversation needs only rank 0.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import fields
from queue import Empty
from typing import Any

from flash_moe.errors import ClosedError
from flash_moe.generation.engine import Engine
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.output_spec import output_spec
from flash_moe.generation.prepare import AnswerProcessors
from flash_moe.generation.prompt import Prompt, check_length, encode_prompt
from flash_moe.generation.result import Chunk, GenerationStats
from flash_moe.generation.sequence import USER, EngineRequest, Running, Started, Token
from flash_moe.generation.steps import AnswerText
from flash_moe.generation.turn_cache import TurnCache
from flash_moe.options.declare import accepts
from flash_moe.options.sampling import SamplingParams
from flash_moe.stream.stats import StreamStats

_POLL_S = 0.1


class EngineModel:
    """Streams answers of an engine that has loaded its model.

    Attributes:
        model: ``None``: prompt caches stay with the engine.
        checkpoint: Prompt tokens of the next answer at which the engine keeps the prompt cache.
        n_cached: Prompt tokens of the last answer that were cached.
    """

    model = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tokenizer = engine.flash.tokenizer
        self.checkpoint = 0
        self.call_token: int | None = None
        self.n_cached = 0

    @property
    def stats(self) -> StreamStats:
        return self._engine.flash.stats  # type: ignore[no-any-return]

    @accepts(GenerationOptions, method=True)
    def stream(self, prompt: Prompt, options: GenerationOptions) -> Generator[Chunk, None, None]:
        """Generate and yield chunks, as :meth:`flash_moe.FlashMoE.stream`.

        ``on_prefill`` is called while the prompt is processed, without progress. Closing the
        generator cancels the answer.
        """
        config = self._engine.flash.model.config
        spec = output_spec(
            options.tools, options.tool_choice, options.strict, options.response_format
        )
        ids = encode_prompt(self.tokenizer, prompt, options.template_args, config.vocab_size)
        room = check_length(config.max_context, len(ids), (), options.max_tokens)
        names = [field.name for field in fields(SamplingParams)]
        sampling = {name: getattr(options, name) for name in names} | {"max_tokens": room}
        request = EngineRequest(
            ids,
            SamplingParams(**sampling),
            AnswerProcessors(ids, spec, options.max_thinking_tokens, None),
            ((self.checkpoint, USER),) if 0 < self.checkpoint < len(ids) else (),
            self.call_token,
        )
        return self._chunks(request, options)

    def _chunks(
        self, request: EngineRequest, options: GenerationOptions
    ) -> Generator[Chunk, None, None]:
        before, started = self.stats, time.perf_counter()
        first, n_tokens = started, 0
        text = AnswerText(self.tokenizer, request.sampling.max_tokens, request.sampling.stops)
        running = self._engine.submit(request)
        try:
            while text.finish_reason is None:
                event = self._next_event(running, options)
                if isinstance(event, Started):
                    self.n_cached = event.n_cached
                    continue
                n_tokens += 1
                if n_tokens == 1:
                    first = time.perf_counter()
                piece = text.feed(event.id)
                stats = None
                if text.finish_reason is not None:
                    times = (first - started, time.perf_counter() - first)
                    stats = GenerationStats(len(request.ids), n_tokens, *times, self.stats - before)
                yield Chunk(piece, event.id, text.finish_reason, stats)
        finally:
            running.cancel()

    def _next_event(self, running: Running, options: GenerationOptions) -> Started | Token:
        while True:
            try:
                event = running.events.get(timeout=_POLL_S)
            except Empty:
                if options.on_prefill is not None:
                    options.on_prefill(0, 1)
                if not self._engine.alive:
                    stopped = ClosedError("engine", "the generation thread has ended")
                    raise self._engine.error or stopped from None
                continue
            if isinstance(event, Exception):
                raise event
            return event


class EngineTurns(TurnCache):
    """Turns whose prompt caches an engine keeps.

    Args:
        model: Streams the answers; it may wrap ``engine_model``.
    """

    def __init__(self, model: Any, engine_model: EngineModel) -> None:
        super().__init__(model)
        self._engine_model = engine_model

    def stream(
        self, ids: Sequence[int], mark: int = 0, call_token: int | None = None, **options: Any
    ) -> Generator[Chunk, None, None]:
        self._engine_model.checkpoint, self._engine_model.call_token = mark, call_token
        self.prefilled.append(0)
        pieces = self._model.stream(list(ids), **options)
        try:
            for chunk in pieces:
                self.prefilled[-1] = len(ids) - self._engine_model.n_cached
                yield chunk
        finally:
            pieces.close()
