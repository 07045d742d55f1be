"""mlx-lm's thread of generation, and one answer on its way out of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from queue import Queue
from typing import Any

from flash_moe.compat.mlx_lm import server_module
from flash_moe.errors import ClosedError
from flash_moe.server.engine.arguments import Arguments, install
from flash_moe.server.engine.model_provider import Provider

_mlx = server_module()
_log = logging.getLogger(__name__)


class Stopped(Exception):
    """Raised inside a prefill whose answer nobody waits for any more."""


class Running(Queue):  # type: ignore[type-arg]
    """What mlx-lm puts out for one request.

    In this order: a context, or an exception; then, mixed, progress of the prompt as pairs and
    ``Response`` for each token; in the end ``None``, or an exception.

    Attributes:
        context: mlx-lm's, once it is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.context: Any = None
        self._stopped = False
        self._alone = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Nobody waits for it any more. Its tokens end with the next pass."""
        self._stopped = True
        if self.context is not None:
            self.context.stop()

    def generated_alone(self) -> None:
        """Not in a batch: its prefill may be broken off, and no other answer with it."""
        self._alone = True

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item, _mlx.GenerationContext):
            self.context = item
            if self._stopped:
                item.stop()
        elif isinstance(item, tuple) and self._stopped and self._alone:
            raise Stopped
        super().put(item, block, timeout)


class Generator(_mlx.ResponseGenerator):  # type: ignore[misc, name-defined]
    """Answers requests; an error of one pass ends the answers in it, and not the thread."""

    def __init__(self, provider: Provider) -> None:
        install()
        self._live: set[Running] = set()
        self._live_lock = threading.Lock()
        self._over = False
        limits = provider.cli_args
        caches = PromptCaches(
            max_size=limits.prompt_cache_size, max_bytes=limits.prompt_cache_bytes
        )
        super().__init__(provider, caches)

    @property
    def provider(self) -> Provider:
        found: Provider = self.model_provider
        return found

    @property
    def alive(self) -> bool:
        """Whether answers will still come."""
        return not self._over and bool(self._generation_thread.is_alive())

    def start(self, request: Any, args: Arguments) -> Running:
        """Begin an answer. :meth:`finish` must follow.

        Raises:
            ClosedError: The thread of generation has ended.
        """
        running = Running()
        args.failed = running.put
        with self._live_lock:
            if not self.alive:
                raise ClosedError("serve", "the thread of generation has ended")
            self._live.add(running)
        self.requests.put((running, request, args))
        return running

    def finish(self, running: Running) -> None:
        """Nobody waits for an answer any more, or it is over."""
        running.stop()
        with self._live_lock:
            self._live.discard(running)

    def stop(self) -> None:
        """End the thread of generation, after the pass that it is in."""
        self._stop = True
        while self._generation_thread.is_alive():
            self._generation_thread.join(0.2)  # signal handlers run in between

    def tokenized(self, request: Any, args: Arguments) -> tuple[Any, ...]:
        """What mlx-lm makes of a prompt: its ids, and where to keep its cache; in any thread.

        mlx-lm cuts a prompt where the next turn will surely still agree with it, if the last
        message is the user's. Results of tools go on in the same way, so it is cut there as well:
        caches of recurrent layers cannot go back to where they agreed.
        """
        tokenizer = self.provider.tokenizer
        if request.request_type == "text" and not isinstance(request.prompt, str):
            ids = list(request.prompt)
            found = super()._tokenize(tokenizer, replace(request, prompt=""), args)
            return (ids, [list(ids)], *found[2:])
        found = super()._tokenize(tokenizer, request, args)
        ids, segments, kinds, *rest = found
        if request.request_type == "chat" and request.messages[-1]["role"] == "tool":
            end = self._end_of_messages(tokenizer, request, args, ids)
            if 0 < end < len(ids):
                segments, kinds = [ids[:end], ids[end:]], ["user", "assistant"]
        return (ids, segments, kinds, *rest)

    def _end_of_messages(self, tokenizer: Any, request: Any, args: Any, ids: list[int]) -> int:
        """How many ids of a prompt are messages, and not the beginning of the answer."""
        options = {**self.cli_args.chat_template_args, **(args.chat_template_kwargs or {})}
        without = tokenizer.apply_chat_template(
            request.messages,
            tools=request.tools,
            tokenize=True,
            **{**options, "add_generation_prompt": False},
        )
        pairs = zip(without, ids, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(without), len(ids)))

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
        return args.tokenized

    def _next_request(self, timeout: float | None = None) -> Any:
        request = super()._next_request(timeout)
        return None if request is not None and request[0].stopped else request

    def _serve_single(self, request: Any, *more: Any) -> Any:
        request[0].generated_alone()
        return super()._serve_single(request, *more)

    def _generate(self) -> None:
        try:
            while not self._stop:
                try:
                    super()._generate()
                except Exception as error:
                    if self.provider.error is not None:  # the model cannot be loaded
                        return
                    _log.exception("a pass failed; its answers end with an error")
                    self._fail(error.with_traceback(None))  # whose frames hold the batch
        finally:
            self._over = True
            self._fail(ClosedError("serve", "the server is stopping"))
            self.provider.close()

    def _fail(self, error: Exception) -> None:
        with self._live_lock:
            live = list(self._live)
        for running in live:
            running.put(error)


_mlx = server_module()


class PromptCaches(_mlx.LRUPromptCache):  # type: ignore[misc, name-defined]
    """Always leaves a token of the prompt to process.

    A prompt that is all in a cache (a completion of an earlier prompt and its answer) leaves
    nothing to begin with, and mlx-lm's thread of generation ends with an error.
    """

    def fetch_nearest_cache(
        self, model: Any, tokens: Sequence[int]
    ) -> tuple[list[Any] | None, list[int]]:
        ids = list(tokens)
        cache, rest = super().fetch_nearest_cache(model, ids[:-1])
        return cache, [*rest, *ids[-1:]]
