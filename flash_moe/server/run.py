"""Start and stop of a server; the entry point."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from flash_moe.errors import ClosedError, ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.generation.engine import Engine
from flash_moe.generation.prompt_cache_dir import open_prompt_caches
from flash_moe.loader import load
from flash_moe.memory.system import usable_memory
from flash_moe.server.handler import Handler
from flash_moe.server.http.connection import HttpServer
from flash_moe.server.options import PROMPT_CACHE_SHARE, ServeOptions
from flash_moe.server.service import Service

# Connections beyond running and queued requests: metrics, health checks, rejections.
_MORE_CONNECTIONS = 64
# Longest sleep of the main thread: Python runs signal handlers in it when it wakes.
POLL_S = 0.2
_log = logging.getLogger("flash_moe.server")


def serve(options: ServeOptions, on_ready: Callable[[str, Engine], None]) -> None:
    """Load a model and serve it until SIGTERM or Ctrl-C. Call it in the main thread.

    The first signal gives running requests ``shutdown_timeout_s``; a second ends the process.

    Args:
        on_ready: Called with the address and the engine once requests are accepted.

    Raises:
        ConfigError: The address is invalid or in use, or the prompt caches use up ``memory_gb``.
        FlashMoEError: The model cannot be loaded, or the engine's thread has ended.
    """
    with Signals() as stop:
        _serve(options, on_ready, stop)


def engine_of(options: ServeOptions, report: Callable[[str], None] = _log.warning) -> Engine:
    """Start the engine of a server; with several machines each has one.

    Args:
        report: Gets lines about prompt caches on disk that cannot be used.

    Raises:
        ConfigError: The prompt caches use up ``memory_gb``.
    """
    cache_bytes, load_options = _split_memory(options)
    return Engine(
        lambda: load(options.model, **load_options),
        concurrency=options.concurrency,
        max_queue=options.max_queue,
        cache_entries=options.prompt_cache_entries,
        cache_bytes=cache_bytes,
        open_disk=lambda flash: open_prompt_caches(
            flash.model, options.prompt_caches_on_disk, report
        ),
    )


def _serve(
    options: ServeOptions,
    on_ready: Callable[[str, Engine], None],
    stop: Signals,
) -> None:
    service: list[Service] = []
    http = _listen(options, lambda *arguments: Handler(service[0], *arguments))
    try:
        engine = engine_of(options)
        try:
            while not engine.loaded.wait(POLL_S):
                pass
            if engine.error is not None:
                raise engine.error
            service.append(Service(options, engine.flash.model.path, engine))
            _run(http, service[0], stop, lambda url: on_ready(url, engine))
            if not stop.requested:
                raise engine.error or ClosedError("serve", "the engine's thread has ended")
        finally:
            engine.close()
    finally:
        http.server_close()


def _run(
    http: HttpServer, service: Service, stop: Signals, on_ready: Callable[[str], None]
) -> None:
    accepting = threading.Thread(
        target=functools.partial(http.serve_forever, poll_interval=0.1), name="accept"
    )
    accepting.start()
    try:
        stop.loading = False
        on_ready(http.url)
        stop.wait(lambda: service.engine.alive)
    finally:
        _log.info(
            "stopping: running requests have %g s to finish", service.options.shutdown_timeout_s
        )
        service.engine.drain()
        http.shutdown()
        accepting.join()
        http.server_close()
        deadline = time.monotonic() + service.options.shutdown_timeout_s
        while time.monotonic() < deadline and not service.idle:
            time.sleep(POLL_S)
        service.cancel()
        http.wait_until_closed(2.0)


def _split_memory(options: ServeOptions) -> tuple[int, dict[str, Any]]:
    """Return the limit of the prompt caches, and the load options without that memory."""
    load_options = dict(options.streaming)
    limit = load_options.get("memory_gb")
    memory = usable_memory() if limit is None else limit * 1e9
    n_bytes = options.prompt_cache_bytes
    n_bytes = round(memory * PROMPT_CACHE_SHARE) if n_bytes is None else n_bytes
    if limit is not None:
        load_options["memory_gb"] = limit - n_bytes / 1e9
        if load_options["memory_gb"] <= 0:
            raise ConfigError(
                "serve",
                f"prompt caches of {format_bytes(n_bytes)}: expected less than memory_gb, {limit}",
            )
    return n_bytes, load_options


def _listen(options: ServeOptions, handler: Callable[..., Any]) -> HttpServer:
    max_connections = options.concurrency + options.max_queue + _MORE_CONNECTIONS
    try:
        return HttpServer(options.host, options.port, handler, max_connections)
    except OSError as error:
        raise ConfigError(
            "serve",
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}",
            "Pass another --host or --port.",
        ) from error


class Signals:
    """Handler of SIGTERM and SIGINT: the first requests a stop, a second exits at once.

    A signal while the model loads also exits at once. The handler runs in the main thread between
    any two bytecodes. So it takes no lock, not even that of a ``threading.Event``, which the main
    thread holds briefly during each wait.

    Attributes:
        requested: True once the server should stop.
        loading: True until requests are accepted.
    """

    def __init__(self) -> None:
        self.requested = False
        self.loading = True
        self._before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def wait(self, alive: Callable[[], bool]) -> None:
        """Return when a stop is requested, or ``alive`` returns false."""
        while not self.requested and alive():
            time.sleep(POLL_S)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.loading or self.requested:
            os._exit(0 if self.loading else 128 + number)
        self.requested = True
