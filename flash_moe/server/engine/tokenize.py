"""Tokenize prompts one at a time, and reject those that cannot fit the context early.

A tokenizer is not thread-safe and takes seconds for megabytes of text. So prompts queue for it. A
prompt that is certainly too long is rejected after its first pieces; between pieces other prompts
get the tokenizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flash_moe.generation.engine import SYSTEM, USER
from flash_moe.generation.prompt import end_of_messages, end_of_system
from flash_moe.server.engine.admission import Admission
from flash_moe.server.requests.errors import ApiError, invalid
from flash_moe.server.requests.request import GenerationRequest

# Texts have 3 to 5 characters per token. A text with more than this per token of the context is
# counted in pieces first: if it fits, it is tokenized twice; otherwise it is rejected.
_CHARACTERS_PER_TOKEN = 8
_PIECE = 50_000  # characters, 0.1 s
# Pieces are cut anywhere, and may have a few tokens more than the whole text.
_MARGIN = 1.1


@dataclass(frozen=True)
class TokenizedPrompt:
    """Prompt as token ids.

    Attributes:
        checkpoints: Positions at which to keep the prompt cache, with their kind.
    """

    ids: list[int]
    checkpoints: tuple[tuple[int, str], ...] = ()


class PromptTokenizer:
    """Tokenizer of one model. Thread-safe.

    Args:
        max_queued: Maximum number of queued prompts; further ones are rejected.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_context: int | None,
        template_args: Mapping[str, Any],
        max_queued: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._template_args = template_args
        self._admission = Admission(1, max_queued)

    def tokenize(self, request: GenerationRequest, check: Callable[[], None]) -> TokenizedPrompt:
        """Tokenize the prompt of a request.

        Args:
            check: Called while queued; raises if the client has disconnected.

        Raises:
            ApiError: The chat template or the tokenizer rejects the prompt, the prompt is certainly
                longer than the context, or the queue is full.
        """
        if request.prompt is None and not self._tokenizer.has_chat_template:
            raise invalid("messages", "this model has no chat template; use /v1/completions")
        self._reject_too_long(request, check)
        with self._admission.admit(check):
            if request.prompt is None:
                return self._chat(request)
            if not isinstance(request.prompt, str):
                return TokenizedPrompt(list(request.prompt))
            try:
                return TokenizedPrompt(list(self._tokenizer.encode(request.prompt)))
            except Exception as error:  # tokenizers raise any type
                raise invalid("prompt", f"the tokenizer rejects this: {error}") from error

    def _chat(self, request: GenerationRequest) -> TokenizedPrompt:
        arguments: dict[str, Any] = {**self._template_args, **_checked(request.template_args)}
        if request.tools.in_prompt:
            arguments["tools"] = request.tools.in_prompt
        try:
            ids = list(
                self._tokenizer.apply_chat_template(
                    request.messages, add_generation_prompt=True, **arguments
                )
            )
        except Exception as error:  # templates raise any type
            raise invalid("messages", f"the chat template rejects this: {error}") from error
        # The next turn begins with the same messages, and other conversations begin with the same
        # system message and tools. Caches of recurrent layers cannot be trimmed to a common prefix.
        ends = (
            (end_of_system(self._tokenizer, request.messages, arguments, ids), SYSTEM),
            (end_of_messages(self._tokenizer, request.messages, arguments, ids), USER),
        )
        return TokenizedPrompt(ids, tuple((n, kind) for n, kind in ends if 0 < n < len(ids)))

    def _reject_too_long(self, request: GenerationRequest, check: Callable[[], None]) -> None:
        limit = self._max_context
        texts = list(_texts(request))
        if limit is None or sum(map(len, texts)) <= limit * _CHARACTERS_PER_TOKEN:
            return
        n_tokens = 0
        for text in texts:
            for start in range(0, len(text), _PIECE):
                piece = text[start : start + _PIECE]
                with self._admission.admit(check):
                    n_tokens += len(self._tokenizer.encode(piece, add_special_tokens=False))
                if n_tokens > limit * _MARGIN:
                    raise too_long(f"more than {limit}", limit)


def too_long(length: int | str, limit: int) -> ApiError:
    """Return the error for a prompt that leaves no room for an answer."""
    return invalid(
        None,
        f"the prompt has {length} tokens; this model's context is {limit}, and an answer needs "
        "at least one",
        "context_length_exceeded",
    )


def _texts(request: GenerationRequest) -> Iterator[str]:
    """Yield texts that are certainly in the prompt: templates drop reasoning and outer space."""
    if isinstance(request.prompt, str):
        yield request.prompt
    for message in request.messages:
        if message["role"] != "assistant":
            yield message["content"].strip()


def _checked(template_args: dict[str, Any]) -> dict[str, Any]:
    """Reject arguments of the renderer; a request may only set those of the template."""
    from transformers import PreTrainedTokenizerBase

    reserved = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    for name in template_args:
        if name in reserved or not name.isidentifier():
            raise invalid(f"chat_template_kwargs.{name[:80]}", "a request cannot set this argument")
    return template_args
