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
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import BatchGenerator, make_prompt_cache
from flash_moe.compat.threads import clear_streams_at_thread_end
from flash_moe.errors import ClosedError, PeerError, PeerLostError, QueueFullError
from flash_moe.generation.commands import (
    IDLE_S,
    Command,
    Decision,
    exchange,
)
from flash_moe.generation.kept_caches import KeptCaches
from flash_moe.generation.one_by_one import OneByOne
from flash_moe.generation.prompt_cache_dir import PromptCacheDir
from flash_moe.generation.sampling import logits_processors_of, sampler_of, seeded
from flash_moe.generation.sequence import (
    ASSISTANT,
    EngineRequest,
    Running,
    RunningSequence,
    Started,
)
from flash_moe.generation.steps import Prefilled, next_token, prefill
from flash_moe.ranks.group import Ranks

_log = logging.getLogger(__name__)
# Maximum tokens per chunk while other requests are in the engine: mlx-lm's own chunk. A shorter
# one would shorten their wait, but each chunk reads nearly all experts.
_SHARED_CHUNK = 2048


class Engine:
    """Generation thread for concurrent requests.

    Args:
        load: Calls ``flash_moe.load`` and returns its result; runs in the engine's thread.
        concurrency: Maximum running requests, decoded in one batch.
        max_queue: Maximum queued requests; the engine rejects further ones.
        cache_entries, cache_bytes: Limits of the prompt caches in memory.
        open_disk: Opens the prompt caches on disk for the loaded model.

    Attributes:
        loaded: Set when loading has finished or failed.
        error: The error of a failed load.
        flash: The loaded model.
        caches: The prompt caches; their arrays belong to the engine's thread.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        concurrency: int,
        max_queue: int,
        cache_entries: int,
        cache_bytes: int,
        open_disk: Callable[[Any], PromptCacheDir | None] = lambda flash: None,
    ) -> None:
        self.loaded = threading.Event()
        self.error: Exception | None = None
        self.flash: Any = None
        self.caches = KeptCaches(cache_entries, cache_bytes)
        self._load, self._open_disk = load, open_disk
        self._concurrency = concurrency
        self._max_queue = max_queue
        self._changed = threading.Condition()  # guards the queue and what is starting
        self._queue: deque[tuple[EngineRequest, Running]] = deque()
        self._n_starting = 0
        self._prefilling: list[RunningSequence] = []
        self._decoding: dict[int, RunningSequence] = {}
        self._last_turn_was_first = False
        self._decoder: Any = None
        self._ranks: Ranks | None = None
        self._n_begun = 0
        self._draining = self._stopping = self._over = False
        self._thread = threading.Thread(target=self._run, name="engine")
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the engine accepts requests."""
        return not self._over and self._thread.is_alive()

    @property
    def n_running(self) -> int:
        return len(self._prefilling) + len(self._decoding) + self._n_starting

    @property
    def n_queued(self) -> int:
        return sum(not running.cancelled for _, running in list(self._queue))

    def submit(self, request: EngineRequest) -> Running:
        """Queue a generation, first come, first served; for any thread.

        Raises:
            ClosedError: The engine is stopping.
            QueueFullError: As many requests run and queue as may.
        """
        with self._changed:
            if self._draining or self._over:
                raise _stopping()
            n_running, n_queued = self.n_running, self.n_queued
            if n_running + n_queued >= self._concurrency + self._max_queue:
                raise QueueFullError(
                    "engine",
                    f"{n_running} requests are running and {n_queued} are queued",
                    "Try again later.",
                )
            running = Running()
            self._queue.append((request, running))
            self._changed.notify()
        return running

    def drain(self) -> None:
        """Reject queued and new requests; running ones continue. For any thread."""
        with self._changed:
            self._draining = True
            while self._queue:
                self._queue.popleft()[1].events.put(_stopping())

    def close(self) -> None:
        """End the thread after its current pass; running requests get an error."""
        self._stopping = True
        while self._thread.is_alive():
            self.join(0.2)  # signal handlers run in between

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        clear_streams_at_thread_end()
        try:
            try:
                self.flash = self._load()
                self._ranks = self.flash.model.ranks
                self.caches.open_disk(self._open_disk(self.flash), self._ranks)
                self._decoder = self._new_decoder()
            except Exception as error:
                self.error = error
                return
            finally:
                self.loaded.set()
            idle = True
            while self._receive():
                self._drop_cancelled()
                self._decode()
                self._prefill()
                # The next turn may follow an answer at once, and would wait for the copy.
                if not self._prefilling and (idle or self._decoding):
                    self.caches.save_next()
                idle = not self.n_running
        except PeerError as error:  # the ranks cannot continue together
            self.error = error
        finally:
            self._end()

    def _end(self) -> None:
        self.drain()
        self._over = True
        for sequence in [*self._prefilling, *self._decoding.values()]:
            sequence.fail(self.error or _stopping())
        self._prefilling.clear()
        self._decoding.clear()
        if self._decoder is not None:
            self._decoder.close()
        self.caches.close()
        self._decoder = None
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

    def _receive(self) -> bool:
        """Start queued requests, and mark cancelled ones, on all ranks; False ends the engine."""
        idle = not self.n_running
        command, handles = exchange(self._ranks, self._next_command, idle=idle)
        for sequence in (*self._prefilling, *self._decoding.values()):
            sequence.cancelled |= sequence.number in command.cancel
        for request, running in zip(command.begin, handles, strict=True):
            event: Started | Exception
            begun = []
            try:
                begun = [self._begin(request, running)]
                event = Started(begun[0].n_cached)
            except PeerLostError:
                raise
            except Exception as error:
                event = error
            with self._changed:
                self._n_starting = max(self._n_starting - 1, 0)
                self._prefilling += begun
            running.events.put(event)
        return not command.stop

    def _next_command(self) -> Decision:
        """Take requests from the queue while there is room; wait briefly if the engine is idle."""
        with self._changed:
            if not self._queue and not self.n_running and not self._stopping:
                self._changed.wait(IDLE_S)
            self._queue = deque(each for each in self._queue if not each[1].cancelled)
            room = self._concurrency - self.n_running
            new = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
            self._n_starting = len(new)
        running = (*self._prefilling, *self._decoding.values())
        cancel = tuple(each.number for each in running if each.running.cancelled)
        begin = [request for request, _ in new]
        if self._ranks is not None:
            begin = [replace(each, sampling=seeded(each.sampling)) for each in begin]
        return Command(tuple(begin), cancel, self._stopping), [handle for _, handle in new]

    def _begin(self, request: EngineRequest, running: Running) -> RunningSequence:
        model, ids = self.flash.model, list(request.ids)
        kinds = dict(request.checkpoints)
        cache, n_cached = self.caches.fetch(model, ids, kinds, self._used())
        chunks = prefill(
            model,
            ids[n_cached:-1],
            cache,
            marks=[n - n_cached for n in kinds],
            most=lambda: _SHARED_CHUNK if self.n_running > 1 else None,
        )
        self._n_begun += 1
        return RunningSequence(self._n_begun, request, running, cache, n_cached, chunks, kinds)

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
        except PeerLostError:
            raise
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
            if response.finish_reason is not None:
                del self._decoding[response.uid]
            sequence.send(response.token, response.logprobs, response.finish_reason)
            if response.token == sequence.request.call_token and not sequence.called:
                sequence.called = True
                for cache, tokens in self._decoder.extract_cache([response.uid]).values():
                    self._keep(tokens, cache, ASSISTANT)
            if response.finish_reason is not None:
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
        sequence.first_turn = False
        ids = list(sequence.request.ids)
        try:
            n, cache = next(sequence.chunks, Prefilled(0, sequence.cache))
            done = sequence.n_cached + n
            self._checkpoint(sequence, ids, done, cache)
            if len(ids) - done > _SHARED_CHUNK:
                self.caches.save_all()  # copying takes less time than the chunk that follows
            if cache is not None and done == len(ids) - 1:
                self._first_token(sequence, ids)
                for n, cache in sequence.chunks:  # within the last pass
                    self._checkpoint(sequence, ids, sequence.n_cached + n, cache)
            else:
                self._prefilling.append(self._prefilling.pop(self._prefilling.index(sequence)))
        except PeerLostError:
            raise
        except Exception as error:
            if sequence in self._prefilling:
                self._prefilling.remove(sequence)
            sequence.fail(error.with_traceback(None))

    def _first_token(self, sequence: RunningSequence, ids: list[int]) -> None:
        request, tokenizer = sequence.request, self.flash.tokenizer
        sampler = sampler_of(request.sampling, tokenizer)
        if request.sampling.temperature:
            sampler = sequence.contained(sampler, lambda logprobs: mx.argmax(logprobs, axis=-1))
        made = [*logits_processors_of(request.sampling), *request.processors(tokenizer)]
        processors = [sequence.contained(each, lambda tokens, logits: logits) for each in made]
        seen = ids[:-1]
        token, logprobs = next_token(
            self.flash.model, ids[-1:], sequence.cache, seen, sampler, processors
        )
        self._prefilling.remove(sequence)
        if sequence.failed:
            return
        left = request.sampling.max_tokens - 1
        ended = token in tokenizer.eos_token_ids
        reason = "stop" if ended else "length" if left == 0 else None
        if reason is None:
            (uid,) = self._decoder.insert(
                [[token]],
                max_tokens=[left],
                caches=[sequence.cache],
                all_tokens=[ids],
                samplers=[sampler],
                # mlx-lm 0.31 mixes up the processors of a batch where some have none.
                logits_processors=[processors or [lambda tokens, logits: logits]],
            )
            self._decoding[uid] = sequence
        else:
            self._keep(ids, sequence.cache, ASSISTANT)
        sequence.cache = []
        sequence.send(token, logprobs, reason)

    def _checkpoint(
        self, sequence: RunningSequence, ids: list[int], done: int, cache: list[Any] | None
    ) -> None:
        kind = sequence.checkpoints.get(done)
        if cache is not None and kind is not None:
            self._keep(ids[:done], copy.deepcopy(cache), kind)

    def _keep(self, ids: list[int], cache: list[Any], kind: str) -> None:
        self.caches.keep(ids, cache, kind, self._used(), save=True)

    def _used(self) -> int:
        """Bytes of the caches of running answers, which count towards the limit."""
        decoding: int = self._decoder.prompt_cache_nbytes
        prefilling: int = sum(c.nbytes for each in self._prefilling for c in each.cache)
        return decoding + prefilling


def _stopping() -> ClosedError:
    return ClosedError("engine", "the generation thread is stopping")
