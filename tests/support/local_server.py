"""A server in the process of the tests. Its HTTP side can go away and come back at its address."""

from __future__ import annotations

import functools
import threading
from typing import Any

from flash_moe import load
from flash_moe.demo_model import STORE
from flash_moe.generation.engine import Engine
from flash_moe.server.handler import Handler
from flash_moe.server.http.connection import HttpServer
from flash_moe.server.options import ServeOptions
from flash_moe.server.service import Service
from tests.support.live_server import expert_budget_gb
from tests.support.timeout import TIMEOUT_S


class LocalServer:
    """The demo model with half of its experts in memory."""

    def __init__(self, **options: Any) -> None:
        self.options = ServeOptions("demo", **options)
        self.engine = Engine(
            lambda: load(STORE, cache_gb=expert_budget_gb()),
            concurrency=self.options.concurrency,
            max_queue=self.options.max_queue,
            cache_entries=8,
            cache_bytes=100_000_000,
        )
        assert self.engine.loaded.wait(TIMEOUT_S)
        assert self.engine.error is None
        self.port = 0
        self.open()

    def open(self) -> None:
        self.service = Service(self.options, STORE, self.engine)
        self.http = HttpServer(
            "127.0.0.1", self.port, functools.partial(Handler, self.service), max_connections=64
        )
        self.port, self.url = self.http.server_port, self.http.url
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))
        self._thread.start()

    def go_away(self) -> None:
        """Refuse connections and end the open ones; the engine stays."""
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()
        self.service.cancel()
        assert self.http.wait_until_closed(TIMEOUT_S)

    def close(self) -> None:
        self.go_away()
        self.engine.close()
