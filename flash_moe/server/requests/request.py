"""One type for the requests of both APIs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from flash_moe.options.declare import declared
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import bad
from flash_moe.server.requests.fields import Fields
from flash_moe.tools.calls import openai_function

Choice: TypeAlias = Literal["auto", "none", "required", "named"]


@dataclass(frozen=True)
class Tools:
    """The tools of a request.

    Attributes:
        given: In OpenAI's form, as the chat template is given them.
        choice: Whether calls may or must come.
        named: The one that must be called.
        strict: Names of those whose calls always fit their schemas.
        parallel: Whether there may be more than one call.
    """

    given: list[dict[str, Any]] = field(default_factory=list)
    choice: Choice = "auto"
    named: str = ""
    strict: frozenset[str] = frozenset()
    parallel: bool = True

    @property
    def shown(self) -> list[dict[str, Any]]:
        """Tools in the prompt: none where the model may not call."""
        return [] if self.choice == "none" else self.given

    @property
    def mode(self) -> str | dict[str, Any]:
        """The choice, as :class:`flash_moe.generation.output_spec.OutputSpec` takes it."""
        if self.choice == "named":  # a name alone could be "auto"
            return openai_function(self.named)
        return self.choice


@dataclass
class GenerationRequest:
    """A request to generate, validated.

    Attributes:
        model: As the client names it.
        prompt: Text or token ids; ``None`` for a chat.
        messages: In OpenAI's form, with texts for contents.
        response_format: In OpenAI's form.
        format_field: How the request names it.
        logprobs: Whether each token comes with its logarithm of probability, and
        top_logprobs: with those of how many of the likeliest.
        usage: Whether a streamed answer ends with its number of tokens.
    """

    model: str
    sampling: SamplingParams
    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: Tools = field(default_factory=Tools)
    response_format: dict[str, Any] | None = None
    format_field: str = "response_format"
    stream: bool = False
    usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    template_args: dict[str, Any] = field(default_factory=dict)


# Sampling options that a request spells in the API's own way.
_OWN_SPELLING = ("max_tokens", "max_thinking_tokens", "seed", "stop", "logit_bias")
NUMBERS = tuple(name for name in declared(SamplingParams) if name not in _OWN_SPELLING)


def read_sampling(
    body: Fields,
    options: ServeOptions,
    *,
    top_temperature: float,
    numbers: Collection[str] = NUMBERS,
    **others: Any,
) -> SamplingParams:
    """Read sampling options: those that the request leaves out are the server's.

    Args:
        top_temperature: The API's own limit.
        numbers: Names of the numbers that the API has.
        others: Options that were read already.
    """
    found: dict[str, Any] = {}
    for name in numbers:
        each, default = declared(SamplingParams)[name], getattr(options.sampling, name)
        top = top_temperature if name == "temperature" else each.option.maximum
        read = body.integer if each.kind is int else body.number
        found[name] = read(name, default, each.option.minimum or 0, top)  # type: ignore[arg-type]
    return replace(options.sampling, **found, **others)


def read_logit_bias(body: Fields, vocab_size: int | None) -> dict[int, float]:
    """Read biases. Ids must be below ``vocab_size``; MLX would write elsewhere."""
    found = body.mapping("logit_bias")
    if not found:
        return {}
    biases = Fields(found, "logit_bias")
    bias: dict[int, float] = {}
    for key in found:
        name = key.strip()
        below = vocab_size or 2**31
        if not (name.isascii() and name.isdigit() and len(name) < 12 and int(name) < below):
            expected = f"token ids from 0 to {below - 1}"
            raise biases.wrong(
                key[:40], f"{expected} as names, and numbers as values; for {key!r:.40}"
            )
        bias[int(name)] = biases.number(key, 0, -100, 100)
    return bias


def read_function(fields: Fields, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Read name and description of a tool. Returns it in OpenAI's form."""
    name = fields.required_text("name")
    if not 1 <= len(name) <= 128:
        raise bad(fields.name("name"), "expected 1 to 128 characters")
    text = fields.text("description")
    described = {"description": text} if text else {}
    return openai_function(name, **described, parameters=parameters)


def read_model(body: Fields) -> str:
    return body.text("model") or "default_model"
