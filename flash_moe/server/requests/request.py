"""What a request asks for, whatever API it came by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.fields import Fields

Choice: TypeAlias = Literal["auto", "none", "required", "named"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Penalties as mlx-lm has them."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    repetition_penalty: float = 0.0
    repetition_context_size: int = 20
    presence_penalty: float = 0.0
    presence_context_size: int = 20
    frequency_penalty: float = 0.0
    frequency_context_size: int = 20


@dataclass(frozen=True)
class Tools:
    """The tools of a request.

    Attributes:
        given: In OpenAI's form, as the chat template is given them.
        choice: Whether calls may or must come.
        named: The one that must be called.
        strict: Names of those whose calls are held to their schemas wherever they come.
        parallel: Whether there may be more than one call.
    """

    given: list[dict[str, Any]] = field(default_factory=list)
    choice: Choice = "auto"
    named: str = ""
    strict: frozenset[str] = frozenset()
    parallel: bool = True

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What the model is told of: nothing where it may not call."""
        return [] if self.choice == "none" else self.given

    @property
    def mode(self) -> str | dict[str, Any]:
        """The choice, as :class:`flash_moe.generation.output_spec.ReplyForm` takes it."""
        if self.choice == "named":  # a name alone could be "auto"
            return {"type": "function", "function": {"name": self.named}}
        return self.choice


@dataclass
class Asked:
    """One request.

    Attributes:
        model: As the client names it.
        prompt: Text or token ids; ``None`` for a chat.
        messages: In OpenAI's form, with texts for contents.
        response_format: In OpenAI's form.
        format_field: How the request names it.
        max_tokens: Most tokens of the answer, and
        max_thinking_tokens: of its thoughts; ``None``: as many.
        stops: Texts that end the answer and are not part of it.
        logprobs: Whether each token comes with its logarithm of probability, and
        top_logprobs: with those of how many of the likeliest.
        usage: Whether a streamed answer ends with its number of tokens.
    """

    model: str
    max_tokens: int
    sampling: Sampling
    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: Tools = field(default_factory=Tools)
    response_format: dict[str, Any] | None = None
    format_field: str = "response_format"
    stops: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    max_thinking_tokens: int | None = None
    template_args: dict[str, Any] = field(default_factory=dict)


def read_sampling(
    body: Fields, options: ServeOptions, *, top_temperature: float, vocab_size: int | None
) -> Sampling:
    """The sampling fields of OpenAI's API and mlx-lm's own.

    Args:
        vocab_size: Ids of ``logit_bias`` must be below it; MLX would write elsewhere.
    """
    return Sampling(
        temperature=body.number("temperature", options.temperature, 0, top_temperature),
        top_p=body.number("top_p", options.top_p, 0, 1),
        top_k=body.integer("top_k", options.top_k, 0),
        min_p=body.number("min_p", options.min_p, 0, 1),
        xtc_probability=body.number("xtc_probability", 0, 0, 1),
        xtc_threshold=body.number("xtc_threshold", 0.1, 0, 0.5),
        seed=None if body.get("seed") is None else body.integer("seed", 0, -(2**63) + 1) % 2**64,
        logit_bias=_logit_bias(body, vocab_size),
        repetition_penalty=body.number("repetition_penalty", 0, 0),
        repetition_context_size=body.integer("repetition_context_size", 20, 0, 100_000),
        presence_penalty=body.number("presence_penalty", 0, -2, 2),
        presence_context_size=body.integer("presence_context_size", 20, 0, 100_000),
        frequency_penalty=body.number("frequency_penalty", 0, -2, 2),
        frequency_context_size=body.integer("frequency_context_size", 20, 0, 100_000),
    )


def _logit_bias(body: Fields, vocab_size: int | None) -> dict[int, float] | None:
    found = body.mapping("logit_bias")
    if not found:
        return None
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


def read_model(body: Fields) -> str:
    return body.text("model", "default_model") or "default_model"
