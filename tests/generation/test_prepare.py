"""Prompts for the engine: early refusal, turns at the tokenizer, checkpoints, system messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.demo_model import STORE
from flash_moe.errors import ContextLengthError
from flash_moe.generation.output_spec import OutputSpec
from flash_moe.generation.prepare import Preparer, Request
from flash_moe.generation.prompt import common_length, placed
from flash_moe.options.sampling import SamplingParams
from tests.support.live_server import expert_budget_gb

SAMPLING = SamplingParams(max_tokens=5)
LONG = 6_000_000  # characters


def asked(text: str, role: str = "user") -> Request:
    return Request([{"role": role, "content": text}], SAMPLING)


class SlowTokenizer:
    """The tokenizer of a model; counts its characters, and can be held in its template."""

    has_chat_template = True
    bos_token = None

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


@pytest.fixture(scope="module")
def alone() -> Iterator[FlashMoE]:
    with load(STORE, cache_gb=expert_budget_gb()) as flash:
        yield flash


@pytest.fixture
def tokenizer(alone: FlashMoE) -> SlowTokenizer:
    return SlowTokenizer(alone)


@pytest.fixture
def preparer(tokenizer: SlowTokenizer, alone: FlashMoE) -> Preparer:
    return Preparer(tokenizer, alone.model.config)


@pytest.mark.parametrize("text", ["word " * (LONG // 5), "a" * LONG], ids=["words", "a word"])
def test_a_prompt_that_cannot_fit_is_refused_from_its_beginning(
    preparer: Preparer, tokenizer: SlowTokenizer, text: str
) -> None:
    prompts = [asked(text), Request(text, SAMPLING)]
    for prompt in prompts:
        tokenizer.seen = 0
        with pytest.raises(ContextLengthError, match="more than"):
            preparer.tokenize(prompt, lambda: None)
        assert tokenizer.seen < LONG / 10
        assert not tokenizer.held.is_set()


@pytest.mark.parametrize("prompt", [asked(" " * LONG), asked("a" * LONG, "assistant"), asked("a")])
def test_what_may_fit_is_tokenized(
    preparer: Preparer, tokenizer: SlowTokenizer, prompt: Request
) -> None:
    """Templates drop space around a message, and the thoughts of an assistant."""
    tokenizer.go.set()
    assert preparer.tokenize(prompt, lambda: None)[0] == [1, 2, 3]


def test_one_that_waits_for_the_tokenizer_may_leave(
    preparer: Preparer, tokenizer: SlowTokenizer
) -> None:
    first = threading.Thread(target=lambda: preparer.tokenize(asked("a"), lambda: None))

    def gone() -> None:
        raise KeyError

    first.start()
    try:
        assert tokenizer.held.wait(60)
        with pytest.raises(KeyError):
            preparer.tokenize(asked("b"), gone)
    finally:
        tokenizer.go.set()
        first.join(60)


def test_checkpoints_are_where_prompts_will_agree(alone: FlashMoE) -> None:
    """After the system message and tools, and before the header of the answer."""
    tokenizer = alone.tokenizer
    preparer = Preparer(tokenizer, alone.model.config)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    spec = OutputSpec([tool])
    ids, checkpoints = preparer.tokenize(Request(messages, SAMPLING, spec), lambda: None)
    (system, kind), (user, other) = checkpoints
    assert (kind, other) == ("system", "user")
    end = "Be brief.<|im_end|>\n<|im_start|>user"
    assert tokenizer.decode(ids[:system]).rstrip().endswith(end)
    assert tokenizer.decode(ids[:user]).endswith("Hello<|im_end|>\n")
    last = [*messages, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Again"}]
    longer, _ = preparer.tokenize(Request(last, SAMPLING, spec), lambda: None)
    assert longer[:user] == ids[:user]
    _, checkpoints = preparer.tokenize(Request(messages[1:], SAMPLING), lambda: None)
    assert [kind for _, kind in checkpoints] == ["user"]


@pytest.mark.parametrize("text", ["Hello", "\n\nHello", "<|im_end|>\nHello", " a" * 300])
def test_checkpoints_are_those_of_tokenized_prefixes(alone: FlashMoE, text: str) -> None:
    """Also where the system message is the longer or shorter part, and ends within a token."""
    tokenizer = alone.tokenizer
    preparer = Preparer(tokenizer, alone.model.config)
    for system in ("Be brief.", "Be brief. " * 200):
        messages = [message("system", system), message("user", text)]
        ids, checkpoints = preparer.tokenize(Request(messages, SAMPLING), lambda: None)
        parts = ([messages[0], message("user", "")], messages)
        prefixes = [tokenizer.apply_chat_template(part) for part in parts]
        assert [n for n, _ in checkpoints] == [common_length(ids, each) for each in prefixes]


class CountingTokenizer:
    """The tokenizer of a model; counts the characters that it tokenizes."""

    def __init__(self, flash: FlashMoE) -> None:
        self.seen = 0
        self._tokenizer = flash.tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **options: Any) -> Any:
        self.seen += len(text)
        return self._tokenizer.encode(text, **options)

    def apply_chat_template(self, messages: Any, *, tokenize: bool = True, **options: Any) -> Any:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return self.encode(text, add_special_tokens=False) if tokenize else text


def test_a_prompt_is_tokenized_once(alone: FlashMoE) -> None:
    """Then only the message after the system message, and the header of the answer, again."""
    tokenizer = CountingTokenizer(alone)
    messages = [message("system", "Be brief. " * 500), message("user", "Hello")]
    preparer = Preparer(tokenizer, alone.model.config)
    tokenizer.seen = 0
    ids, checkpoints = preparer.tokenize(Request(messages, SAMPLING), lambda: None)
    assert len(checkpoints) == 2
    assert tokenizer.seen < 1.1 * len(alone.tokenizer.decode(ids))


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


class Template:
    """A tokenizer whose chat template takes system messages by a rule."""

    def __init__(self, rule: str) -> None:
        self._rule = rule

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        later = [each for each in messages[1:] if each["role"] == "system"]
        if later and self._rule == "raises":
            raise ValueError("System message must come first")
        if self._rule == "front":
            messages = sorted(messages, key=lambda each: each["role"] != "system")
        dropped = later if self._rule == "drops" else []
        return "".join(each["content"] for each in messages if each not in dropped)

    def decode(self, text: str) -> str:
        return text


SYSTEMS = [
    *(message("system", "a"), message("system", "b"), message("user", "c")),
    *(message("system", "d"), message("user", "e"), message("user", "f")),
    *(message("assistant", "g"), message("tool", "h"), message("system", "i")),
]
JOINED = [
    *(message("system", "a\n\nb"), message("user", "c\n\nd\n\ne"), message("user", "f")),
    *(message("assistant", "g"), message("tool", "h"), message("user", "i")),
]


def test_system_messages_are_placed_where_the_template_takes_them() -> None:
    assert placed(Template("any"), SYSTEMS) == SYSTEMS
    for rule in ("raises", "drops", "front"):
        assert placed(Template(rule), SYSTEMS) == JOINED
        assert placed(Template(rule), SYSTEMS[:1] + SYSTEMS[2:3]) == SYSTEMS[:1] + SYSTEMS[2:3]


def test_system_messages_of_the_demo_model(alone: FlashMoE) -> None:
    ids, _ = Preparer(alone.tokenizer, alone.model.config).tokenize(
        Request(SYSTEMS[:5], SAMPLING), lambda: None
    )
    shown = alone.tokenizer.decode(ids)
    assert "system\na\n\nb<" in shown
    assert "user\nc\n\nd\n\ne<" in shown
