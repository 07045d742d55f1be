"""Validation of requests of OpenAI's responses API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from flash_moe.generation.output_spec import OutputSpec
from flash_moe.generation.prepare import Request
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import invalid
from flash_moe.server.requests.fields import Fields
from flash_moe.server.requests.openai import (
    NO_PARAMETERS,
    arguments_of,
    read_choice,
    reasoning_of,
    sampling_of,
)
from flash_moe.server.requests.request import (
    ApiRequest,
    read_content,
    read_function,
    read_model,
    tools_spec,
)
from flash_moe.tools.calls import openai_function

IGNORED = (
    *("store", "metadata", "user", "safety_identifier", "service_tier", "max_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "truncation"),
    *("context_management", "stream_options", "moderation", "client_metadata", "access_programs"),
)
REFUSED: dict[str, Any] = {"background": False, "conversation": None, "prompt": None}
# Tools of OpenAI's servers that Codex sends whatever the model; the model does not see them.
HOSTED_TOOLS = ("web_search", "image_generation")
IGNORED_OF_TOOLS = ("defer_loading", "allowed_callers", "output_schema", "async", "cache_control")
IGNORED_OF_ITEMS = (
    *("id", "status", "phase", "metadata", "internal_chat_message_metadata_passthrough"),
    *("caller", "async", "created_by", "parsed_arguments"),
)
TEXTS = ("input_text", "output_text", "text", "refusal")
# Fields that the response repeats, with the defaults of the API.
ECHOED: dict[str, Any] = {
    **dict.fromkeys(("instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key")),
    **dict.fromkeys(("safety_identifier", "user")),
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
}


def read_response(body: Fields, options: ServeOptions, vocab_size: int | None) -> ApiRequest:
    """Read a body of ``/v1/responses``.

    Raises:
        ApiError: A field is missing, invalid, unknown or unsupported; the error names it.
    """
    if previous := body.text("previous_response_id"):
        raise invalid(
            "previous_response_id",
            f"this server does not keep responses, got {previous!r:.80}; send all items as input",
            "previous_response_not_found",
        )
    body.refuse(REFUSED)
    body.ignore(IGNORED)
    if reasoning := body.inner("reasoning"):
        reasoning.ignore(("summary", "generate_summary", "context", "mode"))
    template_args, budget = reasoning_of(body, options, reasoning, "effort")
    top = body.integer("top_logprobs", 0, 0, 20)
    logprobs = "message.output_text.logprobs" in body.items("include") or top
    limit = "max_output_tokens"
    sampling = sampling_of(body, options, vocab_size, limit, max_thinking_tokens=budget)
    generation = Request(
        _messages(body),
        sampling,
        replace(_tools(body, options), response_format=_format(body)),
        template_args,
        top if logprobs else None,
    )
    echo = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    for name, default in ECHOED.items():
        echo[name] = default if body.get(name) is None else body.get(name)
    return ApiRequest(
        read_model(body),
        generation,
        body.flag("stream"),
        prompt_field="input",
        format_field="text.format",
        echo=echo,
    )


def _messages(body: Fields) -> list[dict[str, Any]]:
    """Return messages for chat templates: the items of one answer become one message."""
    instructions, items = body.text("instructions"), body.required("input")
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise body.wrong("input", "a text or a list of items")
    for item in body.objects("input"):
        item.ignore(IGNORED_OF_ITEMS)
        message = _message(item)
        if messages and messages[-1]["role"] == message["role"] == "assistant":
            for name in message.keys() - {"role"}:
                both = [each[name] for each in (messages[-1], message) if each.get(name)]
                calls = name == "tool_calls"
                messages[-1][name] = list(chain(*both)) if calls else "\n\n".join(both)
        else:
            messages.append(message)
    return messages


def _message(item: Fields) -> dict[str, Any]:
    """Return an item as a message, or as a part of the model's message."""
    match kind := item.text("type", "message"):
        case "message":
            role = item.one_of("role", ("system", "developer", "user", "assistant"))
            item.required("content")
            content = read_content(item, "content", TEXTS)
            return {"role": "system" if role == "developer" else role, "content": content}
        case "reasoning":
            item.ignore(("summary", "encrypted_content"))
            text = read_content(item, "content", ("reasoning_text", "text"))
            return {"role": "assistant", "content": "", "reasoning_content": text}
        case "function_call":
            name = flat_name(item.text("namespace"), item.required_text("name"))
            call = openai_function(name, arguments=arguments_of(item))
            calls = [{"id": item.required_text("call_id"), **call}]
            return {"role": "assistant", "content": "", "tool_calls": calls}
        case "function_call_output":
            item.required("output")
            item.ignore(("name", "namespace"))
            text = read_content(item, "output", TEXTS, omitted=("input_image", "input_file"))
            return {"role": "tool", "tool_call_id": item.required_text("call_id"), "content": text}
    expected = "message, reasoning, function_call or function_call_output"
    raise invalid(item.name("type"), f"expected {expected}, got {kind!r:.80}")


def flat_name(namespace: str, name: str) -> str:
    """Return the name of a tool in the prompt."""
    return f"{namespace}__{name}" if namespace else name


def _tools(body: Fields, options: ServeOptions) -> OutputSpec:
    choice, named = read_choice(body, flat=True)
    parallel, where = body.flag("parallel_tool_calls", True), "tool_choice.name"
    return tools_spec(_functions(body), options, choice, named, parallel, where)


def _functions(fields: Fields, namespace: str = "") -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield functions, including those of namespaces, where Codex puts tools of MCP servers."""
    for tool in fields.objects("tools"):
        kind = tool.required_text("type")
        if kind == "function":
            tool.ignore(IGNORED_OF_TOOLS)
            function = read_function(tool, tool.mapping("parameters") or NO_PARAMETERS)
            function["function"]["name"] = flat_name(namespace, tool.required_text("name"))
            yield function, tool.flag("strict")
        elif kind == "namespace" and not namespace:
            tool.ignore(("description",))
            yield from _functions(tool, tool.required_text("name"))
        elif kind in HOSTED_TOOLS:
            tool.ignore()
        else:
            raise invalid(tool.name("type"), f"expected function or namespace, got {kind!r:.80}")


def _format(body: Fields) -> dict[str, Any] | None:
    """Return ``text.format`` in the format of the chat API."""
    text = body.inner("text")
    form = text and text.inner("format")
    if text is not None:
        text.ignore(("verbosity",))
    if form is None:
        return None
    kind = form.one_of("type", ("text", "json_object", "json_schema"))
    form.ignore(("name", "strict", "description"))
    if kind != "json_schema":
        return {"type": kind}
    form.required("schema")
    return {"type": kind, "json_schema": {"name": "answer", "schema": form.mapping("schema")}}
