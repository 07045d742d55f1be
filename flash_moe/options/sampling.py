"""Sampling options, and limits of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_moe.options.declare import check, option


def _context_size(kind: str) -> Any:
    text = f"recent tokens that the {kind} penalty counts"
    flag = f"--{kind}-context-size"
    return option(20, text, flag, unit="tokens", minimum=0, maximum=100_000)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling options, and limits of an answer. Definitions and names are mlx-lm's.

    Raises:
        ConfigError: A value is out of range.
    """

    max_tokens: int = option(
        4096,
        "maximum tokens of an answer, within the model's context",
        "--max-tokens",
        "-n",
        unit="tokens",
        minimum=1,
    )
    max_thinking_tokens: int | None = option(
        None,
        "maximum reasoning tokens before the model must answer",
        "--max-thinking-tokens",
        unit="tokens",
        minimum=0,
        metavar="N",
        default="no limit",
    )
    temperature: float = option(
        0.0,
        "sampling temperature; 0 always takes the most likely token",
        "--temperature",
        "--temp",
        minimum=0,
    )
    top_p: float = option(
        1.0,
        "sample from the most likely tokens that together have this probability; 1 (or 0): all",
        "--top-p",
        minimum=0,
        maximum=1,
    )
    top_k: int = option(
        0, "sample from this many of the most likely tokens; 0: all", "--top-k", minimum=0
    )
    min_p: float = option(
        0.0,
        "drop tokens less likely than this share of the most likely one",
        "--min-p",
        minimum=0,
        maximum=1,
    )
    xtc_probability: float = option(
        0.0,
        "probability per token of dropping all candidates except the least likely one (XTC)",
        "--xtc-probability",
        minimum=0,
        maximum=1,
    )
    xtc_threshold: float = option(
        0.1,
        "minimum probability of an XTC candidate",
        "--xtc-threshold",
        minimum=0,
        maximum=0.5,
    )
    repetition_penalty: float = option(
        1.0,
        "divide the logits of recent tokens by this; 1 (or 0): off",
        "--repetition-penalty",
        minimum=0,
    )
    repetition_context_size: int = _context_size("repetition")
    presence_penalty: float = option(
        0.0,
        "subtract this from the logits of tokens that occur among the recent ones",
        "--presence-penalty",
        minimum=-2,
        maximum=2,
    )
    presence_context_size: int = _context_size("presence")
    frequency_penalty: float = option(
        0.0,
        "subtract this from the logits of recent tokens, once per occurrence",
        "--frequency-penalty",
        minimum=-2,
        maximum=2,
    )
    frequency_context_size: int = _context_size("frequency")
    logit_bias: Mapping[int, float] = option({}, "token ids and what is added to their logits")
    seed: int | None = option(
        None,
        "seed of the answer's own random state; the same seed samples the same tokens",
        "--seed",
        default="a random one",
    )
    stop: str | Sequence[str] = option(
        (),
        "text that ends the answer and is not part of it; several may be given",
        "--stop",
        metavar="TEXT",
    )

    def __post_init__(self) -> None:
        check(self, "sampling")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
