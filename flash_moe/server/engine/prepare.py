"""From a request of an API to one of the engine: token ids, a constraint, checkpoints.

All of it is done in the thread of the request, before it waits for its turn, so that what cannot
be answered is refused at once and the engine's thread loses no time.
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
from flash_moe.server.engine.tokenize import Tokenizing, too_long
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.errors import bad
from flash_moe.server.requests.request import GenerationRequest
from flash_moe.tools.splitter import ReplySplitter, opens_thinking

# Agents send the same tools with each request; a grammar of 20 tools takes some ms to build.
_KEPT_CONSTRAINTS = 32


@dataclass
class Prepared:
    """A request, ready for the engine.

    Attributes:
        splitter: Takes the answer apart; ``None`` where it stays as it is.
    """

    asked: GenerationRequest
    engine_request: EngineRequest
    splitter: ReplySplitter | None
    tokenizer: Any


class Preparer:
    """Prepares requests for one model; for any thread.

    Args:
        flash: What ``load()`` returned. No array of it is used.
        max_waiting: Requests that may wait for the tokenizer; those beyond are refused.
    """

    def __init__(self, flash: FlashMoE, options: ServeOptions) -> None:
        self._tokenizer: Any = flash.tokenizer
        self._config = flash.model.config
        self._tokenizing = Tokenizing(
            self._tokenizer,
            self._config.max_context,
            options.template_args,
            options.concurrency + options.max_queue,
        )
        self._constraints: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, asked: GenerationRequest, check: Callable[[], None]) -> Prepared:
        """
        Args:
            check: Raises when the client has gone.

        Raises:
            ApiError: The chat template refuses the messages, the prompt does not fit the context,
                or the requested form of the answer cannot be enforced.
        """
        tokenizer = self._tokenizer
        found = self._tokenizing.tokenized(asked, check)
        ids = found.ids
        sampling = self._fitted(asked.sampling, ids)
        top = asked.top_logprobs if asked.logprobs else None
        if asked.prompt is not None:
            request = EngineRequest(ids, sampling, top_logprobs=top)
            return Prepared(asked, request, None, tokenizer)
        thinking = opens_thinking(tokenizer, ids)
        form = _form(asked)
        try:
            constraint = self._constraint(form, ids)
            tools = form.parser_schemas(tokenizer)
        except GrammarError as error:
            field = asked.format_field if self._in_format(form) else "tools"
            raise bad(field, error.problem, "invalid_schema") from error

        def processors() -> list[LogitsProcessor]:
            limit = thinking_limit(tokenizer, ids, sampling.max_thinking_tokens)
            made: list[LogitsProcessor] = [] if limit is None else [limit]
            return made if constraint is None else [*made, constraint.processor()]

        splitter = ReplySplitter(tokenizer, tools or None, thinking=thinking, calls=bool(tools))
        request = EngineRequest(ids, sampling, processors, found.checkpoints, top)
        return Prepared(asked, request, splitter, tokenizer)

    def count(self, asked: GenerationRequest, check: Callable[[], None]) -> int:
        """Tokens of a prompt. Arguments and errors as for :meth:`prepare`."""
        return len(self._tokenizing.tokenized(asked, check).ids)

    def _fitted(self, sampling: SamplingParams, ids: Sequence[int]) -> SamplingParams:
        """Cut ``max_tokens`` to what the context leaves."""
        if not ids:
            raise bad("prompt", "the prompt is empty")
        size, limit = self._config.vocab_size, self._config.max_context
        if size is not None and max(ids) >= size:
            raise bad("prompt", "the prompt has tokens that the model does not know")
        if limit is None:
            return sampling
        if len(ids) >= limit:
            raise too_long(len(ids), limit)
        return replace(sampling, max_tokens=min(sampling.max_tokens, limit - len(ids)))

    def _constraint(self, form: OutputSpec, ids: Sequence[int]) -> Constraint | None:
        after, thinking = thinking_state(self._tokenizer, ids)
        key = json.dumps([{**vars(form), "strict": sorted(form.strict)}, after, thinking])
        with self._lock:
            if key in self._constraints:
                self._constraints.move_to_end(key)
                return self._constraints[key]
        made = form.constraint(self._tokenizer, after, thinking)
        if made is not None:
            with self._lock:
                self._constraints[key] = made
                while len(self._constraints) > _KEPT_CONSTRAINTS:
                    self._constraints.popitem(last=False)
        return made

    def _in_format(self, form: OutputSpec) -> bool:
        """Whether it is the format of the answer that cannot be held to, and not its calls."""
        try:
            from_response_format(self._tokenizer, form.response_format)
        except GrammarError:
            return True
        return not form.constrains_calls


def _form(asked: GenerationRequest) -> OutputSpec:
    tools = asked.tools
    return OutputSpec(
        tools.shown,
        tools.mode,
        tools.strict if tools.shown else frozenset(),
        asked.response_format,
        tools.parallel,
    )
