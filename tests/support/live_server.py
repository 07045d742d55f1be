"""A server in a separate process, as a user starts it, and requests to it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flash_moe.demo_model import STORE
from tests.support.processes import COMMAND, environment
from tests.support.timeout import TIMEOUT_S
from tests.support.warm_process import start_module


def expert_budget_gb() -> float:
    """Half of the demo model's experts, so that some are always read."""
    return sum(file.stat().st_size for file in (STORE / "experts").iterdir()) / 2e9


class Live:
    """``flash-moe serve`` on a port that the system picks. Its log is on its standard error."""

    def __init__(
        self,
        log: Path,
        *arguments: str,
        model: str = "demo",
        command: Sequence[str] = (*COMMAND, "serve"),
        **extra: str,
    ) -> None:
        self.log = log
        command = [*command, model, "--port", "0", "--cache-gb", str(expert_budget_gb())]
        with log.open("wb") as out:
            self.process = start_module(
                [*command, *arguments], environment(**extra), subprocess.DEVNULL, out, out
            )
        try:
            self.wait_for(lambda: "/v1 (" in self.said())
            found = re.search(r"http://\S+:(\d+)/v1", self.said())
            assert found, self.said()
        except BaseException:
            self.close()  # the caller has no object to close
            raise
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def wait_for(self, there: Callable[[], bool]) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not there():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return self.log.read_text()

    def healthy(self) -> bool:
        return bool(self.get("/health")[0] == 200)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON. Header names are written with ``_`` for ``-``."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=raw, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a series; 0 if it does not exist yet."""
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"flash_moe_{name}{{{inside}}}" if labels else f"flash_moe_{name}"
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        status, text = self.get("/metrics", **key)
        assert status == 200
        for line in text.splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        return 0.0

    key = ""

    def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        self.wait_for(lambda: self.metric(name, **labels) == value)

    def raw(self, data: bytes, *, half_close: bool = False) -> bytes:
        """Send bytes as they are, and read to the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as connection:
            with contextlib.suppress(OSError):  # it may refuse before all is sent
                connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=TIMEOUT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=TIMEOUT_S)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass
    return received


def post_bytes(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)
