"""Validated request, common to all APIs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from flash_moe.generation.output_spec import OutputSpec
from flash_moe.generation.prepare import Request
from flash_moe.options.declare import declared
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import invalid
from flash_moe.server.requests.fields import Fields
from flash_moe.tools.calls import openai_function

Choice: TypeAlias = Literal["auto", "none", "required", "named"]


@dataclass(frozen=True)
class ApiRequest:
    """Validated request of any API.

    Attributes:
        model: Model name that the client sent.
        generation: The generation that it requests.
        prompt_field, format_field: Names of the fields of the prompt and of the output format in
            the request, for errors.
        include_usage: True if a streamed answer ends with its token usage.
        echo: Fields of the request that the response repeats.
    """

    model: str
    generation: Request
    stream: bool = False
    include_usage: bool = False
    prompt_field: str = "messages"
    format_field: str = "response_format"
    echo: Mapping[str, Any] = field(default_factory=dict)


IGNORED_OF_PARTS = (
    *("cache_control", "prompt_cache_breakpoint", "annotations", "logprobs", "parsed"),
    *("citations", "caller", "toolset_name", "signature"),
)
# Sampling options with their own fields in each API.
_API_SPECIFIC = ("max_tokens", "max_thinking_tokens", "seed", "stop", "logit_bias")
NUMBERS = tuple(name for name in declared(SamplingParams) if name not in _API_SPECIFIC)


def read_sampling(
    body: Fields,
    options: ServeOptions,
    *,
    max_temperature: float,
    numbers: Collection[str] = NUMBERS,
    **others: Any,
) -> SamplingParams:
    """Read sampling options; the server's options are the defaults.

    Args:
        max_temperature: Limit of the API.
        numbers: Names of the numeric options that the API has.
        others: Options that the caller has read.
    """
    values: dict[str, Any] = {}
    for name in numbers:
        each, default = declared(SamplingParams)[name], getattr(options.sampling, name)
        top = max_temperature if name == "temperature" else each.option.maximum
        read = body.integer if each.kind is int else body.number
        values[name] = read(name, default, each.option.minimum or 0, top)  # type: ignore[arg-type]
    return replace(options.sampling, **values, **others)


# Reasoning tokens for each effort; None leaves the end to the model.
EFFORTS = {
    "minimal": 128,
    "low": 1024,
    "medium": 4096,
    **dict.fromkeys(("high", "xhigh", "max")),
}


def read_effort(fields: Fields, field: str, limit: int | None) -> int | None:
    """Read a word for the effort of reasoning and return the maximum of reasoning tokens.

    Args:
        limit: Maximum of the server.
    """
    budget = EFFORTS[fields.one_of(field, tuple(EFFORTS))]
    return min((n for n in (budget, limit) if n is not None), default=None)


def read_logit_bias(body: Fields, vocab_size: int | None) -> dict[int, float]:
    """Read biases. Ids must be below ``vocab_size``: MLX would write out of bounds."""
    mapping = body.mapping("logit_bias")
    if not mapping:
        return {}
    biases = Fields(mapping, "logit_bias")
    bias: dict[int, float] = {}
    for key in mapping:
        name = key.strip()
        below = vocab_size or 2**31
        if not (name.isascii() and name.isdigit() and len(name) < 12 and int(name) < below):
            expected = f"token ids from 0 to {below - 1}"
            raise biases.wrong(
                key[:40], f"{expected} as names, and numbers as values; for {key!r:.40}"
            )
        bias[int(name)] = biases.number(key, 0, -100, 100)
    return bias


def read_content(
    message: Fields,
    field: str,
    kinds: Collection[str],
    *,
    omitted: Collection[str] = (),
    sep: str = "",
) -> str:
    """Return the text of a message, or the texts of its parts; "" if it is missing.

    Args:
        kinds: Types of parts that the message can have.
        omitted: Types of parts to replace with a note for the model.
    """
    content = message.get(field)
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise message.wrong(field, "a text or a list of parts")
    texts = []
    for part in message.objects(field):
        kind = part.required_text("type")
        if kind in omitted:
            part.ignore()
            texts.append(f"[{kind} omitted: this model reads only text]")
            continue
        if kind not in kinds:
            raise invalid(part.name("type"), f"expected {' or '.join(kinds)}, got {kind!r:.80}")
        part.ignore(IGNORED_OF_PARTS)
        texts.append(part.required_text("refusal" if kind == "refusal" else "text"))
    return sep.join(texts)


def read_function(fields: Fields, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Read name and description of a tool and return it in OpenAI's format."""
    name = fields.required_text("name")
    if not 1 <= len(name) <= 128:
        raise invalid(fields.name("name"), "expected 1 to 128 characters")
    text = fields.text("description")
    described = {"description": text} if text else {}
    return openai_function(name, **described, parameters=parameters)


def tools_spec(
    functions: Iterable[tuple[dict[str, Any], bool]],
    options: ServeOptions,
    choice: Choice,
    named: str,
    parallel: bool,
    where: str,
) -> OutputSpec:
    """Check the tool choice, and return the tools as an output spec.

    Args:
        functions: Tools in OpenAI's format; true if calls are constrained to the schema.
        named: Name of the tool that must be called, for the choice ``"named"``.
        where: Field with that name, for errors.
    """
    tools = [(tool, tool["function"]["name"], strict) for tool, strict in functions]
    names = [name for _, name, _ in tools]
    if choice == "named" and named not in names:
        raise invalid(where, f"there is no tool {named!r:.80}")
    if choice == "required" and not names:
        raise invalid("tool_choice", "expected tools to choose from")
    if choice == "none":
        return OutputSpec()
    # A plain name could be "auto".
    chosen = openai_function(named) if choice == "named" else choice
    strict_names = frozenset(name for _, name, strict in tools if strict or options.strict_tools)
    return OutputSpec([tool for tool, _, _ in tools], chosen, strict_names, parallel=parallel)


def read_model(body: Fields) -> str:
    return body.text("model") or "default_model"
