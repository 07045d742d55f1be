"""Continuous batching: one thread, one queue, requests that join and leave a batch.

The thread of an :class:`Engine` loads the model and owns all MLX arrays; no other thread runs a
forward pass. It alternates one step of mlx-lm's ``BatchGenerator`` for all decoding answers with
one prefill chunk of one prompt. A short request behind a long prompt therefore waits for one
chunk, and decoding continues meanwhile. Prompts are not batched: memory determines the length of
their chunks, and padding would enter recurrent states.

The first token of an answer is sampled with its prompt and sent at once. ``BatchGenerator``
computes each later token one pass before it returns it.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import BatchGenerator, LRUPromptCache, make_prompt_cache
from flash_moe.compat.threads import clear_streams_at_thread_end
from flash_moe.errors import ClosedError
from flash_moe.generation.one_by_one import OneByOne
from flash_moe.generation.sampling import LogitsProcessor, logits_processors_of, sampler_of
from flash_moe.generation.steps import next_token, prefill
from flash_moe.options.sampling import SamplingParams

_log = logging.getLogger(__name__)
_IDLE_S = 0.1
# Maximum tokens per chunk while other requests are in the engine: mlx-lm's own chunk. A shorter
# one would shorten their wait, but each chunk reads nearly all experts.
_SHARED_CHUNK = 2048
# Kinds of prompt caches, which mlx-lm's LRU cache prioritizes differently.
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclass(frozen=True)
class EngineRequest:
    """One generation, ready to run.

    Attributes:
        ids: Token ids of the prompt, at least one.
        sampling: ``max_tokens`` has to fit the context; the receiver applies stop texts.
        processors: Creates further logits processors of this answer, in the engine's thread.
        checkpoints: Pairs (prompt tokens, kind): where to keep the prompt cache.
        top_logprobs: Most likely tokens to report with each token; ``None`` reports no
            probabilities.
    """

    ids: Sequence[int]
    sampling: SamplingParams
    processors: Callable[[], list[LogitsProcessor]] = list
    checkpoints: Sequence[tuple[int, str]] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Started:
    """First event of a request that the engine has started.

    Attributes:
        n_cached: Prompt tokens found in a prompt cache.
    """

    n_cached: int


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        logprob: Natural logarithm of its probability; 0 if none was requested.
        top: Ids and log probabilities of the most likely tokens, best first.
        finish_reason: ``"stop"`` or ``"length"`` for the last token.
    """

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None


class Running:
    """Handle of one request in the engine; for any thread.

    Attributes:
        events: One :class:`Started`, then each :class:`Token`; an exception is the last event.
    """

    def __init__(self) -> None:
        self.events: SimpleQueue[Started | Token | Exception] = SimpleQueue()
        self.cancelled = False

    def cancel(self) -> None:
        """End the answer between two passes. Further events may never come."""
        self.cancelled = True


@dataclass(eq=False)
class _Sequence:
    """State of one request in the engine's thread.

    Attributes:
        cache: Its prompt cache during prefill; the batch owns it while decoding.
        n_cached: Prompt tokens that were in ``cache`` initially.
        chunks: The running prefill.
        first_turn: Whether no chunk has run yet.
        failed: Whether its receiver got an exception.
    """

    request: EngineRequest
    running: Running
    cache: list[Any]
    n_cached: int
    chunks: Iterator[int]
    first_turn: bool = True
    failed: bool = False

    def fail(self, error: Exception) -> None:
        if not self.failed:
            self.failed = True
            self.running.events.put(error)

    @property
    def over(self) -> bool:
        return self.failed or self.running.cancelled

    def contained(self, function: Callable[..., Any], otherwise: Callable[..., Any]) -> Any:
        """Wrap a function so that its errors end this answer, but not the batch."""

        def call(*arguments: Any) -> Any:
            if not self.failed:
                try:
                    return function(*arguments)
                except Exception as error:
                    self.fail(error)
            return otherwise(*arguments)

        return call

    def send(self, token: int, logprobs: mx.array, finish_reason: str | None) -> None:
        n_top = self.request.top_logprobs
        if n_top is None:
            event = Token(token, finish_reason=finish_reason)
        else:
            logprob: Any = logprobs[token].item()
            event = Token(token, logprob, _top(logprobs, n_top), finish_reason)
        self.running.events.put(event)


class Engine:
    """Generation thread for concurrent requests.

    Args:
        load: Calls ``flash_moe.load`` and returns its result; runs in the engine's thread.
        concurrency: Maximum answers in one batch.
        cache_entries, cache_bytes: Limits of the stored prompt caches.

    Attributes:
        loaded: Set when loading has finished or failed.
        error: The error of a failed load.
        flash: The loaded model.
        prompt_caches: mlx-lm's LRU cache; its arrays belong to the engine's thread.
    """

    def __init__(
        self, load: Callable[[], Any], *, concurrency: int, cache_entries: int, cache_bytes: int
    ) -> None:
        self.loaded = threading.Event()
        self.error: Exception | None = None
        self.flash: Any = None
        self.prompt_caches = LRUPromptCache(max_size=cache_entries, max_bytes=cache_bytes)
        self._load = load
        self._concurrency = concurrency
        self._cache_bytes = cache_bytes
        self._incoming: SimpleQueue[tuple[EngineRequest, Running]] = SimpleQueue()
        self._prefilling: list[_Sequence] = []
        self._decoding: dict[int, _Sequence] = {}
        self._last_turn_was_first = False
        self._decoder: Any = None
        self._lock = threading.Lock()  # between the last look into the queue and a new request
        self._stopping = self._over = False
        self._thread = threading.Thread(target=self._run, name="engine")
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the engine accepts requests."""
        return not self._over and self._thread.is_alive()

    def submit(self, request: EngineRequest) -> Running:
        """Queue a generation; for any thread.

        Raises:
            ClosedError: The engine's thread has ended.
        """
        running = Running()
        with self._lock:
            if self._over:
                raise ClosedError("engine", "the generation thread has ended")
            self._incoming.put((request, running))
        return running

    def close(self) -> None:
        """End the thread after its current pass; running requests get an error."""
        self._stopping = True
        while self._thread.is_alive():
            self._thread.join(0.2)  # signal handlers run in between

    def _run(self) -> None:
        clear_streams_at_thread_end()
        try:
            try:
                self.flash = self._load()
                self._decoder = self._new_decoder()
            except Exception as error:
                self.error = error
                return
            finally:
                self.loaded.set()
            while not self._stopping:
                self._receive()
                self._drop_cancelled()
                self._decode()
                self._prefill()
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._over = True
        error = ClosedError("engine", "the generation thread has ended")
        while not self._incoming.empty():
            self._incoming.get()[1].events.put(error)
        for sequence in [*self._prefilling, *self._decoding.values()]:
            sequence.fail(error)
        self._prefilling.clear()
        self._decoding.clear()
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self.prompt_caches = None
        if self.flash is not None:
            self.flash.close()

    def _new_decoder(self) -> Any:
        model, ends = self.flash.model, self.flash.tokenizer.eos_token_ids
        if not all(hasattr(c, "merge") for c in make_prompt_cache(model)):
            return OneByOne(model, ends)
        return BatchGenerator(
            model,
            stop_tokens=[[token] for token in ends],
            completion_batch_size=self._concurrency,
            prefill_batch_size=1,
        )

    def _receive(self) -> None:
        """Start queued requests; wait briefly if the engine is idle."""
        wait = not self._prefilling and not self._decoding
        while True:
            try:
                request, running = self._incoming.get(block=wait, timeout=_IDLE_S)
            except Empty:
                return
            wait = False
            try:
                self._begin(request, running)
            except Exception as error:
                running.events.put(error)

    def _begin(self, request: EngineRequest, running: Running) -> None:
        model, ids = self.flash.model, list(request.ids)
        # A fully cached prompt would leave no token for the first pass.
        cache, rest = self.prompt_caches.fetch_nearest_cache(None, ids[:-1])
        cache = make_prompt_cache(model) if cache is None else cache
        n_cached = len(ids) - 1 - len(rest)
        chunks = prefill(
            model,
            rest,
            cache,
            ends=[n - n_cached for n, _ in request.checkpoints],
            most=lambda: _SHARED_CHUNK if self._decoding or self._prefilling else None,
        )
        self._prefilling.append(_Sequence(request, running, cache, n_cached, chunks))
        running.events.put(Started(n_cached))

    def _drop_cancelled(self) -> None:
        for sequence in [each for each in self._prefilling if each.over]:
            self._prefilling.remove(sequence)
        gone = [uid for uid, sequence in self._decoding.items() if sequence.over]
        if gone:
            self._decoder.remove(gone)
            for uid in gone:
                del self._decoding[uid]

    def _decode(self) -> None:
        """Run one step of all answers. An error of the pass fails all of them."""
        if not self._decoding:
            return
        try:
            _, responses = self._decoder.next()
        except Exception as error:
            _log.exception("a forward pass failed; its answers end with an error")
            failed, self._decoding = self._decoding, {}
            for sequence in failed.values():
                sequence.fail(error.with_traceback(None))  # its frames reference the batch
            self._decoder.close()
            self._decoder = self._new_decoder()
            return
        for response in responses:
            sequence = self._decoding[response.uid]
            sequence.send(response.token, response.logprobs, response.finish_reason)
            if response.finish_reason is not None:
                del self._decoding[response.uid]
                self._keep(response.all_tokens, response.prompt_cache, ASSISTANT)

    def _prefill(self) -> None:
        """Process the next chunk of the next prompt; after the last chunk, start decoding."""
        if not self._prefilling:
            return
        # First chunks take turns with further ones: neither does a new request wait for all
        # chunks of a long prompt, nor do many short requests starve it.
        new = [each for each in self._prefilling if each.first_turn]
        begun = [each for each in self._prefilling if not each.first_turn]
        self._last_turn_was_first = bool(new) and not (begun and self._last_turn_was_first)
        sequence = (new if self._last_turn_was_first else begun)[0]
        self._prefilling.remove(sequence)
        sequence.first_turn = False
        ids = list(sequence.request.ids)
        try:
            done = sequence.n_cached + next(sequence.chunks, 0)
            for n, kind in sequence.request.checkpoints:
                if n == done:
                    self._keep(ids[:n], copy.deepcopy(sequence.cache), kind)
            if done == len(ids) - 1:
                self._first_token(sequence, ids)
            else:
                self._prefilling.append(sequence)
        except Exception as error:
            sequence.fail(error.with_traceback(None))

    def _first_token(self, sequence: _Sequence, ids: list[int]) -> None:
        request, tokenizer = sequence.request, self.flash.tokenizer
        sampler = sampler_of(request.sampling, tokenizer)
        if request.sampling.temperature:
            sampler = sequence.contained(sampler, lambda logprobs: mx.argmax(logprobs, axis=-1))
        made = [*logits_processors_of(request.sampling), *request.processors()]
        processors = [sequence.contained(each, lambda tokens, logits: logits) for each in made]
        seen = ids[:-1]
        token, logprobs = next_token(
            self.flash.model, ids[-1:], sequence.cache, seen, sampler, processors
        )
        if sequence.failed:
            return
        left = request.sampling.max_tokens - 1
        ended = token in tokenizer.eos_token_ids
        reason = "stop" if ended else "length" if left == 0 else None
        sequence.send(token, logprobs, reason)
        if reason is not None:
            self._keep(ids, sequence.cache, ASSISTANT)
            return
        (uid,) = self._decoder.insert(
            [[token]],
            max_tokens=[left],
            caches=[sequence.cache],
            all_tokens=[ids],
            samplers=[sampler],
            # mlx-lm 0.31 mixes up the processors of a batch where some have none.
            logits_processors=[processors or [lambda tokens, logits: logits]],
        )
        sequence.cache = []
        self._decoding[uid] = sequence

    def _keep(self, ids: list[int], cache: list[Any], kind: str) -> None:
        """Store a prompt cache; caches of running answers count towards the limit."""
        self.prompt_caches.insert_cache(None, list(ids), cache, cache_type=kind)
        used = self._decoder.prompt_cache_nbytes
        used += sum(c.nbytes for sequence in self._prefilling for c in sequence.cache)
        self.prompt_caches.trim_to(n_bytes=self._cache_bytes - used)


def _top(logprobs: mx.array, n: int) -> tuple[tuple[int, float], ...]:
    """Return the ``n`` most likely ids of log probabilities ``[V]`` with theirs, best first."""
    if not n:
        return ()
    n = min(n, logprobs.size)
    ids = mx.argpartition(-logprobs, kth=n - 1)[:n]
    columns: Any = (ids.tolist(), logprobs[ids].tolist())
    return tuple(sorted(zip(*columns, strict=True), key=lambda pair: -pair[1]))
