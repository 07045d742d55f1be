"""Prompts become token ids: one at a time, and none of those that cannot fit the context.

A tokenizer is not for several threads at once, and takes seconds for a text of megabytes. So each
prompt has its turn, and one that is surely too long is found out from its beginning, in pieces
between which others have theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flash_moe.generation.engine import SYSTEM, USER
from flash_moe.generation.prompt import end_of_messages, end_of_system
from flash_moe.server.engine.admission import Admission
from flash_moe.server.requests.errors import ApiError, bad
from flash_moe.server.requests.request import GenerationRequest

# Texts have 3 to 5 characters a token. Those with more than this for each token of the context are
# counted before they are tokenized; it costs what fits twice, and is refused else.
_CHARACTERS_A_TOKEN = 8
_PIECE = 50_000  # characters, 0.1 s
# Pieces are cut anywhere, and may have a few tokens more than the text as a whole.
_SURELY = 1.1


@dataclass(frozen=True)
class Tokenized:
    """A prompt as token ids.

    Attributes:
        checkpoints: Numbers of ids after which its cache is worth keeping, and the kind.
    """

    ids: list[int]
    checkpoints: tuple[tuple[int, str], ...] = ()


class Tokenizing:
    """The tokenizer of one model; for any thread.

    Args:
        max_waiting: Prompts that may wait for their turn; those beyond are refused.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_context: int | None,
        template_args: Mapping[str, Any],
        max_waiting: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._template_args = template_args
        self._turns = Admission(1, max_waiting)

    def tokenized(self, asked: GenerationRequest, check: Callable[[], None]) -> Tokenized:
        """Tokenize the prompt of a request.

        Args:
            check: Called while others have their turn; raises when the client has gone.

        Raises:
            ApiError: The chat template or the tokenizer refuses it, it is surely longer than the
                context, or too many wait.
        """
        if asked.prompt is None and not self._tokenizer.has_chat_template:
            raise bad("messages", "this model has no chat template; use /v1/completions")
        self._refuse_too_long(asked, check)
        with self._turns.turn(check):
            if asked.prompt is None:
                return self._chat(asked)
            if not isinstance(asked.prompt, str):
                return Tokenized(list(asked.prompt))
            try:
                return Tokenized(list(self._tokenizer.encode(asked.prompt)))
            except Exception as error:  # whatever a text makes of a tokenizer
                raise bad("prompt", f"the tokenizer refuses this: {error}") from error

    def _chat(self, asked: GenerationRequest) -> Tokenized:
        arguments: dict[str, Any] = {**self._template_args, **_checked(asked.template_args)}
        if asked.tools.shown:
            arguments["tools"] = asked.tools.shown
        try:
            ids = list(
                self._tokenizer.apply_chat_template(
                    asked.messages, add_generation_prompt=True, **arguments
                )
            )
        except Exception as error:  # a template raises what it likes
            raise bad("messages", f"the chat template refuses this: {error}") from error
        # The next turn begins with the same messages, and other conversations with the same system
        # message and tools. Caches of recurrent layers cannot go back to where prompts agreed.
        ends = (
            (end_of_system(self._tokenizer, asked.messages, arguments, ids), SYSTEM),
            (end_of_messages(self._tokenizer, asked.messages, arguments, ids), USER),
        )
        return Tokenized(ids, tuple((n, kind) for n, kind in ends if 0 < n < len(ids)))

    def _refuse_too_long(self, asked: GenerationRequest, check: Callable[[], None]) -> None:
        limit = self._max_context
        texts = list(_texts(asked))
        if limit is None or sum(map(len, texts)) <= limit * _CHARACTERS_A_TOKEN:
            return
        found = 0
        for text in texts:
            for at in range(0, len(text), _PIECE):
                with self._turns.turn(check):
                    piece = self._tokenizer.encode(text[at : at + _PIECE], add_special_tokens=False)
                found += len(piece)
                if found > limit * _SURELY:
                    raise too_long(f"more than {limit}", limit)


def too_long(length: int | str, limit: int) -> ApiError:
    """A prompt that leaves no room for an answer."""
    return bad(
        None,
        f"the prompt has {length} tokens; this model's context is {limit}, and an answer needs "
        "one at least",
        "context_length_exceeded",
    )


def _texts(asked: GenerationRequest) -> Iterator[str]:
    """Texts that are surely a part of the prompt: templates drop thoughts and space around."""
    if isinstance(asked.prompt, str):
        yield asked.prompt
    for message in asked.messages:
        if message["role"] != "assistant":
            yield message["content"].strip()


def _checked(template_args: dict[str, Any]) -> dict[str, Any]:
    """Arguments for the template itself, and none for what renders it."""
    from transformers import PreTrainedTokenizerBase

    taken = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    for name in template_args:
        if name in taken or not name.isidentifier():
            raise bad(f"chat_template_kwargs.{name[:80]}", "this cannot be set by a request")
    return template_args
