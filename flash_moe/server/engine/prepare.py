"""Turn a validated request into a request of the engine: token ids, constraint, checkpoints.

This runs in the thread of the request, before admission: invalid requests are rejected at once, and
the engine's thread loses no time.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flash_moe.errors import GrammarError
from flash_moe.generation.engine import EngineRequest
from flash_moe.generation.output_spec import OutputSpec, thinking_state
from flash_moe.generation.sampling import LogitsProcessor
from flash_moe.generation.thinking_limit import thinking_limit
from flash_moe.grammar import Constraint, from_response_format
from flash_moe.loader import FlashMoE
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.engine.tokenize import PromptTokenizer, too_long
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import invalid
from flash_moe.server.requests.request import GenerationRequest
from flash_moe.tools.splitter import ReplySplitter, opens_thinking

# Agents send the same tools with each request; building a grammar of 20 tools takes a few ms.
_MAX_CONSTRAINTS = 32


@dataclass
class PreparedRequest:
    """Request that is ready for the engine.

    Attributes:
        splitter: Splits the answer into reasoning, text and calls; ``None`` for raw completions.
    """

    request: GenerationRequest
    engine_request: EngineRequest
    splitter: ReplySplitter | None
    tokenizer: Any


class Preparer:
    """Prepares requests for one model. Thread-safe.

    Args:
        flash: Loaded model; only its tokenizer and config are used, none of its arrays.
    """

    def __init__(self, flash: FlashMoE, options: ServeOptions) -> None:
        self._tokenizer: Any = flash.tokenizer
        self._config = flash.model.config
        self._prompts = PromptTokenizer(
            self._tokenizer,
            self._config.max_context,
            options.template_args,
            options.concurrency + options.max_queue,
        )
        self._constraints: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, request: GenerationRequest, check: Callable[[], None]) -> PreparedRequest:
        """Tokenize the prompt and build the constraint of a request.

        Args:
            check: Called while waiting; raises if the client has disconnected.

        Raises:
            ApiError: The chat template rejects the messages, the prompt does not fit the context,
                or the requested output format cannot be enforced.
        """
        tokenizer = self._tokenizer
        prompt = self._prompts.tokenize(request, check)
        ids = prompt.ids
        sampling = self._limited(request.sampling, ids)
        top = request.top_logprobs if request.logprobs else None
        if request.prompt is not None:
            completion = EngineRequest(ids, sampling, top_logprobs=top)
            return PreparedRequest(request, completion, None, tokenizer)
        thinking = opens_thinking(tokenizer, ids)
        spec = _output_spec(request)
        try:
            constraint = self._constraint(spec, ids)
            tools = spec.parser_schemas(tokenizer)
        except GrammarError as error:
            field = request.format_field if self._rejects_format(spec) else "tools"
            raise invalid(field, error.problem, "invalid_schema") from error

        def processors() -> list[LogitsProcessor]:
            limit = thinking_limit(tokenizer, ids, sampling.max_thinking_tokens)
            limits: list[LogitsProcessor] = [] if limit is None else [limit]
            return limits if constraint is None else [*limits, constraint.processor()]

        splitter = ReplySplitter(tokenizer, tools or None, thinking=thinking, calls=bool(tools))
        chat = EngineRequest(ids, sampling, processors, prompt.checkpoints, top)
        return PreparedRequest(request, chat, splitter, tokenizer)

    def count(self, request: GenerationRequest, check: Callable[[], None]) -> int:
        """Return the number of prompt tokens. Arguments and errors as for :meth:`prepare`."""
        return len(self._prompts.tokenize(request, check).ids)

    def _limited(self, sampling: SamplingParams, ids: Sequence[int]) -> SamplingParams:
        """Validate token ids and reduce ``max_tokens`` to the rest of the context."""
        if not ids:
            raise invalid("prompt", "the prompt is empty")
        size, limit = self._config.vocab_size, self._config.max_context
        if size is not None and max(ids) >= size:
            raise invalid("prompt", f"expected token ids below {size}, got {max(ids)}")
        if limit is None:
            return sampling
        if len(ids) >= limit:
            raise too_long(len(ids), limit)
        return replace(sampling, max_tokens=min(sampling.max_tokens, limit - len(ids)))

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

    def _rejects_format(self, spec: OutputSpec) -> bool:
        """Return true if ``response_format`` cannot be enforced, false if the tool calls cannot."""
        try:
            from_response_format(self._tokenizer, spec.response_format)
        except GrammarError:
            return True
        return not spec.constrains_calls


def _output_spec(request: GenerationRequest) -> OutputSpec:
    tools = request.tools
    return OutputSpec(
        tools.in_prompt,
        tools.mode,
        tools.strict if tools.in_prompt else frozenset(),
        request.response_format,
        tools.parallel,
    )
