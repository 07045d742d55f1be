"""Prompts become token ids: one at a time, and none of those that cannot fit the context.

A tokenizer is not for several threads at once, and takes seconds for a text of megabytes. So each
prompt has its turn, and one that is surely too long is found out from its beginning, in pieces
between which others have theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flash_moe.server.engine.admission import Admission
from flash_moe.server.engine.generator import Generator
from flash_moe.server.requests.errors import ApiError, bad
from flash_moe.server.requests.request import Asked

# Texts have 3 to 5 characters a token. Those with more than this for each token of the context are
# counted before they are tokenized; it costs what fits twice, and is refused else.
_CHARACTERS_A_TOKEN = 8
_PIECE = 50_000  # characters, 0.1 s
# Pieces are cut anywhere, and may have a few tokens more than the text as a whole.
_SURELY = 1.1


class Tokenizing:
    """The tokenizer of one model; for any thread.

    Args:
        max_waiting: Prompts that may wait for their turn; those beyond are refused.
    """

    def __init__(self, generator: Generator, max_waiting: int) -> None:
        self._generator = generator
        self._turns = Admission(1, max_waiting)

    def tokenized(
        self, asked: Asked, request: Any, arguments: Any, check: Callable[[], None]
    ) -> tuple[Any, ...]:
        """What mlx-lm makes of a prompt (``Generator.tokenized``).

        Args:
            check: Called while others have their turn; raises when nobody waits any more.

        Raises:
            ApiError: The chat template or the tokenizer refuses it, it is surely longer than the
                context, or too many wait.
        """
        if asked.prompt is None and not self._generator.provider.tokenizer.has_chat_template:
            raise bad("messages", "this model has no chat template; use /v1/completions")
        self._refuse_too_long(asked, check)
        with self._turns.turn(check):
            try:
                return self._generator.tokenized(request, arguments)
            except Exception as error:  # a template raises what it likes
                field, what = ("messages", "chat template")
                if asked.prompt is not None:
                    field, what = ("prompt", "tokenizer")
                raise bad(field, f"the {what} refuses this: {error}") from error

    def _refuse_too_long(self, asked: Asked, check: Callable[[], None]) -> None:
        limit = self._generator.provider.model.config.max_context
        texts = list(_texts(asked))
        if limit is None or sum(map(len, texts)) <= limit * _CHARACTERS_A_TOKEN:
            return
        tokenizer, found = self._generator.provider.tokenizer, 0
        for text in texts:
            for at in range(0, len(text), _PIECE):
                with self._turns.turn(check):
                    piece = tokenizer.encode(text[at : at + _PIECE], add_special_tokens=False)
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


def _texts(asked: Asked) -> Iterator[str]:
    """Texts that are surely a part of the prompt: templates drop thoughts and space around."""
    if isinstance(asked.prompt, str):
        yield asked.prompt
    for message in asked.messages:
        if message["role"] != "assistant":
            yield message["content"].strip()
