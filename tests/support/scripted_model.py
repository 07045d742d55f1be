"""Models with prepared answers: one without weights, and real ones with forced tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from flash_moe.generation.result import Chunk, GenerationStats
from flash_moe.stream.stats import StreamStats

NO_READS = StreamStats(0, 0, ())


class ScriptedModel:
    """Returns prepared answers as pieces, token by token, through the real detokenizer.

    Args:
        answers: Texts. An exception among them is raised when the texts before it, which belong
            to the same answer, are said.

    Attributes:
        prompts: What it was asked, as text.
        options: With which options.
    """

    def __init__(self, tokenizer: Any, *answers: str | list[str | BaseException]) -> None:
        self.tokenizer = tokenizer
        self.answers = list(answers)
        self.prompts: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.closed = 0

    def stream(self, prompt: Sequence[int], **options: Any) -> Iterator[Chunk]:
        self.prompts.append(self.tokenizer.decode(list(prompt)))
        self.options.append(options)
        return self._say(len(prompt), self.answers.pop(0), options.get("max_tokens", 10_000))

    def _say(self, n_prompt: int, answer: Any, max_tokens: int) -> Iterator[Chunk]:
        parts = [answer] if isinstance(answer, str) else answer
        detokenizer = self.tokenizer.detokenizer
        detokenizer.reset()
        made = 0
        try:
            for part in parts:
                if isinstance(part, BaseException):
                    raise part
                for token in self.tokenizer.encode(part, add_special_tokens=False):
                    made += 1
                    detokenizer.add_token(token)
                    if made == max_tokens:
                        detokenizer.finalize()
                        stats = GenerationStats(n_prompt, made, 0.1, 0.1, NO_READS)
                        yield Chunk(detokenizer.last_segment, token, "length", stats)
                        return
                    yield Chunk(detokenizer.last_segment, token)
            detokenizer.finalize()
            stats = GenerationStats(n_prompt, made + 1, 0.1, 0.1, NO_READS)
            end = next(iter(self.tokenizer.eos_token_ids))
            yield Chunk(detokenizer.last_segment, end, "stop", stats)
        finally:
            self.closed += 1


class ForcedAnswers:
    """A logits processor that makes a real model write prepared answers, one per generation."""

    def __init__(self, tokenizer: Any, *answers: str) -> None:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.tokens = [
            token
            for answer in answers
            for token in [*tokenizer.encode(answer, add_special_tokens=False), end]
        ]

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        forced = mx.full(logits.shape, -1e9)
        forced[:, self.tokens.pop(0)] = 0.0
        return forced


def call_text(name: str, /, **arguments: Any) -> str:
    """A call in the format of Qwen."""
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def assert_valid_messages(messages: list[dict[str, Any]]) -> None:
    """What chat clients demand: each call has one result, in order, right after it."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert waiting, "a result without a call"
            assert message["tool_call_id"] == waiting.pop(0)
            assert isinstance(message["content"], str)
            continue
        assert not waiting, "a call without a result"
        assert isinstance(message["content"], str)
        waiting = [call["id"] for call in message.get("tool_calls", ())]
        for call in message.get("tool_calls", ()):
            assert message["role"] == "assistant"
            assert isinstance(call["function"]["arguments"], dict)
    assert not waiting, "a call without a result"
