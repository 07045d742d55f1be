"""Prompt encoding: token ids of text or messages, and the limit of the context."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

import mlx.core as mx

from flash_moe.compat.mlx_lm import cached_positions
from flash_moe.errors import ContextLengthError, PromptError

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Prompt: TypeAlias = "str | Messages | Sequence[int] | mx.array"


def encode_prompt(
    tokenizer: Any,
    prompt: Prompt,
    template_args: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
) -> list[int]:
    """Return the token ids of a prompt.

    Args:
        prompt: Text (used as it is), chat messages (through the chat template), or token ids.
        template_args: Arguments of the chat template, such as ``{"enable_thinking": False}``.
        vocab_size: Exclusive limit of the ids; MLX reads beyond the embedding without an error.

    Raises:
        PromptError: The prompt is empty, an id is out of range, or messages were given and the
            model has no chat template.
    """
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        special = bos is None or not prompt.startswith(bos)
        try:
            ids = list(tokenizer.encode(prompt, add_special_tokens=special))
        except Exception as error:  # tokenizers raise any type
            raise PromptError("prompt", f"the tokenizer rejects this: {error}") from error
    elif isinstance(prompt, mx.array):
        ids = [int(i) for i in prompt.reshape(-1).tolist()]  # type: ignore[arg-type, union-attr]
    elif is_chat(prompt):
        if not tokenizer.has_chat_template:
            raise PromptError("prompt", "this model has no chat template", "Pass text instead.")
        try:
            ids = list(
                tokenizer.apply_chat_template(
                    list(prompt), add_generation_prompt=True, **(template_args or {})
                )
            )
        except Exception as error:  # a template may raise anything (jinja2.TemplateError)
            raise PromptError(
                "prompt", f"the chat template rejects these messages: {error}"
            ) from error
    else:
        try:
            ids = [int(i) for i in prompt]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise PromptError(
                "prompt", f"expected text, messages or token ids, got {prompt!r:.80}"
            ) from None
    if not ids:
        raise PromptError("prompt", "the prompt is empty", "Pass at least one token.")
    if min(ids) < 0 or (vocab_size is not None and max(ids) >= vocab_size):
        raise PromptError(
            "prompt",
            f"expected token ids from 0 to {(vocab_size or 0) - 1}, got {min(ids)} to {max(ids)}",
            "Does the tokenizer belong to the model?",
        )
    return ids


def is_chat(prompt: Prompt) -> bool:
    """Return true for chat messages."""
    given = not isinstance(prompt, str | mx.array) and len(prompt) > 0
    return given and isinstance(prompt[0], Mapping)


def placed(tokenizer: Any, messages: Messages) -> Messages:
    """Return messages in a form that the chat template accepts, in the same order.

    Agents send several system messages, some of them between others. Many templates allow one, at
    the front. For these, leading ones become one message, and later ones join the user's text.
    """
    if all(each["role"] != "system" for each in messages[1:]) or _takes_system(tokenizer):
        return messages
    made: list[Mapping[str, Any]] = []
    at_front, was_system = True, False
    for message in messages:
        is_system = message["role"] == "system"
        at_front = at_front and is_system
        each = {**message, "role": "user"} if is_system and not at_front else message
        if made and made[-1]["role"] == each["role"] and (is_system or was_system):
            made[-1] = {**made[-1], "content": f"{made[-1]['content']}\n\n{each['content']}"}
        else:
            made.append(each)
        was_system = is_system
    return made


def _takes_system(tokenizer: Any) -> bool:
    """Return true if the chat template takes several system messages, at any place."""
    roles = ("system", "system", "user", "system", "user")
    texts = [f"<{n}>" for n in range(len(roles))]
    probe = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    try:
        shown = tokenizer.decode(tokenizer.apply_chat_template(probe, add_generation_prompt=True))
    except Exception:  # a template may raise anything
        return False
    places = [shown.find(text) for text in texts]
    return min(places) >= 0 and places == sorted(places)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def call_token(tokenizer: Any) -> int | None:
    """Return the token that begins a tool call; ``None`` if it is not a single one."""
    if not getattr(tokenizer, "has_tool_calling", False):
        return None
    ids = tokenizer.encode(tokenizer.tool_call_start, add_special_tokens=False)
    return int(ids[0]) if len(ids) == 1 else None


def end_of_messages(
    tokenizer: Any, messages: Messages, template_args: Mapping[str, Any], ids: Sequence[int]
) -> int:
    """Return the number of prompt ids before the header of the answer.

    The prompt of the next turn begins with them too, unless the template drops text after the
    last user message. Return 0 if the template cannot omit the header.
    """
    return _shared_length(tokenizer, messages, messages, template_args, ids)


def end_of_system(
    tokenizer: Any, messages: Messages, template_args: Mapping[str, Any], ids: Sequence[int]
) -> int:
    """Return the number of prompt ids of system messages and tools; 0 for none."""
    system = list(takewhile(lambda message: message["role"] == "system", messages))
    if not system:
        return 0
    others = [*system, {"role": "user", "content": ""}]
    return _shared_length(tokenizer, messages, others, template_args, ids)


def _shared_length(
    tokenizer: Any,
    messages: Messages,
    others: Messages,
    template_args: Mapping[str, Any],
    ids: Sequence[int],
) -> int:
    """Return the number of prompt ids that also begin other messages without a header.

    Tokenizing takes most of the time, so where the rest of the prompt is the shorter part, only the
    rest is tokenized.

    Args:
        ids: Token ids of ``messages`` and the header.
    """
    template = functools.partial(tokenizer.apply_chat_template, **template_args)
    try:
        whole = template(list(messages), add_generation_prompt=True, tokenize=False)
        text = template(list(others), add_generation_prompt=False, tokenize=False)
        n = len(os.path.commonprefix([whole, text]))  # noqa: RUF071 - of texts
        if len(whole) - n < n:
            rest = tokenizer.encode(whole[n:], add_special_tokens=False)
            if rest == ids[len(ids) - len(rest) :]:
                return len(ids) - len(rest)
        return common_length(ids, template(list(others), add_generation_prompt=False))
    except Exception:  # a template may raise anything; a checkpoint only saves work
        return 0


def check_length(limit: int | None, n_prompt: int, cache: Sequence[Any], max_tokens: int) -> int:
    """Return the number of tokens that may be generated within the model's context.

    Args:
        limit: Context length in tokens; ``None`` if unknown.
        cache: The prompt cache; its positions count.

    Raises:
        ContextLengthError: The cached positions and the prompt leave no room for a token.
    """
    if limit is None:
        return max_tokens
    cached = cached_positions(cache)
    room = limit - cached - n_prompt
    if room < 1:
        raise too_long(n_prompt, limit, cached)
    return min(max_tokens, room)


def too_long(length: int | str, limit: int, cached: int = 0) -> ContextLengthError:
    """Return the error for a prompt that leaves no room for an answer.

    Agents shorten their history when they find "prompt is too long" in an error.
    """
    before = f" after {cached} in the cache" if cached else ""
    return ContextLengthError(
        "prompt",
        f"the prompt is too long: {length} tokens{before}, expected at most {limit - 1 - cached} "
        f"(the context of this model is {limit}, and an answer needs a token)",
        "Shorten the prompt.",
    )
