"""Text in, text out: the generation loop, its pieces and its result.

mlx-lm supplies the prompt cache, the samplers, the detokenizer and the chat template. The loop is
ours for one reason: mlx-lm's computes token n+1 before it hands out token n. With experts read
from disk inside the forward pass, each token would be shown one pass late, and one pass at the
end would be thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import (
    generation_stream,
    make_logits_processors,
    make_prompt_cache,
    make_sampler,
    wired_limit,
)
from flash_moe.errors import ConfigError
from flash_moe.generation.output_spec import AnyTool, reply_form, thoughts_before
from flash_moe.generation.prompt import Prompt, check_length, encode_prompt
from flash_moe.generation.result import Chunk, Generation, GenerationStats
from flash_moe.generation.stop import StopText
from flash_moe.generation.thinking_limit import thinking_limit
from flash_moe.memory.system import release_free_memory
from flash_moe.model.streamed import StreamedModel

# What of the options makes the form of a reply, and its defaults.
_FORM: dict[str, Any] = {"tools": (), "tool_choice": "auto", "strict": False}
_FORM["response_format"] = None


class RandomState:
    """A random state of its own for a seeded generation; that of the thread stays as it was.

    MLX's state is one key of two words, and ``mx.random.seed(n)`` sets it to the words of n. So a
    key can be kept as a number and put back.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed

    def sample(self, sampler: Callable[[mx.array], mx.array], logprobs: mx.array) -> mx.array:
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


def token_ids(
    model: StreamedModel,
    prompt: Sequence[int],
    *,
    prompt_cache: Sequence[Any],
    sampler: Callable[[mx.array], mx.array],
    logits_processors: Sequence[Callable[[mx.array, mx.array], mx.array]] = (),
    seed: int | None = None,
    prefill_step: int | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
) -> Iterator[int]:
    """Yield tokens without end, each as soon as it exists; the next pass runs on the next request.

    The prompt is processed as mlx-lm does it: chunks, then the last token alone.

    Args:
        prefill_step: Tokens of a chunk. Chosen from the prompt and from memory, if not given
            (``prefill.py``): each chunk reads nearly all experts that the bank cannot hold.
    """
    random = None if seed is None else RandomState(seed)
    seen: list[int] = []
    report = on_prefill or (lambda done, total: None)

    def step(ids: Sequence[int]) -> int:
        with mx.stream(generation_stream):
            logits = model(mx.array([ids]), cache=prompt_cache)[:, -1, :]
            seen.extend(ids)
            for processor in logits_processors:
                logits = processor(mx.array(seen), logits)
            logprobs = logits - mx.logsumexp(logits, keepdims=True)
            token = sampler(logprobs) if random is None else random.sample(sampler, logprobs)
            return int(token.item())  # type: ignore[arg-type]

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
    model: StreamedModel,
    tokenizer: Any,
    prompt: Prompt,
    *,
    max_tokens: int = 256,
    max_thinking_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 0.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float | None = None,
    repetition_context: int = 20,
    logit_bias: Mapping[int, float] | None = None,
    logits_processors: Sequence[Callable[[mx.array, mx.array], mx.array]] | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    prompt_cache: Sequence[Any] | None = None,
    prefill_step: int | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
    template_args: Mapping[str, Any] | None = None,
    tools: Sequence[AnyTool] = (),
    tool_choice: str = "auto",
    strict: bool = False,
    response_format: Mapping[str, Any] | None = None,
) -> Iterator[Chunk]:
    """Generate, piece by piece. The arguments are checked at the call, not at the first piece.

    Args:
        prompt: Text (used as it is), chat messages, or token ids.
        max_tokens: Most tokens to make; fewer if the context ends.
        max_thinking_tokens: Most of them that the model may think; then its thought is closed,
            and it answers. No limit of its own by default.
        temperature: 0 takes the likeliest token, as in mlx-lm.
        top_k: Sample from the likeliest tokens only; not the experts of a token.
        logits_processors: More of mlx-lm's ``(tokens, logits) -> logits``.
        seed: Makes sampling repeatable, without touching ``mx.random``'s global state.
        stop: Texts that end the answer and are not part of it.
        prompt_cache: Continue from it; it is updated in place. Make one with mlx-lm's
            ``make_prompt_cache(model)``.
        prefill_step: Tokens of a prompt that are processed at once. Default: as many as memory
            allows, 64 to 8192, or 2048 where all experts fit in the bank.
        on_prefill: Called with prompt tokens done and in all.
        template_args: Passed to the chat template.
        tools: Functions with type hints, :class:`flash_moe.tools.Tool`, or schemas in OpenAI's
            form, which the chat template shows the model. Nothing is run: ``Generation.calls``
            has what it asks for; :class:`flash_moe.tools.Conversation` runs calls.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` (the answer is calls), or the name of
            the tool that must be called.
        strict: Hold calls to the schemas of the tools (``docs/constrained.md``).
        response_format: Hold the answer to JSON, in OpenAI's form: ``{"type": "json_object"}`` or
            ``{"type": "json_schema", "json_schema": {"schema": ...}}``. With tools, an answer is
            then either calls or such JSON.

    Raises:
        PromptError: The prompt is empty or too long.
        ConfigError: A bad option.
        GrammarError: A schema, or a model, that the answer cannot be held to.
        ReadError, ChecksumError: While iterating; the model stays usable.
    """
    if max_tokens < 1:
        raise ConfigError("generate", f"max_tokens: expected at least 1, got {max_tokens}")
    if temperature < 0:
        raise ConfigError("generate", f"temperature: expected 0 or more, got {temperature}")
    if prefill_step is not None and prefill_step < 1:
        raise ConfigError("generate", f"prefill_step: expected at least 1, got {prefill_step}")
    form = reply_form(tools, tool_choice, strict, response_format)
    if form.schemas:
        if isinstance(prompt, str):
            raise ConfigError("generate", "tools: expected messages as the prompt, got text")
        template_args = {**(template_args or {}), "tools": list(form.schemas)}
    ids = encode_prompt(tokenizer, prompt, template_args, model.config.vocab_size)
    cache = make_prompt_cache(model) if prompt_cache is None else prompt_cache
    room = check_length(model.config.max_context, len(ids), cache, max_tokens)
    sampler = make_sampler(temp=temperature, top_p=top_p, min_p=min_p, top_k=top_k)
    processors = make_logits_processors(
        logit_bias=dict(logit_bias) if logit_bias else None,
        repetition_penalty=repetition_penalty,
        repetition_context_size=repetition_context,
    )
    processors += list(logits_processors or ())
    limit = thinking_limit(tokenizer, ids, max_thinking_tokens)
    if limit is not None:
        processors.append(limit)
    constraint = form.constraint(tokenizer, *thoughts_before(tokenizer, ids))
    if constraint is not None:
        processors.append(constraint.processor())
    tokens = token_ids(
        model,
        ids,
        prompt_cache=cache,
        sampler=sampler,
        logits_processors=processors,
        seed=seed,
        prefill_step=prefill_step,
        on_prefill=on_prefill,
    )
    stops = [stop] if isinstance(stop, str) else list(stop)
    return _chunks(model, tokenizer, tokens, len(ids), room, StopText(stops))


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


def generate(model: StreamedModel, tokenizer: Any, prompt: Prompt, **options: Any) -> Generation:
    """Generate a whole answer. Takes the options of :func:`stream`."""
    text, ids = [], []
    for chunk in stream(model, tokenizer, prompt, **options):
        text.append(chunk.text)
        ids.append(chunk.token)
    assert chunk.finish_reason is not None
    assert chunk.stats is not None
    whole = "".join(text)
    form = reply_form(*(options.get(k, v) for k, v in _FORM.items()))
    calls = form.calls(tokenizer, whole)
    return Generation(whole, tuple(ids), chunk.finish_reason, chunk.stats, calls)
