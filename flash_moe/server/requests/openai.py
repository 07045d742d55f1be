"""Validation of requests of OpenAI's chat and completions APIs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flash_moe.generation.output_spec import OutputSpec
from flash_moe.generation.prepare import Request
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import invalid
from flash_moe.server.requests.fields import Fields, kind_of
from flash_moe.server.requests.request import (
    ApiRequest,
    Choice,
    read_content,
    read_effort,
    read_function,
    read_logit_bias,
    read_model,
    read_sampling,
    tools_spec,
)
from flash_moe.tools.calls import openai_function

ROLES = ("system", "developer", "user", "assistant", "tool")
# Accepted fields without effect.
IGNORED = (
    *("user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
    *("safety_identifier", "verbosity", "prompt_cache_options", "moderation"),
)
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
REFUSED = {
    "n": 1,
    "audio": None,
    "modalities": ["text"],
    "prediction": None,
    "web_search_options": None,
    "functions": None,
    "function_call": None,
}


def read_chat(body: Fields, options: ServeOptions, vocab_size: int | None) -> ApiRequest:
    """Read a body of ``/v1/chat/completions``.

    Raises:
        ApiError: A field is missing, invalid, unknown or unsupported; the error names it.
    """
    body.refuse(REFUSED)
    body.ignore(IGNORED)
    body.required("messages")
    messages = [_message(each) for each in body.objects("messages")]
    if not messages:
        raise invalid("messages", "expected at least one message")
    limit = "max_completion_tokens"
    if body.get(limit) is None:
        limit = "max_tokens"
    else:
        body.ignore(("max_tokens",))
    logprobs = body.flag("logprobs")
    top = body.integer("top_logprobs", 0, 0, 20)
    if top and not logprobs:
        raise invalid("top_logprobs", "expected logprobs: true as well")
    template_args, budget = reasoning_of(body, options, body, "reasoning_effort")
    generation = Request(
        messages,
        sampling_of(body, options, vocab_size, limit, max_thinking_tokens=budget),
        replace(_tools(body, options), response_format=body.mapping("response_format")),
        template_args,
        top if logprobs else None,
    )
    return ApiRequest(read_model(body), generation, body.flag("stream"), _include_usage(body))


def reasoning_of(
    body: Fields, options: ServeOptions, reasoning: Fields | None, field: str
) -> tuple[dict[str, Any], int | None]:
    """Return arguments of the chat template, and the maximum of reasoning tokens.

    Args:
        reasoning, field: Object and name of the field with the effort.
    """
    arguments, budget = _template_args(body), options.sampling.max_thinking_tokens
    if reasoning is not None and (effort := reasoning.text(field)):
        arguments.setdefault("enable_thinking", effort != "none")
        if effort != "none":
            budget = read_effort(reasoning, field, budget)
            arguments.setdefault("reasoning_effort", effort)
    return {**options.template_args, **arguments}, body.integer("thinking_budget", budget, 0)


def _template_args(body: Fields) -> dict[str, Any]:
    """Return arguments of the chat template; those of its renderer are rejected."""
    from transformers import PreTrainedTokenizerBase

    arguments = dict(body.mapping("chat_template_kwargs") or {})
    reserved = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    for name in arguments:
        if name in reserved or not name.isidentifier():
            raise invalid(f"chat_template_kwargs.{name[:80]}", "a request cannot set this argument")
    return arguments


def sampling_of(
    body: Fields, options: ServeOptions, vocab_size: int | None, limit: str, **others: Any
) -> SamplingParams:
    """Read the sampling fields of OpenAI's API and of mlx-lm.

    Args:
        limit: Name of the field with the maximum number of tokens.
    """
    return read_sampling(
        body,
        options,
        max_temperature=2,
        max_tokens=body.integer(limit, options.sampling.max_tokens, 1),
        seed=body.integer("seed", options.sampling.seed, -(2**63) + 1),
        logit_bias=read_logit_bias(body, vocab_size),
        stop=body.texts("stop", maximum=16),
        **others,
    )


def _include_usage(body: Fields) -> bool:
    """Return true if a streamed answer ends with its token usage."""
    options = body.inner("stream_options")
    if options is None:
        return False
    options.ignore(("include_obfuscation",))
    return options.flag("include_usage")


def _message(message: Fields) -> dict[str, Any]:
    """Return a message for chat templates: content as text, reasoning in ``reasoning_content``."""
    role = message.one_of("role", ROLES)
    message.ignore(("refusal", "audio", "annotations", "function_call", "parsed"))
    result: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = [_call(each) for each in message.objects("tool_calls")]
    if message.get("content") is None and role != "assistant":
        message.required("content")
    result["content"] = read_content(message, "content", ("text", "refusal"))
    if name := message.text("name"):
        result["name"] = name
    if role == "tool":
        result["tool_call_id"] = message.required_text("tool_call_id")
    reasoning = message.text("reasoning_content") or message.text("reasoning")
    message.ignore(("reasoning",))
    if role == "assistant":
        if reasoning:
            result["reasoning_content"] = reasoning
        if calls:
            result["tool_calls"] = calls
    elif calls:
        raise invalid(message.name("tool_calls"), "only assistant messages can have tool calls")
    return result


def arguments_of(call: Fields) -> dict[str, Any]:
    """Return the arguments of a call as chat templates take them."""
    written = call.text("arguments")
    try:
        arguments = json.loads(written or "{}")
    except (ValueError, RecursionError):
        arguments = None
    # Otherwise truncated, and sent back with each later request of the session.
    return arguments if isinstance(arguments, dict) else {"arguments": written}


def _call(call: Fields) -> dict[str, Any]:
    function = call.required_inner("function")
    arguments = arguments_of(function)
    call.ignore(("type", "index"))
    function.ignore(("parsed_arguments",))
    return {
        "id": call.text("id"),
        **openai_function(function.required_text("name"), arguments=arguments),
    }


def _tools(body: Fields, options: ServeOptions) -> OutputSpec:
    choice, named = read_choice(body)
    parallel = body.flag("parallel_tool_calls", True)
    where = "tool_choice.function.name"
    return tools_spec(_functions(body), options, choice, named, parallel, where)


def _functions(body: Fields) -> Iterator[tuple[dict[str, Any], bool]]:
    for tool in body.objects("tools"):
        if tool.required_text("type") != "function":
            raise invalid(tool.name("type"), "expected function")
        function = tool.required_inner("function")
        # OpenAI's newer API has strict next to the function.
        strict = any((function.flag("strict"), tool.flag("strict")))
        tool.ignore(("cache_control",))
        yield read_function(function, function.mapping("parameters") or NO_PARAMETERS), strict


def read_choice(body: Fields, *, flat: bool = False) -> tuple[Choice, str]:
    """Return the tool choice, and the name of a chosen tool (``flat``: not in ``function``)."""
    choice = body.get("tool_choice")
    mode: Choice = "auto"
    named = ""
    if isinstance(choice, str):
        body.one_of("tool_choice", ("auto", "none", "required"))
        mode = choice  # type: ignore[assignment]
    elif choice is not None:
        field = body.required_inner("tool_choice")
        if field.required_text("type") != "function":
            raise invalid(field.name("type"), "expected function")
        mode = "named"
        named = (field if flat else field.required_inner("function")).required_text("name")
    return mode, named


IGNORED_BY_COMPLETIONS = ("user", "metadata")
REFUSED_BY_COMPLETIONS = {"n": 1, "best_of": 1, "echo": False, "suffix": ""}


def read_completion(body: Fields, options: ServeOptions, vocab_size: int | None) -> ApiRequest:
    """Read a body of ``/v1/completions``: one prompt, as text or as token ids.

    Raises:
        ApiError: A field is missing, invalid, unknown or unsupported; the error names it.
    """
    body.refuse(REFUSED_BY_COMPLETIONS)
    body.ignore(IGNORED_BY_COMPLETIONS)
    top = body.get("logprobs")
    logprobs = top is not None and top is not False
    if logprobs:
        top = 0 if top is True else body.integer("logprobs", 0, 0, 5)
    sampling = sampling_of(body, options, vocab_size, "max_tokens")
    generation = Request(
        _prompt(body, vocab_size), sampling, top_logprobs=top if logprobs else None
    )
    stream, usage = body.flag("stream"), _include_usage(body)
    return ApiRequest(read_model(body), generation, stream, usage, prompt_field="prompt")


def _prompt(body: Fields, vocab_size: int | None) -> str | list[int]:
    prompt = body.required("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise body.wrong("prompt", "a string or a list of token ids")
    if any(isinstance(each, str | list) for each in prompt):
        raise invalid("prompt", "expected one prompt", "unsupported_parameter")
    for token in prompt:
        if not isinstance(token, int) or isinstance(token, bool):
            raise invalid("prompt", f"expected token ids, got {kind_of(token)} among them")
        if not 0 <= token < (vocab_size or 2**31):
            raise invalid("prompt", f"expected token ids from 0 to {(vocab_size or 2**31) - 1}")
    return prompt
