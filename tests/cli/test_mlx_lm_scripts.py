"""Unmodified mlx-lm commands run a packed store through its model_file."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import environment

BUDGET = {"FLASH_MOE_CACHE_GB": "0.0006"}  # slots for about one token


def mlx_lm(*arguments: Any, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlx_lm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(**extra),
        check=False,
    )


def test_generate(tiny_store: Path, tiny_mlx: Path) -> None:
    options = ("--trust-remote-code", "--prompt", "hello", "--max-tokens", 12)
    streamed = mlx_lm("generate", "--model", tiny_store, *options, **BUDGET)
    assert streamed.returncode == 0, streamed.stderr
    resident = mlx_lm("generate", "--model", tiny_mlx, *options)
    assert resident.returncode == 0, resident.stderr
    answers = [out.stdout.split("==========")[1] for out in (streamed, resident)]
    assert answers[0] == answers[1] != ""


def test_environment_is_checked(tiny_store: Path) -> None:
    out = mlx_lm(
        "generate", "--model", tiny_store, "--trust-remote-code", "-p", "x", FLASH_MOE_TOP_K="99"
    )
    assert out.returncode != 0
    assert "top_k: expected 1 to 32" in out.stderr


@contextmanager
def server(model: Path, **extra: str) -> Iterator[str]:
    """mlx-lm's own server on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--trust-remote-code",
         "--host", "127.0.0.1", "--port", str(port)],
        env=environment(**extra),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, process.stderr and process.stderr.read().decode()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


def ask(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return dict(json.load(answer))


def test_server(tiny_store: Path, tiny_mlx: Path) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
    with server(tiny_store, **BUDGET) as url:
        streamed = ask(url, **body)
        again = ask(url, **body)
    with server(tiny_mlx) as url:
        resident = ask(url, **body)
    messages = [answer["choices"][0]["message"] for answer in (streamed, again, resident)]
    assert messages[0] == messages[1] == messages[2]
    assert streamed["usage"]["completion_tokens"] > 0
