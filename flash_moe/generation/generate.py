"""Text in, text out: the generation loop, its pieces and its result.

mlx-lm supplies the prompt cache, the samplers, the detokenizer and the chat template. The loop is
ours for one reason: mlx-lm's computes token n+1 before it hands out token n. With experts read
from disk inside the forward pass, each token would be shown one pass late, and one pass at the
end would be thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import (
    generation_stream,
    make_prompt_cache,
    wired_limit,
)
from flash_moe.errors import ConfigError
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.output_spec import ReplyForm, reply_form, thoughts_before
from flash_moe.generation.prompt import Prompt, check_length, encode_prompt
from flash_moe.generation.result import Chunk, Generation, GenerationStats
from flash_moe.generation.sampling import LogitsProcessor, Sampler, logits_processors_of, sampler_of
from flash_moe.generation.stop import StopText
from flash_moe.generation.thinking_limit import thinking_limit
from flash_moe.memory.system import release_free_memory
from flash_moe.model.streamed import StreamedModel


def token_ids(
    model: StreamedModel,
    prompt: Sequence[int],
    *,
    prompt_cache: Sequence[Any],
    sampler: Sampler,
    logits_processors: Sequence[LogitsProcessor] = (),
    prefill_step: int | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
) -> Iterator[int]:
    """Yield tokens without end, each as soon as it exists; the next pass runs on the next request.

    The prompt is processed as mlx-lm does it: chunks, then the last token alone.

    Args:
        prefill_step: Tokens of a chunk. Chosen from the prompt and from memory, if not given
            (``prefill.py``): each chunk reads nearly all experts that the bank cannot hold.
    """
    seen: list[int] = []
    report = on_prefill or (lambda done, total: None)

    def step(ids: Sequence[int]) -> int:
        with mx.stream(generation_stream):
            logits = model(mx.array([ids]), cache=prompt_cache)[:, -1, :]
            seen.extend(ids)
            for processor in logits_processors:
                logits = processor(mx.array(seen), logits)
            logprobs = logits - mx.logsumexp(logits, keepdims=True)
            return int(sampler(logprobs).item())  # type: ignore[arg-type]

    done, last = 0, len(prompt) - 1
    report(done, len(prompt))
    if prefill_step is None:
        sizes = model.chunks_of(last, prompt_cache)
    else:
        sizes = [prefill_step] * -(-last // prefill_step)
    for size in sizes:
        chunk = list(prompt[done : min(done + size, last)])
        with mx.stream(generation_stream):
            model(mx.array([chunk]), cache=prompt_cache)
            mx.eval([c.state for c in prompt_cache])
        mx.clear_cache()
        release_free_memory()
        seen.extend(chunk)
        done += len(chunk)
        report(done, len(prompt))
    token = step(prompt[last:])
    report(len(prompt), len(prompt))
    n = 0
    while True:
        yield token
        n += 1
        if n % 256 == 0:
            mx.clear_cache()
        token = step([token])


def stream(
    model: StreamedModel, tokenizer: Any, prompt: Prompt, options: GenerationOptions
) -> Iterator[Chunk]:
    """Generate, piece by piece. The arguments are checked at the call, not at the first piece.

    Args:
        prompt: Text (used as it is), chat messages, or token ids.

    Raises:
        PromptError: The prompt is empty or too long.
        ConfigError: A bad option.
        GrammarError: The requested schema, or this model's tokenizer, cannot be enforced.
        ReadError, ChecksumError: While iterating; the model stays usable.
    """
    return _begin(model, tokenizer, prompt, options)[1]


def generate(
    model: StreamedModel, tokenizer: Any, prompt: Prompt, options: GenerationOptions
) -> Generation:
    """Generate a whole answer. Arguments and errors as for :func:`stream`."""
    form, chunks = _begin(model, tokenizer, prompt, options)
    text, ids = [], []
    for chunk in chunks:
        text.append(chunk.text)
        ids.append(chunk.token)
    assert chunk.finish_reason is not None
    assert chunk.stats is not None
    whole = "".join(text)
    calls = form.calls(tokenizer, whole)
    return Generation(whole, tuple(ids), chunk.finish_reason, chunk.stats, calls)


def _begin(
    model: StreamedModel, tokenizer: Any, prompt: Prompt, options: GenerationOptions
) -> tuple[ReplyForm, Iterator[Chunk]]:
    """Check everything, and return what the answer may be and its pieces."""
    form = reply_form(options.tools, options.tool_choice, options.strict, options.response_format)
    template_args = dict(options.template_args)
    if form.schemas:
        if isinstance(prompt, str):
            raise ConfigError("generate", "tools: expected messages as the prompt, got text")
        template_args["tools"] = list(form.schemas)
    ids = encode_prompt(tokenizer, prompt, template_args, model.config.vocab_size)
    cache = make_prompt_cache(model) if options.prompt_cache is None else options.prompt_cache
    room = check_length(model.config.max_context, len(ids), cache, options.max_tokens)
    processors = logits_processors_of(options) + list(options.logits_processors)
    limit = thinking_limit(tokenizer, ids, options.max_thinking_tokens)
    if limit is not None:
        processors.append(limit)
    constraint = form.constraint(tokenizer, *thoughts_before(tokenizer, ids))
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
    return form, _chunks(model, tokenizer, tokens, len(ids), room, StopText(options.stops))


def _chunks(
    model: StreamedModel,
    tokenizer: Any,
    tokens: Iterator[int],
    n_prompt: int,
    max_tokens: int,
    stop: StopText,
) -> Iterator[Chunk]:
    """Turn tokens into text and end where the answer ends."""
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    before = model.stats
    started = first = time.perf_counter()
    with wired_limit(model, [generation_stream]):
        for n, token in enumerate(tokens, start=1):
            if n == 1:
                first = time.perf_counter()
            ended = token in tokenizer.eos_token_ids
            if not ended:
                detokenizer.add_token(token)
            reason = "stop" if ended else "length" if n == max_tokens else None
            if reason:
                detokenizer.finalize()
            text = stop.feed(detokenizer.last_segment, last=reason is not None)
            if stop.found:
                reason = "stop"
            if reason is None:
                yield Chunk(text, token)
                continue
            now = time.perf_counter()
            stats = GenerationStats(n_prompt, n, first - started, now - first, model.stats - before)
            yield Chunk(text, token, reason, stats)
            return
