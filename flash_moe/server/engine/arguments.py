"""How an answer is sampled: mlx-lm's arguments, and what is added to them.

mlx-lm's server makes sampler and logits processors of a request in two functions of its module,
and offers no other place. ``install()`` puts ours there. Requests that are not ours go through
mlx-lm's as before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import server_module
from flash_moe.errors import GrammarError
from flash_moe.generation.sampling import LogitsProcessor, Sampler, sampler_of
from flash_moe.generation.thinking_limit import ThinkingLimit
from flash_moe.grammar import Constraint, Processor
from flash_moe.options.sampling import SamplingParams

_mlx = server_module()


@dataclass
class Arguments(_mlx.GenerationArguments):  # type: ignore[misc, name-defined]
    """Of one request.

    Attributes:
        constraint: What the answer is held to.
        limit: Of its thoughts.
        params: Sampling options. Their seed is not mlx-lm's: mlx-lm would seed the state that all
            requests share, and answer such a request alone.
        tokenized: What ``_tokenize`` gave, so that the thread of generation has it at once.
        failed: Where an error of the constraint goes.
    """

    constraint: Constraint | None = None
    limit: ThinkingLimit | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    tokenized: Any = None
    failed: Callable[[Exception], None] | None = None

    def sampler(self, tokenizer: Any) -> Sampler:
        return sampler_of(self.params, tokenizer)

    def processor(self) -> LogitsProcessor:
        """Always one: mlx-lm 0.31 mixes up the processors of a batch where some have none."""
        made: list[LogitsProcessor] = [] if self.limit is None else [self.limit]
        if self.constraint is not None:
            made.append(_Contained(self.constraint.processor(), self.failed))
        return functools.partial(_one_after_the_other, made)


def _one_after_the_other(
    processors: Sequence[LogitsProcessor], tokens: mx.array, logits: mx.array
) -> mx.array:
    for processor in processors:
        logits = processor(tokens, logits)
    return logits


class _Contained:
    """A constraint's processor whose errors end its own answer, not all that are generated."""

    def __init__(self, processor: Processor, failed: Callable[[Exception], None] | None) -> None:
        self._processor = processor
        self._failed = failed
        self._over = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._over:
            return logits
        try:
            return self._processor(tokens, logits)
        except GrammarError as error:
            self._over = True
            if self._failed is not None:
                self._failed(error)
            return logits


def install() -> None:
    """Have mlx-lm's server ask our arguments for sampler and processors. May be called again."""
    if hasattr(_mlx._make_sampler, "__wrapped__"):
        return
    samplers, processors = _mlx._make_sampler, _mlx._make_logits_processors

    @functools.wraps(samplers)
    def sampler_of(args: Any, tokenizer: Any) -> Any:
        return args.sampler(tokenizer) if isinstance(args, Arguments) else samplers(args, tokenizer)

    @functools.wraps(processors)
    def processors_of(args: Any) -> Any:
        made = processors(args)
        return [*made, args.processor()] if isinstance(args, Arguments) else made

    _mlx._make_sampler, _mlx._make_logits_processors = sampler_of, processors_of
