"""Greedy answers of a model to prompts, and their tool calls, parsed by mlx-lm."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from flash_moe.compat.mlx_lm import generation_stream, make_prompt_cache, make_sampler, wired_limit
from flash_moe.errors import ConfigError, PromptError
from flash_moe.eval.scoring import TOOL_KINDS, Call, Prompt, answer_text
from flash_moe.generation.generate import token_ids
from flash_moe.generation.prompt import check_length, encode_prompt
from flash_moe.model.streamed import StreamedModel

MAX_TOKENS = 256
# Prefill step of resident models, the default of mlx-lm.
_RESIDENT_STEP = 2048
_TAIL = 64


def supported_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts that a model supports.

    There are none without a chat template. If mlx-lm has no tool parser for the model, prompts
    that need tools are left out, and ``json`` prompts lose their tools.
    """
    if not tokenizer.has_chat_template:
        return []
    if tokenizer.has_tool_calling:
        return list(prompts)
    return [{**p, "tools": []} for p in prompts if not _needs_tools(p)]


def _needs_tools(prompt: Prompt) -> bool:
    uses_tools = (m["role"] == "tool" or m.get("tool_calls") for m in prompt["messages"])
    return prompt["kind"] in TOOL_KINDS or any(uses_tools)


def answer_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    thinking: bool = False,
    max_tokens: int = MAX_TOKENS,
    max_context: int | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[str]:
    """Return the greedy answer to each prompt, without its reasoning.

    Args:
        thinking: ``enable_thinking`` of the chat template.
        max_tokens: Maximum tokens per answer.
        max_context: Context length of the model.
        on_answer: Called after each answer.

    Raises:
        PromptError: The chat template rejects a prompt, or a prompt is too long.
        ConfigError: ``max_tokens`` is below 1.
    """
    if max_tokens < 1:
        raise ConfigError("eval", f"max_tokens: expected at least 1, got {max_tokens}")
    answers = []
    with wired_limit(model, [generation_stream]):
        for number, prompt in enumerate(prompts):
            template = {"tools": prompt["tools"] or None, "enable_thinking": thinking}
            try:
                ids = encode_prompt(tokenizer, prompt["messages"], template)
                answers.append(_answer(model, tokenizer, ids, max_tokens, max_context))
            except PromptError as error:
                raise PromptError(
                    "eval", f"prompt {number}: {error.problem}", error.hint
                ) from error
            on_answer()
    return answers


def _answer(
    model: Any, tokenizer: Any, ids: list[int], max_tokens: int, max_context: int | None
) -> str:
    cache = make_prompt_cache(model)
    room = check_length(max_context, len(ids), cache, max_tokens)
    step = None if isinstance(model, StreamedModel) else _RESIDENT_STEP
    sampler = make_sampler(temp=0.0)
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    tokens = token_ids(model, ids, prompt_cache=cache, sampler=sampler, prefill_step=step)
    with closing(tokens):  # type: ignore[type-var]
        for n, token in enumerate(tokens, start=1):
            if token in tokenizer.eos_token_ids:
                break
            detokenizer.add_token(token)
            if n == room:
                break
    detokenizer.finalize()
    return without_reasoning(tokenizer, ids, detokenizer.text)


def without_reasoning(tokenizer: Any, prompt: Sequence[int], answer: str) -> str:
    """Return an answer without its reasoning; empty if it was truncated while reasoning.

    Args:
        prompt: Token ids of the prompt; many templates open the reasoning in it.
    """
    if not tokenizer.has_thinking:
        return answer.strip()
    opens, closes = tokenizer.think_start, tokenizer.think_end
    tail = tokenizer.decode(list(prompt[-_TAIL:]))
    begun = opens if tail.rfind(opens) > tail.rfind(closes) else ""
    return answer_text(begun + answer, opens, closes)


def call_in(tokenizer: Any, prompt: Prompt, answer: str) -> Call | None:
    """Return the first tool call of an answer, as mlx-lm's server would parse it.

    Returns:
        ``None`` without a call, or if the parser rejects it.
    """
    if not tokenizer.has_tool_calling:
        return None
    _, start, rest = answer.partition(tokenizer.tool_call_start)
    if not start:
        return None
    end = tokenizer.tool_call_end  # some formats have none: the call is the rest
    try:
        parsed = tokenizer.tool_parser(rest.partition(end)[0] if end else rest, prompt["tools"])
        call = parsed[0] if isinstance(parsed, list) else parsed
        name, arguments = call["name"], call["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
    except Exception:  # parsers raise anything on invalid calls
        return None
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None
