"""Tool loop of a turn: answer, calls, results, repeated until an answer has no calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from flash_moe.errors import ConfigError, PromptError, ToolArgumentError
from flash_moe.generation.events import Answer, CallFinished, CallRefused, CallRequested, Event
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.prompt import call_token, encode_prompt, end_of_messages
from flash_moe.generation.result import GenerationStats
from flash_moe.generation.turn_cache import TurnCache, network_of
from flash_moe.options.declare import accepts, option, values
from flash_moe.tools.calls import ToolCall, openai_function
from flash_moe.tools.definition import Tool, as_tools
from flash_moe.tools.result_text import clean, error_text, markers_of, without_markers
from flash_moe.tools.splitter import Piece, ReplySplitter, ThinkingPiece, opens_thinking

Message: TypeAlias = dict[str, Any]
Confirm: TypeAlias = Callable[[ToolCall], bool | str]
Events: TypeAlias = Generator[Event, None, None]
INTERRUPTED = "this call was interrupted"


@dataclass(frozen=True)
class ToolLoopOptions(GenerationOptions):
    """Options of :func:`converse`: those of a generation and of the tool loop."""

    tools: Sequence[Tool[..., Any] | Callable[..., Any]] = option((), "tools, or plain functions")
    confirm: Confirm | None = option(
        None,
        "function called before each valid call; any result but True refuses the call, and a "
        "string is the reason that the model gets",
        default="all calls run",
    )
    max_rounds: int = option(
        8, "maximum answers to one question; the calls of the last are refused", minimum=1
    )
    cache: TurnCache | None = option(
        None,
        "prompt cache of earlier turns, for converse() alone",
        default="one for this turn, if the model has prompt caches",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_cache is not None:
            raise ConfigError("tools", "prompt_cache: a conversation has its own")


@accepts(ToolLoopOptions, method=True)
def converse(model: Any, messages: list[Message], options: ToolLoopOptions) -> Events:
    """Answer the last message and run the tools that the model calls.

    The turn is appended to ``messages``: answers with their ``tool_calls``, and a result for
    each call with its ``tool_call_id``. This also applies when the generator is closed or
    interrupted: text so far stays as an answer, an incomplete call is dropped, and calls without
    a result get an error as result.

    Args:
        model: Has :func:`flash_moe.load`'s ``stream(ids, **options)`` and ``tokenizer``.
        messages: Changed in place.

    Raises:
        ToolDefinitionError: A function cannot be a tool, or two have one name.
        ConfigError: An option is invalid, or the model's template does not support tools.
        PromptError: The chat template rejects the messages, or they do not fit the context.
    """
    known = as_tools(options.tools)
    if known and not model.tokenizer.has_tool_calling:
        raise ConfigError(
            "tools", "this model's chat template does not support tools", "Pass none, or change it."
        )
    if not isinstance(messages, list) or not messages:
        raise PromptError("tools", "expected a list of messages, at least one")
    cache = options.cache
    if cache is None and network_of(model) is not None:
        cache = TurnCache(model)
    schemas = [tool.schema for tool in known.values()]
    passed = values(options, GenerationOptions)
    for name in ("tools", "prompt_cache"):
        del passed[name]
    template_args = dict(passed.pop("template_args"))
    if schemas:
        template_args["tools"] = schemas
    turn = _Turn(model, messages, known, schemas, options.confirm, cache, template_args, passed)
    return turn.run(options.max_rounds)


@dataclass
class _PartialAnswer:
    """An answer while it is generated."""

    thinking: str = ""
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str = "stop"
    stats: GenerationStats | None = None

    def take(self, piece: Piece) -> None:
        if isinstance(piece, ToolCall):
            self.calls.append(piece)
        elif isinstance(piece, ThinkingPiece):
            self.thinking += piece.text
        else:
            self.text += piece.text

    def message(self, calls: Sequence[ToolCall]) -> Message:
        message: Message = {"role": "assistant", "content": self.text}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if calls:
            message["tool_calls"] = [
                {"id": call.id, **openai_function(call.name, arguments=call.arguments)}
                for call in calls
            ]
        return message


@dataclass
class _Turn:
    model: Any
    messages: list[Message]
    tools: dict[str, Tool[..., Any]]
    schemas: list[dict[str, Any]]
    confirm: Confirm | None
    cache: TurnCache | None
    template_args: dict[str, Any]
    options: dict[str, Any]

    def run(self, max_rounds: int) -> Events:
        stats: list[GenerationStats] = []
        for number in range(1, max_rounds + 1):
            partial = _PartialAnswer()
            yield from self._answer(partial)
            if partial.stats:
                stats.append(partial.stats)
            self.messages.append(partial.message(partial.calls))
            reason = partial.finish_reason
            if partial.calls:
                last = number == max_rounds
                yield from self._results(partial.calls, max_rounds if last else None)
                if not last:
                    continue
                reason = "max_rounds"
            yield Answer(partial.text, partial.thinking, reason, tuple(stats))
            return

    def _answer(self, partial: _PartialAnswer) -> Events:
        tokenizer = self.model.tokenizer
        ids = encode_prompt(tokenizer, self.messages, self.template_args)
        splitter = ReplySplitter(
            tokenizer,
            self.schemas,
            thinking=opens_thinking(tokenizer, ids),
            calls=bool(self.tools),
        )
        if self.cache is None:
            chunks = self.model.stream(ids, **self.options)
        else:
            call = call_token(tokenizer) if self.tools else None
            chunks = self.cache.stream(ids, self._mark(ids), call, **self.options)
        try:
            for chunk in chunks:
                pieces = splitter.feed(chunk.text)
                if chunk.finish_reason:
                    pieces += splitter.finish()
                    partial.finish_reason, partial.stats = chunk.finish_reason, chunk.stats
                for piece in pieces:
                    partial.take(piece)
                    if not isinstance(piece, ToolCall):
                        yield piece
        except BaseException:  # closed, Ctrl-C, or a failed read
            if partial.text or partial.thinking:
                self.messages.append(partial.message(()))
            raise
        finally:
            chunks.close()

    def _mark(self, ids: list[int]) -> int:
        """Return the number of prompt ids before the answer's header, which the next turn reuses.

        0 unless a user message is last: templates drop the reasoning between user messages.
        """
        if self.messages[-1].get("role") != "user":
            return 0
        return end_of_messages(self.model.tokenizer, self.messages, self.template_args, ids)

    def _results(self, calls: Sequence[ToolCall], limit: int | None) -> Events:
        """Run calls in order; each gets a result in the messages, even after an interrupt."""
        waiting = list(calls)
        markers = markers_of(self.model.tokenizer)
        try:
            for call in calls:
                yield CallRequested(call)
                event = self._run(call, limit)
                text = event.reason if isinstance(event, CallRefused) else event.result
                self.messages.append(_result(call, without_markers(text, markers)))
                waiting.remove(call)
                yield event
        finally:
            self.messages += [_result(call, error_text(INTERRUPTED)) for call in waiting]

    def _run(self, call: ToolCall, limit: int | None) -> CallFinished | CallRefused:
        if limit is not None:
            text = f"not run: {limit} answers were made for this question, which is the most"
            return CallRefused(call, error_text(text))
        tool = self.tools.get(call.name)
        if call.error is not None:
            return CallFinished(call, error_text(call.error), failed=True)
        if tool is None:
            text = f"there is no tool {call.name!r:.80}. Available: {', '.join(self.tools)}."
            return CallFinished(call, error_text(text), failed=True)
        try:
            bound = tool.bind(call.arguments)
        except ToolArgumentError as error:
            return CallFinished(call, error_text(error), failed=True)
        allowed = True if self.confirm is None else self.confirm(call)
        if allowed is not True:
            reason = clean(allowed) if isinstance(allowed, str) and allowed else "no reason given"
            return CallRefused(call, f"The user refused this call: {reason}")
        try:
            return CallFinished(call, bound())
        except (Exception, SystemExit) as error:  # a tool may raise anything: a result
            return CallFinished(call, error_text(error), failed=True)


def _result(call: ToolCall, text: str) -> Message:
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}
