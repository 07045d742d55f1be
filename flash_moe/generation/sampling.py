"""Samplers and logits processors of one answer, made by mlx-lm from our sampling options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mlx.core as mx

from flash_moe.compat.mlx_lm import make_logits_processors, make_sampler
from flash_moe.options.sampling import SamplingParams

Sampler: TypeAlias = "Callable[[mx.array], mx.array]"
LogitsProcessor: TypeAlias = "Callable[[mx.array, mx.array], mx.array]"


class RandomState:
    """Random state of one seeded answer; that of the thread stays as it was.

    MLX's state is one key of two words, and ``mx.random.seed(n)`` sets it to the words of n. So a
    key can be kept as a number and put back.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed % 2**64

    def sample(self, sampler: Sampler, logprobs: mx.array) -> mx.array:
        outside = self._current()
        mx.random.seed(self._state)
        try:
            token = sampler(logprobs)
            self._state = self._current()
        finally:
            mx.random.seed(outside)
        return token

    @staticmethod
    def _current() -> int:
        state: Any = mx.random.state
        high, low = state[0].tolist()
        return int(high) << 32 | int(low)


def sampler_of(params: SamplingParams, tokenizer: Any) -> Sampler:
    """Return a function from log probabilities ``[1, V]`` to the sampled token ``[1]``."""
    special = []
    if params.xtc_probability:
        newline = list(tokenizer.encode("\n", add_special_tokens=False))
        special = newline + list(tokenizer.eos_token_ids)
    plain = make_sampler(
        temp=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        top_k=params.top_k,
        xtc_probability=params.xtc_probability,
        xtc_threshold=params.xtc_threshold,
        xtc_special_tokens=special,
    )
    if params.seed is None or params.temperature == 0:
        return plain
    state = RandomState(params.seed)
    return lambda logprobs: state.sample(plain, logprobs)


def penalties_of(params: SamplingParams) -> dict[str, Any]:
    """Return the biases and penalties as mlx-lm takes them, for ``make_logits_processors``."""
    # mlx-lm processes with a penalty of 1 too, which changes nothing and takes time.
    repetition = params.repetition_penalty
    return {
        "logit_bias": dict(params.logit_bias) or None,
        "repetition_penalty": repetition if repetition not in (0, 1) else None,
        "repetition_context_size": params.repetition_context_size,
        "presence_penalty": params.presence_penalty or None,
        "presence_context_size": params.presence_context_size,
        "frequency_penalty": params.frequency_penalty or None,
        "frequency_context_size": params.frequency_context_size,
    }


def logits_processors_of(params: SamplingParams) -> list[LogitsProcessor]:
    """Return mlx-lm's logits processors for the biases and penalties that are set."""
    return list(make_logits_processors(**penalties_of(params)))
