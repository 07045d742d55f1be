"""Turn a request into one that the engine runs: token ids, constraint, checkpoints.

This runs in the thread of the sender: invalid requests are rejected at once, and the engine's
thread loses no time. A tokenizer is not thread-safe and takes seconds for megabytes of text, so
prompts queue for it. A prompt that is certainly too long is rejected after its first pieces;
between pieces other prompts get the tokenizer.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from flash_moe.config import ModelConfig
from flash_moe.errors import GrammarError
from flash_moe.generation.output_spec import OutputSpec, thinking_state
from flash_moe.generation.prompt import (
    Messages,
    Prompt,
    call_token,
    check_length,
    encode_prompt,
    end_of_messages,
    end_of_system,
    is_chat,
    placed,
    too_long,
)
from flash_moe.generation.sampling import LogitsProcessor
from flash_moe.generation.sequence import SYSTEM, USER, EngineRequest
from flash_moe.generation.thinking_limit import thinking_limit
from flash_moe.grammar import Constraint, from_response_format
from flash_moe.options.sampling import SamplingParams
from flash_moe.tools.splitter import ReplySplitter, opens_thinking

# Agents send the same tools with each request; building a grammar of 20 tools takes a few ms.
_MAX_CONSTRAINTS = 32
# Texts have 3 to 5 characters per token. A text with more than this per token of the context is
# counted in pieces first: if it fits, it is tokenized twice; otherwise it is rejected.
_CHARACTERS_PER_TOKEN = 8
_PIECE = 50_000  # characters, 0.1 s
# Pieces are cut anywhere, and may have a few tokens more than the whole text.
_MARGIN = 1.1
_POLL_S = 0.1  # interval at which a queued prompt checks its sender


@dataclass(frozen=True)
class Request:
    """One generation.

    Attributes:
        prompt: Text (used as it is), chat messages, or token ids.
        sampling: ``max_tokens`` may exceed the context.
        spec: Tools and output format of a chat.
        template_args: Arguments of the chat template.
        top_logprobs: Number of most likely alternatives per token; ``None``: no probabilities.
    """

    prompt: Prompt
    sampling: SamplingParams
    spec: OutputSpec = field(default_factory=OutputSpec)
    template_args: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int | None = None


@dataclass(frozen=True)
class PreparedRequest:
    """Request of the engine, and the splitter of its answer; ``None`` without a chat template."""

    request: Request
    run: EngineRequest
    splitter: ReplySplitter | None


@dataclass
class AnswerProcessors:
    """Creates the logits processors of one answer: its limit of reasoning, and its constraint.

    Other ranks get it without the compiled grammar, and compile it again.

    Args:
        ids: The prompt.
    """

    ids: Sequence[int]
    spec: OutputSpec
    max_thinking_tokens: int | None
    constraint: Constraint | None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "constraint": None}

    def __call__(self, tokenizer: Any) -> list[LogitsProcessor]:
        limit = thinking_limit(tokenizer, self.ids, self.max_thinking_tokens)
        limits: list[LogitsProcessor] = [] if limit is None else [limit]
        constraint = self.constraint
        if constraint is None:
            constraint = self.spec.constraint(tokenizer, *thinking_state(tokenizer, self.ids))
        return limits if constraint is None else [*limits, constraint.processor()]


class Preparer:
    """Prepares requests for one model. Thread-safe.

    Args:
        tokenizer: mlx-lm's wrapper of the model's tokenizer.
    """

    def __init__(self, tokenizer: Any, config: ModelConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._tokenizing = threading.Lock()
        self._constraints: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()
        self._call_token = call_token(tokenizer)

    def prepare(self, request: Request, check: Callable[[], None]) -> PreparedRequest:
        """Tokenize the prompt and build the constraint of a request.

        Args:
            check: Called while waiting; raises if the sender has gone.

        Raises:
            PromptError: The tokenizer or the chat template rejects the prompt.
            ContextLengthError: The prompt leaves no room for an answer.
            GrammarError: The tools or the output format cannot be enforced.
        """
        tokenizer, sampling, spec = self._tokenizer, request.sampling, request.spec
        ids, checkpoints = self.tokenize(request, check)
        room = check_length(self._config.max_context, len(ids), (), sampling.max_tokens)
        sampling = replace(sampling, max_tokens=room)
        if not is_chat(request.prompt):
            run = EngineRequest(ids, sampling, top_logprobs=request.top_logprobs)
            return PreparedRequest(request, run, None)
        constraint = self._constraint(spec, ids)
        tools = spec.parser_schemas(tokenizer)
        processors = AnswerProcessors(ids, spec, sampling.max_thinking_tokens, constraint)
        thinking = opens_thinking(tokenizer, ids)
        splitter = ReplySplitter(
            tokenizer,
            tools or None,
            thinking=thinking,
            calls=bool(tools),
            stops=sampling.stops,
            broken_as_text=True,
        )
        run = EngineRequest(
            ids, sampling, processors, checkpoints, self._call_token, request.top_logprobs
        )
        return PreparedRequest(request, run, splitter)

    def rejects_format(self, spec: OutputSpec) -> bool:
        """Return true if the output format cannot be enforced, false if the tool calls cannot."""
        try:
            from_response_format(self._tokenizer, spec.response_format)
        except GrammarError:
            return True
        return not spec.constrains_calls

    def tokenize(
        self, request: Request, check: Callable[[], None]
    ) -> tuple[list[int], tuple[tuple[int, str], ...]]:
        """Return the token ids of a prompt, and its checkpoints.

        Arguments and errors as for :meth:`prepare`.
        """
        self._reject_too_long(request.prompt, check)
        arguments = dict(request.template_args)
        if request.spec.schemas:
            arguments["tools"] = list(request.spec.schemas)
        with self._turn(check):
            prompt = request.prompt
            if is_chat(prompt) and self._tokenizer.has_chat_template:
                prompt = placed(self._tokenizer, prompt)  # type: ignore[arg-type]
            ids = encode_prompt(self._tokenizer, prompt, arguments, self._config.vocab_size)
            if not is_chat(prompt):
                return ids, ()
            # The next turn begins with the same messages, and other conversations begin with the
            # same system message and tools. Caches of recurrent layers cannot be trimmed to a
            # common prefix.
            messages: Messages = prompt  # type: ignore[assignment]
            ends = (
                (end_of_system(self._tokenizer, messages, arguments, ids), SYSTEM),
                (end_of_messages(self._tokenizer, messages, arguments, ids), USER),
            )
            return ids, tuple((n, kind) for n, kind in ends if 0 < n < len(ids))

    def _reject_too_long(self, prompt: Prompt, check: Callable[[], None]) -> None:
        limit = self._config.max_context
        texts = list(_texts(prompt))
        if limit is None or sum(map(len, texts)) <= limit * _CHARACTERS_PER_TOKEN:
            return
        n_tokens = 0
        for text in texts:
            for start in range(0, len(text), _PIECE):
                piece = text[start : start + _PIECE]
                with self._turn(check):
                    n_tokens += len(self._tokenizer.encode(piece, add_special_tokens=False))
                if n_tokens > limit * _MARGIN:
                    raise too_long(f"more than {limit}", limit)

    @contextmanager
    def _turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold the tokenizer for the duration of the ``with``."""
        while not self._tokenizing.acquire(timeout=_POLL_S):
            check()
        try:
            yield
        finally:
            self._tokenizing.release()

    def _constraint(self, spec: OutputSpec, ids: Sequence[int]) -> Constraint | None:
        after, thinking = thinking_state(self._tokenizer, ids)
        key = json.dumps([{**vars(spec), "strict": sorted(spec.strict)}, after, thinking])
        with self._lock:
            if key in self._constraints:
                self._constraints.move_to_end(key)
                return self._constraints[key]
        constraint = spec.constraint(self._tokenizer, after, thinking)
        if constraint is not None:
            with self._lock:
                self._constraints[key] = constraint
                while len(self._constraints) > _MAX_CONSTRAINTS:
                    self._constraints.popitem(last=False)
        return constraint


def _texts(prompt: Prompt) -> Iterator[str]:
    """Yield texts that are certainly in the prompt: templates drop reasoning and outer space."""
    if isinstance(prompt, str):
        yield prompt
    elif is_chat(prompt):
        messages: Messages = prompt  # type: ignore[assignment]
        yield from (each["content"].strip() for each in messages if each["role"] != "assistant")
