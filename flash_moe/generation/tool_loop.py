"""The rounds of a turn: an answer, its calls, their results, until an answer has no calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from flash_moe.errors import ConfigError, PromptError, ToolArgumentError
from flash_moe.generation.events import Answer, CallFinished, CallRefused, CallRequested, Event
from flash_moe.generation.prompt import encode_prompt
from flash_moe.generation.result import GenerationStats
from flash_moe.generation.turn_cache import TurnCache, common_length, network_of
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.definition import Tool, as_tools
from flash_moe.tools.result_text import clean, error_text, markers_of, without_markers
from flash_moe.tools.splitter import Piece, ReplySplitter, ThinkingPiece, opens_thinking

Message: TypeAlias = "dict[str, Any]"
Confirm: TypeAlias = "Callable[[ToolCall], bool | str]"
Events: TypeAlias = "Generator[Event, None, None]"
INTERRUPTED = "this call was interrupted"


def converse(
    model: Any,
    messages: list[Message],
    tools: Sequence[Tool[..., Any] | Callable[..., Any]] = (),
    confirm: Confirm | None = None,
    max_rounds: int = 8,
    *,
    cache: TurnCache | None = None,
    **options: Any,
) -> Events:
    """Answer the last message, running the tools that the model calls on the way.

    What is said is appended to ``messages``: answers with their ``tool_calls``, and a result for
    each call with its ``tool_call_id``. That also holds when the generator is closed or Ctrl-C
    comes: text so far stays as an answer, a call that was not written to its end is dropped, and
    calls without a result get one that says so.

    Args:
        model: Has ``stream(ids, **options)`` as :func:`flash_moe.load`'s, and ``tokenizer``.
        messages: Changed in place.
        tools: Tools, or plain functions.
        confirm: Asked before each call that could be run. Anything but ``True`` refuses it; a
            text is the reason that the model hears.
        max_rounds: Most answers. Calls of the last are refused.
        cache: What earlier turns have left (see :class:`Conversation`). Default: one for this
            turn, if the model has prompt caches.
        options: Of :func:`flash_moe.generation.generate.stream`, ``template_args`` among them.

    Raises:
        ToolDefinitionError: A function cannot be a tool, or two have one name.
        ConfigError: A bad argument, or tools for a model that knows none.
        PromptError: The chat template refuses the messages, or they do not fit the context.
    """
    known = as_tools(tools)
    if known and not model.tokenizer.has_tool_calling:
        raise ConfigError(
            "tools", "the chat template of this model knows no tools", "Give none, or change it."
        )
    if max_rounds < 1:
        raise ConfigError("tools", f"max_rounds: expected at least 1, got {max_rounds}")
    if "prompt_cache" in options:
        raise ConfigError("tools", "prompt_cache: a conversation keeps its own")
    if not isinstance(messages, list) or not messages:
        raise PromptError("tools", "expected a list of messages, with one at least")
    if cache is None and network_of(model) is not None:
        cache = TurnCache(model)
    schemas = [tool.schema for tool in known.values()]
    template_args = dict(options.pop("template_args", None) or {})
    if schemas:
        template_args["tools"] = schemas
    return _Turn(model, messages, known, schemas, confirm, cache, template_args, options).run(
        max_rounds
    )


@dataclass
class _Said:
    """What of an answer came so far."""

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
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
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
            said = _Said()
            yield from self._answer(said)
            if said.stats:
                stats.append(said.stats)
            self.messages.append(said.message(said.calls))
            reason = said.finish_reason
            if said.calls:
                last = number == max_rounds
                yield from self._results(said.calls, max_rounds if last else None)
                if not last:
                    continue
                reason = "max_rounds"
            yield Answer(said.text, said.thinking, reason, tuple(stats))
            return

    def _answer(self, said: _Said) -> Events:
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
            chunks = self.cache.stream(ids, self._mark(ids), **self.options)
        try:
            for chunk in chunks:
                pieces = splitter.feed(chunk.text)
                if chunk.finish_reason:
                    pieces += splitter.finish()
                    said.finish_reason, said.stats = chunk.finish_reason, chunk.stats
                for piece in pieces:
                    said.take(piece)
                    if not isinstance(piece, ToolCall):
                        yield piece
        except BaseException:  # closed, Ctrl-C, or a failed read
            if said.text or said.thinking:
                self.messages.append(said.message(()))
            raise
        finally:
            chunks.close()

    def _mark(self, ids: list[int]) -> int:
        """How many ids of the prompt come before the answer's header: the next turn has them too.

        Only after a user message: templates drop the thoughts between it and the next one.
        """
        if self.messages[-1].get("role") != "user":
            return 0
        try:
            without = self.model.tokenizer.apply_chat_template(
                list(self.messages), **{**self.template_args, "add_generation_prompt": False}
            )
        except Exception:  # a template that wants a header; the mark only saves work
            return 0
        return common_length(ids, without)

    def _results(self, calls: Sequence[ToolCall], limit: int | None) -> Events:
        """Run calls in their order; each gets a result in the messages, whatever happens."""
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
            text = f"there is no tool {call.name!r:.80}. There are: {', '.join(self.tools)}."
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
        except (Exception, SystemExit) as error:  # a tool may raise anything: the model hears it
            return CallFinished(call, error_text(error), failed=True)


def _result(call: ToolCall, text: str) -> Message:
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": text}
