"""Brings a server up and down: the one way in."""

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
from flash_moe.generation.engine import Engine
from flash_moe.server.handler import Handler
from flash_moe.server.http.connection import HttpServer
from flash_moe.server.options import ServeOptions
from flash_moe.server.served_model import ServedModel
from flash_moe.server.service import Service

# Beside requests that wait or are answered: pages of metrics, health checks, refusals.
_MORE_CONNECTIONS = 64
# The main thread never sleeps longer: Python runs signal handlers in it, when it wakes.
POLL_S = 0.2
_log = logging.getLogger("flash_moe.server")


def serve(options: ServeOptions, on_ready: Callable[[str, ServedModel, Engine], None]) -> None:
    """Load a model and answer requests until SIGTERM or Ctrl-C; from the main thread.

    The first signal lets answers end for a while, then ends them; a second ends the process.

    Args:
        on_ready: Called with the address, the model and its engine when requests are answered.

    Raises:
        ConfigError: The address is taken, or is none.
        FlashMoEError: The model cannot be loaded; or the thread of generation has ended.
    """
    stop = Signals()
    model = ServedModel(options)
    service: list[Service] = []
    http = _listen(options, lambda *arguments: Handler(service[0], *arguments))
    try:
        engine = model.start_engine()
        try:
            while not engine.loaded.wait(POLL_S):
                pass
            if engine.error is not None:
                raise engine.error
            service.append(Service(options, model, engine))
            _answer(http, service[0], stop, lambda url: on_ready(url, model, engine))
            if not stop.asked:
                raise ClosedError("serve", "the generation thread has ended")
        finally:
            engine.close()
    finally:
        http.server_close()


def _answer(
    http: HttpServer,
    service: Service,
    stop: Signals,
    on_ready: Callable[[str], None],
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
        _log.info("stopping: answers have %g s to end", service.options.shutdown_timeout_s)
        service.admission.close()
        http.shutdown()
        accepting.join()
        http.server_close()
        until = time.monotonic() + service.options.shutdown_timeout_s
        while time.monotonic() < until and not service.admission.wait_until_idle(POLL_S):
            pass
        service.cancel()
        http.wait_until_closed(2.0)


def _listen(options: ServeOptions, handler: Callable[..., Any]) -> HttpServer:
    most = options.concurrency + options.max_queue + _MORE_CONNECTIONS
    try:
        return HttpServer(options.host, options.port, handler, most)
    except OSError as error:
        raise ConfigError(
            "serve",
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}",
            "Choose another with --host and --port.",
        ) from error


class Signals:
    """The first SIGTERM or SIGINT asks to stop; a second, or one while loading, ends at once.

    The handler runs in the main thread, between any two of its steps. So it takes no lock: not even
    that of a ``threading.Event``, which the main thread holds for a moment of each wait.

    Attributes:
        asked: Whether the server should stop.
        loading: Whether nothing is answered yet.
    """

    def __init__(self) -> None:
        self.asked = False
        self.loading = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def wait(self, alive: Callable[[], bool]) -> None:
        """Return when it is asked to stop, or ``alive`` no more."""
        while not self.asked and alive():
            time.sleep(POLL_S)

    def _take(self, number: int, frame: Any) -> None:
        if self.loading or self.asked:
            os._exit(0 if self.loading else 128 + number)
        self.asked = True
