"""From what is asked to what is generated: token ids, a constraint, mlx-lm's arguments.

All of it is done in the thread of the request, before it waits for its turn, so that what cannot
be answered is refused at once and the thread of generation loses no time.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flash_moe.compat.mlx_lm import server_module
from flash_moe.errors import GrammarError
from flash_moe.generation.output_spec import ReplyForm, thoughts_before
from flash_moe.generation.sampling import penalties_of
from flash_moe.generation.thinking_limit import thinking_limit
from flash_moe.grammar import Constraint, from_response_format
from flash_moe.server.engine.arguments import Arguments
from flash_moe.server.engine.generator import Generator
from flash_moe.server.engine.tokenize import Tokenizing, too_long
from flash_moe.server.requests.errors import bad
from flash_moe.server.requests.request import Asked
from flash_moe.tools.splitter import ReplySplitter, opens_thinking

_mlx = server_module()
# Agents send the same tools with each request; a grammar of 20 tools takes some ms to build.
_KEPT_CONSTRAINTS = 32


@dataclass
class Prepared:
    """A request, ready for the thread of generation.

    Attributes:
        ids: The prompt.
        splitter: Takes the answer apart; ``None`` where it stays as it is.
    """

    asked: Asked
    request: Any
    arguments: Arguments
    ids: list[int]
    splitter: ReplySplitter | None
    tokenizer: Any


class Preparer:
    """Prepares requests for one model; for any thread.

    Args:
        max_waiting: Requests that may wait for the tokenizer; those beyond are refused.
    """

    def __init__(self, generator: Generator, max_waiting: int) -> None:
        self._generator = generator
        self._tokenizing = Tokenizing(generator, max_waiting)
        self._constraints: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def _tokenizer(self) -> Any:
        return self._generator.provider.tokenizer

    def prepare(self, asked: Asked, check: Callable[[], None]) -> Prepared:
        """
        Args:
            check: Raises when nobody waits for the answer any more.

        Raises:
            ApiError: The chat template refuses the messages, the prompt does not fit the context,
                or the answer cannot be held to what is asked.
        """
        tokenizer = self._tokenizer
        request, arguments = self._for_mlx_lm(asked)
        arguments.tokenized = self._tokenizing.tokenized(asked, request, arguments, check)
        ids = list(arguments.tokenized[0])
        self._fit(arguments, ids)
        if asked.prompt is not None:
            return Prepared(asked, request, arguments, ids, None, tokenizer)
        arguments.limit = thinking_limit(tokenizer, ids, asked.sampling.max_thinking_tokens)
        thinking = opens_thinking(tokenizer, ids)
        form = _form(asked)
        try:
            arguments.constraint = self._constraint(form, ids)
            tools = form.parser_schemas(tokenizer)
        except GrammarError as error:
            field = asked.format_field if self._in_format(form) else "tools"
            raise bad(field, error.problem, "invalid_schema") from error
        splitter = ReplySplitter(tokenizer, tools or None, thinking=thinking, calls=bool(tools))
        return Prepared(asked, request, arguments, ids, splitter, tokenizer)

    def count(self, asked: Asked, check: Callable[[], None]) -> int:
        """Tokens of a prompt. Arguments and errors as for :meth:`prepare`."""
        request, arguments = self._for_mlx_lm(asked)
        return len(self._tokenizing.tokenized(asked, request, arguments, check)[0])

    def _for_mlx_lm(self, asked: Asked) -> tuple[Any, Arguments]:
        request = _mlx.CompletionRequest(
            request_type="chat" if asked.prompt is None else "text",
            prompt="" if asked.prompt is None else asked.prompt,
            messages=asked.messages,
            tools=asked.tools.shown or None,
            role_mapping=None,
        )
        s = asked.sampling
        arguments = Arguments(
            model=_mlx.ModelDescription("default_model", "default_model", None),
            # mlx-lm makes its own sampler of these; ours comes from ``params``.
            sampling=_mlx.SamplingArguments(
                **{f.name: getattr(s, f.name) for f in fields(_mlx.SamplingArguments)}
            ),
            logits=_mlx.LogitsProcessorArguments(**penalties_of(s)),
            stop_words=[],  # found in the text; mlx-lm looks for their tokens
            max_tokens=s.max_tokens,
            num_draft_tokens=0,
            logprobs=asked.logprobs,
            top_logprobs=asked.top_logprobs,
            seed=None,
            chat_template_kwargs=_checked(asked.template_args),
            params=s,
        )
        return request, arguments

    def _fit(self, arguments: Arguments, ids: Sequence[int]) -> None:
        """Cut ``max_tokens`` to what the context leaves."""
        if not ids:
            raise bad("prompt", "the prompt is empty")
        model = self._generator.provider.model
        if model.config.vocab_size is not None and max(ids) >= model.config.vocab_size:
            raise bad("prompt", "the prompt has tokens that the model does not know")
        limit = model.config.max_context
        if limit is None:
            return
        if len(ids) >= limit:
            raise too_long(len(ids), limit)
        arguments.max_tokens = min(arguments.max_tokens, limit - len(ids))

    def _constraint(self, form: ReplyForm, ids: Sequence[int]) -> Constraint | None:
        after, thinking = thoughts_before(self._tokenizer, ids)
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

    def _in_format(self, form: ReplyForm) -> bool:
        """Whether it is the format of the answer that cannot be held to, and not its calls."""
        try:
            from_response_format(self._tokenizer, form.response_format)
        except GrammarError:
            return True
        return not form.held


def _form(asked: Asked) -> ReplyForm:
    tools = asked.tools
    return ReplyForm(
        tools.shown,
        tools.mode,
        tools.strict if tools.shown else frozenset(),
        asked.response_format,
        tools.parallel,
    )


def _checked(template_args: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments for the template itself, and none for what renders it."""
    from transformers import PreTrainedTokenizerBase

    taken = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    for name in template_args:
        if name in taken or not name.isidentifier():
            raise bad(f"chat_template_kwargs.{name[:80]}", "this cannot be set by a request")
    return template_args or None
