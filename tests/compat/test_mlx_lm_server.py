"""mlx-lm's own server, unmodified, with several requests at once: each gets its own answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlx_lm.server
import pytest

from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from tests.support.architectures import masks_new_prompts, write_model
from tests.support.processes import environment
from tests.support.resident import Resident, budget_gb
from tests.support.timeout import TIMEOUT_S
from tests.support.warm_process import start_module

ASKED = (("hello", 12), ("why is the sky so dark at night? " * 3, 5), ("2", 9), ("tell me", 16))

Answers = list[dict[str, Any]]


def body(text: str, max_tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"messages": [message], "max_tokens": max_tokens, "temperature": 0, "logprobs": True}


def post(url: str, text: str, max_tokens: int) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body(text, max_tokens)).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return dict(json.load(answer))


def all_at_once(url: str) -> Answers:
    with ThreadPoolExecutor(len(ASKED)) as threads:
        return list(threads.map(lambda asked: post(url, *asked), ASKED))


def tokens(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for token in answer["choices"][0]["logprobs"]["content"]]


def resident_answers(model: Path) -> list[tuple[int, list[int]]]:
    """Of each request by itself: the length of the prompt, and the tokens of the answer."""
    resident, answers = Resident(model), []
    for text, n in ASKED:
        prompt = resident.tokenizer.apply_chat_template(
            body(text, n)["messages"], add_generation_prompt=True
        )
        answers.append((len(prompt), resident.tokens(prompt, n)))
    return answers


def same(answers: Answers, expected: list[tuple[int, list[int]]]) -> bool:
    found = [(answer["usage"]["prompt_tokens"], tokens(answer)) for answer in answers]
    return found == expected


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def server(model: Path, log: Path, **extra: str) -> Iterator[str]:
    """``python -m mlx_lm server`` on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + TIMEOUT_S
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model)]
    command += ["--trust-remote-code", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = start_module(command, environment(**extra), subprocess.DEVNULL, out, out)
    try:
        while not healthy(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield url
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module", params=["qwen3_5_moe", "qwen3_moe"])
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_mlx: Path,
    tiny_store: Path,
) -> tuple[Path, Path]:
    """A checkpoint and its store: with recurrent layers, and with key-value caches alone."""
    if request.param == "qwen3_5_moe":
        if not masks_new_prompts():
            pytest.skip("this mlx-lm computes padding into the states of new prompts")
        return tiny_mlx, tiny_store
    path = tmp_path_factory.mktemp("server")
    write_model(path / "mlx", request.param)
    pack(open_source(path / "mlx"), path / "store")
    return path / "mlx", path / "store"


def test_each_request_gets_its_own_answer(model: tuple[Path, Path], tmp_path: Path) -> None:
    """Twice: the second time the prompts are in the server's cache. With one token's slots."""
    mlx, store = model
    expected = resident_answers(mlx)
    assert len({tuple(answer) for _, answer in expected}) == len(ASKED)
    budget = {"FLASH_MOE_CACHE_GB": str(budget_gb(store, "token"))}
    with server(store, tmp_path / "log", **budget) as url:
        for _ in range(2):
            assert same(all_at_once(url), expected)
        assert same([post(url, *asked) for asked in ASKED], expected)
    assert "Traceback" not in (tmp_path / "log").read_text()


class Server:
    """mlx-lm's server in this process, where the counters of its model can be read.

    Its model is loaded by its own thread, as always, but not before ``go`` is set.
    """

    def __init__(self, provider: Any) -> None:
        self.provider, self.go = provider, threading.Event()
        load = provider.load_default

        def load_default() -> None:
            assert self.go.wait(TIMEOUT_S)
            load()

        provider.load_default = load_default
        self.generator = mlx_lm.server.ResponseGenerator(provider, mlx_lm.server.LRUPromptCache())
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def handler(self, *args: Any) -> Any:
        return mlx_lm.server.APIHandler(self.generator, *args, system_fingerprint="test")

    def stats(self) -> Any:
        return self.provider.model.stats

    def close(self) -> None:
        self.go.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
        self.generator.stop_and_join()


@contextmanager
def server_here(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server as mlx_lm's main function makes it, on a port that the system picks."""
    made: list[Server] = []
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", ["server", "--model", str(store), "--trust-remote-code"])
        patch.setattr("mlx_lm.server.run", lambda host, port, it: made.append(Server(it)))
        patch.setenv("FLASH_MOE_CACHE_GB", str(budget_gb(store, "half")))
        mlx_lm.server.main()
        try:
            yield made[0]
        finally:
            made[0].close()


def test_a_batch_asks_for_experts_once(
    model: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are answered together ask once for what several of them need in a step."""
    mlx, store = model
    expected, alone = resident_answers(mlx), []
    with server_here(store, monkeypatch) as here:
        here.go.set()
        for asked, answer in zip(ASKED, expected, strict=True):
            before = here.stats() if alone else None
            assert same([post(here.url, *asked)], [answer])
            alone.append(here.stats() - before if before else here.stats())
    with server_here(store, monkeypatch) as here:
        with ThreadPoolExecutor(len(ASKED)) as threads:
            waiting = [threads.submit(post, here.url, *asked) for asked in ASKED]
            until = time.monotonic() + TIMEOUT_S
            while here.generator.requests.qsize() < len(ASKED):
                assert time.monotonic() < until
                time.sleep(0.05)
            here.go.set()
            assert same([each.result() for each in waiting], expected)
        together = here.stats()
    for layer, calls in enumerate(zip(*([c.calls for c in s.layers] for s in alone), strict=True)):
        assert together.layers[layer].calls == max(calls)
    asked_alone = [each.bytes_asked for each in alone]
    assert max(asked_alone) < together.bytes_asked < 0.8 * sum(asked_alone)
