"""mlx-lm's samplers and logits processors, built from the sampling options."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import mlx.core as mx

from flash_moe.compat.mlx_lm import make_logits_processors, make_sampler
from flash_moe.options.sampling import SamplingParams

Sampler: TypeAlias = "Callable[[mx.array], mx.array]"
LogitsProcessor: TypeAlias = "Callable[[mx.array, mx.array], mx.array]"
Params = TypeVar("Params", bound=SamplingParams)


class RandomState:
    """Random state of one seeded answer; the thread's own state stays unchanged.

    MLX's state is one key of two words, and ``mx.random.seed(n)`` sets it to the words of n. So a
    key can be saved as a number and restored.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed % 2**64

    def sample(self, sampler: Sampler, logprobs: mx.array) -> mx.array:
        outside = _number(_key())
        mx.random.seed(self._state)
        try:
            token = sampler(logprobs)
            self._state = _number(_key())
        finally:
            mx.random.seed(outside)
        return token


def seeded(params: Params) -> Params:
    """Return the options with a random seed if they sample and have none.

    All ranks of a model then sample the same tokens.
    """
    if params.temperature == 0 or params.seed is not None:
        return params
    return replace(params, seed=secrets.randbits(32))


def _key() -> Any:
    state: Any = mx.random.state
    return state[0]


def _number(key: Any) -> int:
    high, low = key.tolist()
    return int(high) << 32 | int(low)


def sampler_of(params: SamplingParams, tokenizer: Any) -> Sampler:
    """Return a function from log probabilities ``[1, V]`` to the sampled token ``[1]``."""
    if params.temperature == 0:
        return make_sampler(temp=0.0)
    special = []
    if params.xtc_probability:
        newline = list(tokenizer.encode("\n", add_special_tokens=False))
        special = newline + list(tokenizer.eos_token_ids)

    @functools.cache
    def made(vocab_size: int) -> Sampler:
        return make_sampler(
            temp=params.temperature,
            top_p=params.top_p,
            min_p=params.min_p,
            # mlx-lm rejects a top_k of the vocabulary size or more.
            top_k=params.top_k if params.top_k < vocab_size else 0,
            xtc_probability=params.xtc_probability,
            xtc_threshold=params.xtc_threshold,
            xtc_special_tokens=special,
        )

    def sample(logprobs: mx.array) -> mx.array:
        key = _key()
        try:
            return made(logprobs.shape[-1])(logprobs)
        except BaseException:
            # mlx-lm's samplers are compiled with the random state. A sampler that raises while
            # it is traced leaves a placeholder there, and every later sampler fails on it.
            mx.random.seed(_number(key))
            raise

    if params.seed is None:
        return sample
    state = RandomState(params.seed)
    return lambda logprobs: state.sample(sample, logprobs)


def logits_processors_of(params: SamplingParams) -> list[LogitsProcessor]:
    """Return mlx-lm's logits processors for the biases and penalties that are set."""
    # mlx-lm applies a penalty of 1 too, which changes nothing and takes time.
    repetition = params.repetition_penalty
    return list(
        make_logits_processors(
            logit_bias=dict(params.logit_bias) or None,
            repetition_penalty=repetition if repetition not in (0, 1) else None,
            repetition_context_size=params.repetition_context_size,
            presence_penalty=params.presence_penalty or None,
            presence_context_size=params.presence_context_size,
            frequency_penalty=params.frequency_penalty or None,
            frequency_context_size=params.frequency_context_size,
        )
    )
