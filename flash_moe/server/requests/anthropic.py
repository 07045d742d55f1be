"""Validation of requests of Anthropic's messages API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flash_moe.generation.output_spec import OutputSpec
from flash_moe.generation.prepare import Request
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import ApiError, invalid
from flash_moe.server.requests.fields import Fields
from flash_moe.server.requests.request import (
    IGNORED_OF_PARTS,
    ApiRequest,
    Choice,
    read_content,
    read_effort,
    read_function,
    read_sampling,
    tools_spec,
)
from flash_moe.tools.calls import openai_function

IGNORED = (
    *("metadata", "service_tier", "container", "context_management", "inference_geo"),
    *("cache_control", "speed", "betas", "diagnostics", "user_profile_id", "workspace_id"),
    *("billing_policy", "fallbacks", "fallback_credit_token"),
)
REFUSED: dict[str, Any] = {"mcp_servers": [], "compaction": None}
IGNORED_OF_TOOLS = (
    *("cache_control", "eager_input_streaming", "defer_loading", "allowed_callers"),
    "input_examples",
)
# With these details the official client continues without threads.
NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
_BILLING = re.compile(r"^x-anthropic-billing-header:.*\n*", re.MULTILINE)
CHOICES: dict[str, Choice]
CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "named"}


def read_messages(body: Fields, options: ServeOptions, *, counting: bool = False) -> ApiRequest:
    """Read a body of ``/v1/messages``.

    Args:
        counting: The request is for ``/v1/messages/count_tokens`` and has no ``max_tokens``.

    Raises:
        ApiError: A field is missing, invalid, unknown or unsupported; the error names it.
    """
    body.ignore(IGNORED)
    body.refuse(REFUSED)
    if body.get("thread") is not None:
        raise ApiError(
            400,
            "this server is stateless; send all messages, and no thread",
            param="thread",
            code="unsupported_parameter",
            details=NO_THREADS,
        )
    if not counting:
        body.required("max_tokens")
    body.required("messages")
    body.required("model")
    messages = [message for each in body.objects("messages") for message in _messages(each)]
    if not messages:
        raise invalid("messages", "expected at least one message")
    if messages[-1]["role"] == "assistant":
        raise invalid(
            "messages",
            "expected a last message of role user: prefilling the answer is not supported",
        )
    if system := _system(body, "system"):
        messages.insert(0, {"role": "system", "content": system})
    config = body.inner("output_config")
    thinks, budget = _thinking(body, config, options)
    response_format, format_field = _format(body, config)
    sampling = read_sampling(
        body,
        options,
        max_temperature=1,
        numbers=("temperature", "top_p", "top_k"),
        max_tokens=body.integer("max_tokens", options.sampling.max_tokens, 1),
        max_thinking_tokens=budget,
        stop=body.texts("stop_sequences", maximum=16),
    )
    generation = Request(
        messages,
        sampling,
        replace(_tools(body, options), response_format=response_format),
        {**options.template_args, "enable_thinking": thinks},
    )
    return ApiRequest(
        body.required_text("model"), generation, body.flag("stream"), format_field=format_field
    )


def _thinking(
    body: Fields, config: Fields | None, options: ServeOptions
) -> tuple[bool, int | None]:
    """Return whether the model reasons (default: no, as in the API), and its token budget."""
    budget = options.sampling.max_thinking_tokens
    if config is not None and config.get("effort") is not None:
        budget = read_effort(config, "effort", budget)
    thinking = body.inner("thinking")
    if thinking is None:
        return False, budget
    kind = thinking.one_of("type", ("enabled", "disabled", "adaptive", "between_tools"))
    thinking.ignore(("display", "block_binding"))
    return kind != "disabled", thinking.integer("budget_tokens", budget, 1)


def _format(body: Fields, config: Fields | None) -> tuple[dict[str, Any] | None, str]:
    """Return structured output in OpenAI's format, and the name of its field."""
    form = None
    if config is not None:
        config.ignore(("task_budget",))
        form = config.inner("format")
    body.mapping("output_format")  # validated even if output_config wins
    form = form or body.inner("output_format")
    if form is None:
        return None, "output_format"
    form.one_of("type", ("json_schema",))
    form.required("schema")
    schema = form.mapping("schema")
    form.ignore(("name", "description", "strict"))
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}, form.where


def _system(fields: Fields, field: str) -> str:
    """Return the text of a system message.

    Without Claude Code's billing line: it changes with each request and means nothing to the
    model, and no prompt cache would match behind it.
    """
    return _BILLING.sub("", read_content(fields, field, ("text",), sep="\n\n"))


def _messages(message: Fields) -> Iterator[dict[str, Any]]:
    """Yield a message in OpenAI's format: tool results come first, as own messages."""
    role = message.one_of("role", ("user", "assistant", "system"))
    content = message.required("content")
    if role == "system":
        yield {"role": role, "content": _system(message, "content")}
        return
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    if not isinstance(content, list):
        raise message.wrong("content", "a string or a list of blocks")
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    n_results = 0
    for block in message.objects("content"):
        kind = block.required_text("type")
        if kind == "text":
            texts.append(block.required_text("text"))
        elif kind == "tool_result" and role == "user":
            n_results += 1
            yield _result(block)
        elif kind == "tool_use" and role == "assistant":
            calls.append(_call(block))
        elif kind == "thinking" and role == "assistant":
            reasoning.append(block.required_text("thinking"))
        elif kind == "redacted_thinking" and role == "assistant":
            block.ignore(("data",))  # encrypted by another server
        else:
            raise invalid(block.name("type"), f"messages of {role} cannot have {kind!r:.80}")
        block.ignore(IGNORED_OF_PARTS)
    if role == "user":
        if texts or not n_results:
            yield {"role": "user", "content": "\n\n".join(texts)}
        return
    answer: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts)}
    if reasoning:
        answer["reasoning_content"] = "\n\n".join(reasoning)
    if calls:
        answer["tool_calls"] = calls
    yield answer


def _call(block: Fields) -> dict[str, Any]:
    block.required("input")
    return {
        "id": block.required_text("id"),
        **openai_function(block.required_text("name"), arguments=block.mapping("input")),
    }


def _result(block: Fields) -> dict[str, Any]:
    content = read_content(block, "content", ("text",), sep="\n\n")
    if block.flag("is_error"):
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": block.required_text("tool_use_id"), "content": content}


def _tools(body: Fields, options: ServeOptions) -> OutputSpec:
    choice = body.inner("tool_choice")
    mode, named, parallel = "auto", "", True
    if choice is not None:
        mode = choice.one_of("type", tuple(CHOICES))
        named = choice.required_text("name") if mode == "tool" else ""
        parallel = not choice.flag("disable_parallel_tool_use")
    where = "tool_choice.name"
    return tools_spec(_functions(body), options, CHOICES[mode], named, parallel, where)


def _functions(body: Fields) -> Iterator[tuple[dict[str, Any], bool]]:
    for tool in body.objects("tools"):
        if (kind := tool.text("type", "custom")) != "custom":
            raise invalid(
                tool.name("type"), f"expected custom (a tool of the client), got {kind!r:.80}"
            )
        tool.required("input_schema")
        tool.ignore(IGNORED_OF_TOOLS)
        yield read_function(tool, tool.mapping("input_schema")), tool.flag("strict")
