"""A request of OpenAI's chat API, read and checked."""

from __future__ import annotations

import json
from typing import Any

from flash_moe.options.sampling import SamplingParams
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import bad
from flash_moe.server.requests.fields import Fields, kind_of
from flash_moe.server.requests.request import (
    Asked,
    Choice,
    Tools,
    read_logit_bias,
    read_model,
    read_sampling,
    read_seed,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
# They change nothing that could be changed here.
IGNORED = (
    *("user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
    *("safety_identifier", "verbosity", "prompt_cache_options", "moderation"),
)
REFUSED = {
    "n": 1,
    "audio": None,
    "modalities": ["text"],
    "prediction": None,
    "web_search_options": None,
    "functions": None,
    "function_call": None,
}


def read_chat(body: Fields, options: ServeOptions, vocab_size: int | None) -> Asked:
    """What ``/v1/chat/completions`` is asked for.

    Raises:
        ApiError: A field is missing, wrong, unknown or not supported; names it.
    """
    body.refuse(REFUSED)
    body.ignore(IGNORED)
    body.required("messages")
    messages = [_message(each) for each in body.objects("messages")]
    if not messages:
        raise bad("messages", "expected at least one message")
    limit = "max_completion_tokens"
    if body.get(limit) is None:
        limit = "max_tokens"
    else:
        body.ignore(("max_tokens",))
    logprobs = body.flag("logprobs")
    top = body.integer("top_logprobs", 0, 0, 20)
    if top and not logprobs:
        raise bad("top_logprobs", "expected logprobs: true with it")
    stream = body.flag("stream")
    template_args = dict(body.mapping("chat_template_kwargs") or {})
    if body.text("reasoning_effort") == "none":
        template_args.setdefault("enable_thinking", False)
    return Asked(
        model=read_model(body),
        sampling=_sampling(
            body, options, vocab_size, limit, max_thinking_tokens=_budget(body, options)
        ),
        messages=messages,
        tools=_tools(body, options),
        response_format=body.mapping("response_format"),
        stream=stream,
        usage=read_stream_options(body),
        logprobs=logprobs,
        top_logprobs=top,
        template_args=template_args,
    )


def _sampling(
    body: Fields, options: ServeOptions, vocab_size: int | None, limit: str, **others: Any
) -> SamplingParams:
    """Read the sampling fields of OpenAI's API, and mlx-lm's own.

    Args:
        limit: Name of the field with the most tokens of the answer.
    """
    return read_sampling(
        body,
        options,
        top_temperature=2,
        max_tokens=body.integer(limit, options.sampling.max_tokens, 1),
        seed=read_seed(body),
        logit_bias=read_logit_bias(body, vocab_size),
        stop=body.texts("stop", most=16),
        **others,
    )


def _budget(body: Fields, options: ServeOptions) -> int | None:
    """``thinking_budget``, which OpenAI's API lacks, as servers of Qwen's models name it."""
    if body.get("thinking_budget") is None:
        return options.sampling.max_thinking_tokens
    return body.integer("thinking_budget", 0, 0)


def read_stream_options(body: Fields) -> bool:
    """Whether a streamed answer is to end with its number of tokens."""
    if body.mapping("stream_options") is None:
        return False
    options = body.inner("stream_options")
    options.ignore(("include_obfuscation",))
    wanted = options.flag("include_usage")
    options.finish()
    return wanted


def _message(message: Fields) -> dict[str, Any]:
    """As chat templates take it: a text for content, ``reasoning_content`` for thoughts."""
    message.required("role")
    role = message.one_of("role", ROLES)
    message.ignore(("refusal", "audio", "annotations", "function_call", "parsed"))
    found: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = list(message.objects("tool_calls"))
    if message.get("content") is None and role != "assistant":
        message.required("content")
    found["content"] = _content(message)
    if name := message.text("name"):
        found["name"] = name
    if role == "tool":
        found["tool_call_id"] = message.required_text("tool_call_id")
    thought = message.text("reasoning_content") or message.text("reasoning")
    message.ignore(("reasoning",))
    if role == "assistant":
        if thought:
            found["reasoning_content"] = thought
        if calls:
            found["tool_calls"] = [_call(each) for each in calls]
    elif calls:
        raise bad(message.name("tool_calls"), "only messages of the assistant have calls")
    message.finish()
    return found


def _content(message: Fields) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise message.wrong("content", "a text or a list of parts")
    texts = []
    for part in message.objects("content"):
        kind = part.required_text("type")
        if kind not in ("text", "refusal"):
            raise bad(part.name("type"), f"only text is understood, not {kind!r:.80}")
        part.ignore(("cache_control", "prompt_cache_breakpoint"))
        texts.append(part.required_text(kind))
        part.finish()
    return "".join(texts)


def _call(call: Fields) -> dict[str, Any]:
    function = call.inner("function")
    arguments = function.text("arguments", "{}") or "{}"
    try:
        fits = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise bad(function.name("arguments"), "expected a JSON object as text")
    found = {
        "id": call.text("id", "") or "",
        "type": "function",
        "function": {"name": function.required_text("name"), "arguments": arguments},
    }
    call.ignore(("type", "index"))
    call.finish()
    function.ignore(("parsed_arguments",))
    function.finish()
    return found


def _tools(body: Fields, options: ServeOptions) -> Tools:
    given: list[dict[str, Any]] = []
    strict = set()
    for tool in body.objects("tools"):
        if tool.required_text("type") != "function":
            raise bad(tool.name("type"), "only tools of type function are understood")
        function = tool.inner("function")
        name = function.required_text("name")
        if not name or len(name) > 128:
            raise bad(function.name("name"), "expected 1 to 128 characters")
        # Beside the function is where OpenAI's newer API has it.
        if function.flag("strict") or tool.flag("strict") or options.strict_tools:
            strict.add(name)
        described: dict[str, Any] = {"name": name}
        if text := function.text("description"):
            described["description"] = text
        parameters = function.mapping("parameters")
        described["parameters"] = parameters or {"type": "object", "properties": {}}
        function.finish()
        tool.ignore(("cache_control",))
        tool.finish()
        given.append({"type": "function", "function": described})
    choice, named = _choice(body, [tool["function"]["name"] for tool in given])
    parallel = body.flag("parallel_tool_calls", True)
    return Tools(given, choice, named, frozenset(strict), parallel)


def _choice(body: Fields, names: list[str]) -> tuple[Choice, str]:
    choice = body.get("tool_choice")
    found: Choice = "auto"
    named = ""
    if isinstance(choice, str):
        body.one_of("tool_choice", ("auto", "none", "required"))
        found = choice  # type: ignore[assignment]
    elif choice is not None:
        field = body.inner("tool_choice")
        if field.required_text("type") != "function":
            raise bad(field.name("type"), "expected function")
        function = field.inner("function")
        found, named = "named", function.required_text("name")
        function.finish()
        field.finish()
        if named not in names:
            raise bad("tool_choice.function.name", f"there is no tool {named!r:.80}")
    if found in ("required", "named") and not names:
        raise bad("tool_choice", "expected tools to choose from")
    return found, named


REFUSED_BY_COMPLETIONS = {"n": 1, "best_of": 1, "echo": False, "suffix": ""}


def read_completion(body: Fields, options: ServeOptions, vocab_size: int | None) -> Asked:
    """What ``/v1/completions`` is asked for: one prompt, as text or as token ids.

    Raises:
        ApiError: A field is missing, wrong, unknown or not supported; names it.
    """
    body.refuse(REFUSED_BY_COMPLETIONS)
    body.ignore(("user", "metadata"))
    top = body.get("logprobs")
    wanted = top is not None and top is not False
    return Asked(
        model=read_model(body),
        sampling=_sampling(body, options, vocab_size, "max_tokens"),
        prompt=_prompt(body, vocab_size),
        stream=body.flag("stream"),
        usage=read_stream_options(body),
        logprobs=wanted,
        top_logprobs=body.integer("logprobs", 0, 0, 5) if wanted and top is not True else 0,
    )


def _prompt(body: Fields, vocab_size: int | None) -> str | list[int]:
    prompt = body.required("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise body.wrong("prompt", "a text or a list of token ids")
    if any(isinstance(each, str | list) for each in prompt):
        raise bad("prompt", "expected one prompt", "unsupported_parameter")
    for token in prompt:
        if not isinstance(token, int) or isinstance(token, bool):
            raise bad("prompt", f"expected token ids, got {kind_of(token)} among them")
        if not 0 <= token < (vocab_size or 2**31):
            raise bad("prompt", f"expected token ids from 0 to {(vocab_size or 2**31) - 1}")
    return prompt
