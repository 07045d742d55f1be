"""Long prompts: refused from their beginning, and nobody waits long for the tokenizer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flash_moe import FlashMoE
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.engine.tokenize import PromptTokenizer
from flash_moe.server.http.connection import ClientGone
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.requests.request import GenerationRequest, Tools
from tests.support.live_server import Live

SAMPLING = SamplingParams(max_tokens=5)
LONG = 6_000_000  # characters


def asked(text: str, role: str = "user") -> GenerationRequest:
    return GenerationRequest("demo", SAMPLING, messages=[{"role": role, "content": text}])


class SlowTokenizer:
    """The tokenizer of a model; counts its characters, and can be held in its template."""

    has_chat_template = True

    def __init__(self, flash: FlashMoE) -> None:
        self.seen = 0
        self.held, self.go = threading.Event(), threading.Event()
        self._encode = flash.tokenizer.encode

    def encode(self, text: str, **options: Any) -> Any:
        self.seen += len(text)
        return self._encode(text, **options)

    def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
        self.held.set()
        assert self.go.wait(60)
        return [1, 2, 3]


@pytest.fixture
def tokenizer(alone: FlashMoE) -> SlowTokenizer:
    return SlowTokenizer(alone)


@pytest.fixture
def tokenizing(tokenizer: SlowTokenizer, alone: FlashMoE) -> PromptTokenizer:
    return PromptTokenizer(tokenizer, alone.model.config.max_context, {}, 3)


@pytest.mark.parametrize("text", ["word " * (LONG // 5), "a" * LONG], ids=["words", "a word"])
def test_a_prompt_that_cannot_fit_is_refused_from_its_beginning(
    tokenizing: PromptTokenizer, tokenizer: SlowTokenizer, text: str
) -> None:
    prompts = [asked(text), GenerationRequest("demo", SAMPLING, prompt=text)]
    for prompt in prompts:
        tokenizer.seen = 0
        with pytest.raises(ApiError) as caught:
            tokenizing.tokenize(prompt, lambda: None)
        assert caught.value.code == "context_length_exceeded"
        assert tokenizer.seen < LONG / 10
        assert not tokenizer.held.is_set()


@pytest.mark.parametrize("prompt", [asked(" " * LONG), asked("a" * LONG, "assistant"), asked("a")])
def test_what_may_fit_is_tokenized(
    tokenizing: PromptTokenizer, tokenizer: SlowTokenizer, prompt: GenerationRequest
) -> None:
    """Templates drop space around a message, and the thoughts of an assistant."""
    tokenizer.go.set()
    assert tokenizing.tokenize(prompt, lambda: None).ids == [1, 2, 3]


def test_one_that_waits_for_the_tokenizer_may_leave(
    tokenizing: PromptTokenizer, tokenizer: SlowTokenizer
) -> None:
    first = threading.Thread(target=lambda: tokenizing.tokenize(asked("a"), lambda: None))

    def gone() -> None:
        raise ClientGone

    first.start()
    try:
        assert tokenizer.held.wait(60)
        with pytest.raises(ClientGone):
            tokenizing.tokenize(asked("b"), gone)
    finally:
        tokenizer.go.set()
        first.join(60)


def test_checkpoints_are_where_prompts_will_agree(alone: FlashMoE) -> None:
    """After the system message and tools, and before the header of the answer."""
    tokenizer = alone.tokenizer
    tokenizing = PromptTokenizer(tokenizer, None, {}, 3)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    found = tokenizing.tokenize(
        GenerationRequest("demo", SAMPLING, messages=messages, tools=Tools([tool])), lambda: None
    )
    (system, kind), (user, other) = found.checkpoints
    assert (kind, other) == ("system", "user")
    end = "Be brief.<|im_end|>\n<|im_start|>user"
    assert tokenizer.decode(found.ids[:system]).rstrip().endswith(end)
    assert tokenizer.decode(found.ids[:user]).endswith("Hello<|im_end|>\n")
    last = [*messages, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Again"}]
    longer = tokenizing.tokenize(
        GenerationRequest("demo", SAMPLING, messages=last, tools=Tools([tool])), lambda: None
    )
    assert longer.ids[:user] == found.ids[:user]
    without = tokenizing.tokenize(
        GenerationRequest("demo", SAMPLING, messages=messages[1:]), lambda: None
    )
    assert [kind for _, kind in without.checkpoints] == ["user"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_body_of_megabytes(live: Live, path: str) -> None:
    messages = [{"role": "user", "content": "a" * 7_900_000}]
    status, answer = live.post(path, {"model": "demo", "max_tokens": 2, "messages": messages})
    assert status == 400
    assert "this model's context is" in answer["error"]["message"]
