"""A request of Anthropic's messages API, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import ApiError, bad
from flash_moe.server.requests.fields import Fields, kind_of
from flash_moe.server.requests.request import Asked, Choice, Tools, read_sampling

IGNORED = (
    *("metadata", "service_tier", "container", "context_management", "inference_geo"),
    *("cache_control", "speed", "betas", "diagnostics", "user_profile_id", "workspace_id"),
    *("billing_policy", "fallbacks", "fallback_credit_token"),
)
IGNORED_OF_BLOCKS = ("cache_control", "citations", "caller", "toolset_name", "signature")
IGNORED_OF_TOOLS = (
    *("cache_control", "eager_input_streaming", "defer_loading", "allowed_callers"),
    "input_examples",
)
# With this the official client goes on without threads.
NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
CHOICES: dict[str, Choice] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
    "tool": "named",
}


def read_messages(body: Fields, options: ServeOptions, *, counting: bool = False) -> Asked:
    """What ``/v1/messages`` is asked for.

    Args:
        counting: The request is for ``/v1/messages/count_tokens``, and has no ``max_tokens``.

    Raises:
        ApiError: A field is missing, wrong, unknown or not supported; names it.
    """
    body.ignore(IGNORED)
    body.refuse({"mcp_servers": [], "compaction": None})
    if body.get("thread") is not None:
        raise ApiError(
            400,
            "this server holds no conversations; send all messages, and no thread",
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
        raise bad("messages", "expected at least one message")
    if messages[-1]["role"] == "assistant":
        raise bad("messages", "the last message must be the user's: answers cannot be begun here")
    if system := "\n\n".join(_texts(body, "system")):
        messages.insert(0, {"role": "system", "content": system})
    thinks, budget = _thinking(body, options)
    form, field = _format(body)
    return Asked(
        model=body.required_text("model"),
        sampling=read_sampling(
            body,
            options,
            top_temperature=1,
            numbers=("temperature", "top_p", "top_k"),
            max_tokens=body.integer("max_tokens", options.sampling.max_tokens, 1),
            max_thinking_tokens=budget,
            stop=body.texts("stop_sequences", most=16),
        ),
        messages=messages,
        tools=_tools(body, options),
        response_format=form,
        format_field=field,
        stream=body.flag("stream"),
        template_args={"enable_thinking": thinks},
    )


def _thinking(body: Fields, options: ServeOptions) -> tuple[bool, int | None]:
    """Whether to think, which as in the API is so only where it is asked for, and how long."""
    budget = options.sampling.max_thinking_tokens
    if body.mapping("thinking") is None:
        return False, budget
    thinking = body.inner("thinking")
    thinking.required("type")
    kind = thinking.one_of("type", ("enabled", "disabled", "adaptive", "between_tools"))
    if thinking.get("budget_tokens") is not None:
        budget = thinking.integer("budget_tokens", 0, 1)
    thinking.ignore(("display", "block_binding"))
    thinking.finish()
    return kind != "disabled", budget


def _format(body: Fields) -> tuple[dict[str, Any] | None, str]:
    """Structured outputs, as OpenAI's ``response_format``; and the field that asks for them."""
    found = body.mapping("output_format")
    where = "output_format"
    if body.mapping("output_config") is not None:
        config = body.inner("output_config")
        config.ignore(("effort", "task_budget"))
        if (given := config.mapping("format")) is not None:
            found, where = given, "output_config.format"
        config.finish()
    if found is None:
        return None, where
    form = Fields(found, where, lenient=body.lenient)
    form.required("type")
    form.one_of("type", ("json_schema",))
    form.required("schema")
    schema = form.mapping("schema")
    form.ignore(("name", "description", "strict"))
    form.finish()
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}, where


def _texts(body: Fields, field: str) -> Iterator[str]:
    """A text, or the texts of a list of text blocks."""
    value = body.get(field)
    if isinstance(value, str):
        yield value
        return
    for block in body.objects(field):
        kind = block.required_text("type")
        if kind != "text":
            raise bad(block.name("type"), f"only text is understood here, not {kind!r:.80}")
        yield block.required_text("text")
        _finish(block)


def _messages(message: Fields) -> Iterator[dict[str, Any]]:
    """One message as OpenAI's: results of tools are messages of their own, before the text."""
    message.required("role")
    role = message.one_of("role", ("user", "assistant"))
    content = message.required("content")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        message.finish()
        return
    if not isinstance(content, list):
        raise message.wrong("content", "a text or a list of blocks")
    texts: list[str] = []
    thoughts: list[str] = []
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
            thoughts.append(block.required_text("thinking"))
        else:
            raise bad(block.name("type"), f"{kind!r:.80} is not understood in a message of {role}")
        _finish(block)
    message.finish()
    if role == "user":
        if texts or not n_results:
            yield {"role": "user", "content": "\n\n".join(texts)}
        return
    found: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts)}
    if thoughts:
        found["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        found["tool_calls"] = calls
    yield found


def _finish(block: Fields) -> None:
    block.ignore(IGNORED_OF_BLOCKS)
    block.finish()


def _call(block: Fields) -> dict[str, Any]:
    arguments = block.required("input")
    if not isinstance(arguments, dict):
        raise bad(block.name("input"), f"expected an object, got {kind_of(arguments)}")
    return {
        "id": block.required_text("id"),
        "type": "function",
        "function": {"name": block.required_text("name"), "arguments": json.dumps(arguments)},
    }


def _result(block: Fields) -> dict[str, Any]:
    said = "\n\n".join(_texts(block, "content"))
    if block.flag("is_error"):
        said = f"Error: {said}"
    return {
        "role": "tool",
        "tool_call_id": block.required_text("tool_use_id"),
        "content": said,
    }


def _tools(body: Fields, options: ServeOptions) -> Tools:
    given: list[dict[str, Any]] = []
    strict = set()
    for tool in body.objects("tools"):
        if (kind := tool.text("type", "custom")) != "custom":
            raise bad(
                tool.name("type"), f"only tools of the client are understood, not {kind!r:.80}"
            )
        name = tool.required_text("name")
        if not name or len(name) > 128:
            raise bad(tool.name("name"), "expected 1 to 128 characters")
        tool.required("input_schema")
        described: dict[str, Any] = {"name": name}
        if text := tool.text("description"):
            described["description"] = text
        described["parameters"] = tool.mapping("input_schema")
        if tool.flag("strict") or options.strict_tools:
            strict.add(name)
        tool.ignore(IGNORED_OF_TOOLS)
        tool.finish()
        given.append({"type": "function", "function": described})
    if body.mapping("tool_choice") is None:
        return Tools(given, strict=frozenset(strict))
    choice = body.inner("tool_choice")
    choice.required("type")
    found = CHOICES[choice.one_of("type", tuple(CHOICES)) or "auto"]
    names = [tool["function"]["name"] for tool in given]
    named = choice.required_text("name") if found == "named" else ""
    if named and named not in names:
        raise bad("tool_choice.name", f"there is no tool {named!r:.80}")
    if found in ("required", "named") and not names:
        raise bad("tool_choice", "expected tools to choose from")
    parallel = not choice.flag("disable_parallel_tool_use")
    choice.finish()
    return Tools(given, found, named, frozenset(strict), parallel)
