"""Long prompts: refused from their beginning, and nobody waits long for the tokenizer."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from flash_moe import FlashMoE
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.engine.tokenize import Tokenizing
from flash_moe.server.http.connection import ClientGone
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.requests.request import Asked
from tests.support.live_server import Live

SAMPLING = SamplingParams(max_tokens=5)
LONG = 6_000_000  # characters


def asked(text: str, role: str = "user") -> Asked:
    return Asked("demo", SAMPLING, messages=[{"role": role, "content": text}])


class FakeGenerator:
    """With the tokenizer of a model, which notes how much it was given."""

    def __init__(self, flash: FlashMoE) -> None:
        self.seen = 0
        self.held = threading.Event()
        self.go = threading.Event()
        self._encode = flash.tokenizer.encode
        tokenizer = SimpleNamespace(has_chat_template=True, encode=self.encode)
        self.provider = SimpleNamespace(tokenizer=tokenizer, model=flash.model)

    def encode(self, text: str, **options: Any) -> Any:
        self.seen += len(text)
        return self._encode(text, **options)

    def tokenized(self, request: Any, arguments: Any) -> Any:
        self.held.set()
        assert self.go.wait(60)
        return ([1, 2, 3],)


@pytest.fixture
def generator(alone: FlashMoE) -> Any:
    return FakeGenerator(alone)


@pytest.mark.parametrize("text", ["word " * (LONG // 5), "a" * LONG], ids=["words", "a word"])
def test_a_prompt_that_cannot_fit_is_refused_from_its_beginning(generator: Any, text: str) -> None:
    prompts = [asked(text), Asked("demo", SAMPLING, prompt=text)]
    for prompt in prompts:
        generator.seen = 0
        with pytest.raises(ApiError) as caught:
            Tokenizing(generator, 3).tokenized(prompt, None, None, lambda: None)
        assert caught.value.code == "context_length_exceeded"
        assert generator.seen < LONG / 10
        assert not generator.held.is_set()


@pytest.mark.parametrize("prompt", [asked(" " * LONG), asked("a" * LONG, "assistant"), asked("a")])
def test_what_may_fit_is_tokenized(generator: Any, prompt: Asked) -> None:
    """Templates drop space around a message, and the thoughts of an assistant."""
    generator.go.set()
    ids = Tokenizing(generator, 3).tokenized(prompt, None, None, lambda: None)
    assert ids == ([1, 2, 3],)


def test_one_that_waits_for_the_tokenizer_may_leave(generator: Any) -> None:
    tokenizing = Tokenizing(generator, 1)
    first = threading.Thread(target=lambda: tokenizing.tokenized(asked("a"), None, None, print))

    def gone() -> None:
        raise ClientGone

    first.start()
    try:
        assert generator.held.wait(60)
        with pytest.raises(ClientGone):
            tokenizing.tokenized(asked("b"), None, None, gone)
    finally:
        generator.go.set()
        first.join(60)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_body_of_megabytes(live: Live, path: str) -> None:
    messages = [{"role": "user", "content": "a" * 7_900_000}]
    status, answer = live.post(path, {"model": "demo", "max_tokens": 2, "messages": messages})
    assert status == 400
    assert "this model's context is" in answer["error"]["message"]
