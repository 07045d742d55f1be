"""One generation in the caller's thread.

mlx-lm supplies the prompt cache, the samplers and the chat template. The loop is ours because
mlx-lm's computes token n+1 before it yields token n. With experts read from disk inside the
forward pass, each token would arrive one pass late, and the last pass would be wasted.
``engine.py`` batches concurrent generations.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import (
    generation_stream,
    make_prompt_cache,
    wired_limit,
)
from flash_moe.errors import ConfigError
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.output_spec import OutputSpec, output_spec, thinking_state
from flash_moe.generation.prompt import Prompt, check_length, encode_prompt
from flash_moe.generation.result import Chunk, Generation, GenerationStats
from flash_moe.generation.sampling import (
    LogitsProcessor,
    Sampler,
    logits_processors_of,
    sampler_of,
    seeded,
)
from flash_moe.generation.steps import AnswerText, next_token, prefill
from flash_moe.generation.thinking_limit import thinking_limit
from flash_moe.model.streamed import StreamedModel


def token_ids(
    model: StreamedModel,
    prompt: Sequence[int],
    *,
    prompt_cache: list[Any],
    sampler: Sampler,
    logits_processors: Sequence[LogitsProcessor] = (),
    prefill_step: int | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
) -> Iterator[int]:
    """Yield tokens endlessly, each before the next forward pass.

    As in mlx-lm, the prompt is processed in chunks, then its last token alone.

    Args:
        prefill_step: ``step`` of :func:`flash_moe.generation.steps.prefill`.
    """
    seen: list[int] = []
    total = len(prompt)
    report = on_prefill or (lambda done, total: None)
    report(0, total)
    for progress in prefill(model, prompt[:-1], prompt_cache, step=prefill_step):
        report(progress.n_tokens, total)
    seen.extend(prompt[:-1])
    new = prompt[-1:]
    for n in itertools.count(1):
        token, _ = next_token(model, new, prompt_cache, seen, sampler, logits_processors)
        if n == 1:
            report(total, total)
        yield token
        new = [token]
        if n % 256 == 0:
            mx.clear_cache()


def stream(
    model: StreamedModel, tokenizer: Any, prompt: Prompt, options: GenerationOptions
) -> Iterator[Chunk]:
    """Generate and yield chunks. The call checks the arguments, before the first chunk.

    Args:
        prompt: Text (used as it is), chat messages, or token ids.

    Raises:
        PromptError: The prompt is empty or too long.
        ConfigError: An option is invalid.
        GrammarError: The requested schema cannot be enforced with this model's tokenizer.
        ReadError, ChecksumError: While iterating; the model stays usable.
    """
    return _begin(model, tokenizer, prompt, options)[1]


def generate(
    model: StreamedModel, tokenizer: Any, prompt: Prompt, options: GenerationOptions
) -> Generation:
    """Generate a whole answer. Arguments and errors as for :func:`stream`."""
    spec, chunks = _begin(model, tokenizer, prompt, options)
    text, ids = [], []
    for chunk in chunks:
        text.append(chunk.text)
        ids.append(chunk.token)
    assert chunk.finish_reason is not None
    assert chunk.stats is not None
    whole = "".join(text)
    calls = spec.calls(tokenizer, whole)
    return Generation(whole, tuple(ids), chunk.finish_reason, chunk.stats, calls)


def _begin(
    model: StreamedModel, tokenizer: Any, prompt: Prompt, options: GenerationOptions
) -> tuple[OutputSpec, Iterator[Chunk]]:
    """Check prompt and options; return the output spec and the chunks of the answer."""
    spec = output_spec(options.tools, options.tool_choice, options.strict, options.response_format)
    if model.ranks is not None:
        seed = model.ranks.share(seeded(options).seed)
        options = replace(options, seed=seed)
    template_args = dict(options.template_args)
    if spec.schemas:
        if isinstance(prompt, str):
            raise ConfigError("generate", "tools: expected messages as the prompt, got text")
        template_args["tools"] = list(spec.schemas)
    ids = encode_prompt(tokenizer, prompt, template_args, model.config.vocab_size)
    given = options.prompt_cache
    cache = make_prompt_cache(model) if given is None else list(given)
    room = check_length(model.config.max_context, len(ids), cache, options.max_tokens)
    processors = logits_processors_of(options) + list(options.logits_processors)
    limit = thinking_limit(tokenizer, ids, options.max_thinking_tokens)
    if limit is not None:
        processors.append(limit)
    constraint = spec.constraint(tokenizer, *thinking_state(tokenizer, ids))
    if constraint is not None:
        processors.append(constraint.processor())
    tokens = token_ids(
        model,
        ids,
        prompt_cache=cache,
        sampler=sampler_of(options, tokenizer),
        logits_processors=processors,
        prefill_step=options.prefill_step,
        on_prefill=options.on_prefill,
    )
    text = AnswerText(tokenizer, room, options.stops)
    return spec, _chunks(model, tokens, text, len(ids))


def _chunks(
    model: StreamedModel, tokens: Iterator[int], text: AnswerText, n_prompt: int
) -> Iterator[Chunk]:
    """Yield the chunks of the answer's tokens, up to its end."""
    before = model.stats
    started = first = time.perf_counter()
    with wired_limit(model, [generation_stream]):
        for n, token in enumerate(tokens, start=1):
            if n == 1:
                first = time.perf_counter()
            piece = text.feed(token)
            if text.finish_reason is None:
                yield Chunk(piece, token)
                continue
            now = time.perf_counter()
            stats = GenerationStats(n_prompt, n, first - started, now - first, model.stats - before)
            yield Chunk(piece, token, text.finish_reason, stats)
            return
