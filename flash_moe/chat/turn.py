"""Turns of a chat: display, tool calls, stats and autosave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flash_moe.chat.autosave import Autosave
from flash_moe.chat.interrupt import Interrupts
from flash_moe.chat.metered_model import STOPPED, MeteredModel
from flash_moe.chat.permissions import AnyTool, Permissions
from flash_moe.chat.sanitize import one_line
from flash_moe.chat.signals import Shutdown
from flash_moe.chat.stats import TurnStats
from flash_moe.chat.view import View, call_text, result_text
from flash_moe.errors import FlashMoEError
from flash_moe.generation.conversation import Conversation
from flash_moe.generation.engine_model import EngineModel, EngineTurns
from flash_moe.generation.events import Answer, CallFinished, CallRefused, CallRequested
from flash_moe.generation.prompt_cache_dir import PromptCacheDir
from flash_moe.generation.tool_loop import Events
from flash_moe.generation.turn_cache import TurnCache
from flash_moe.tools import TextPiece, ThinkingPiece, ToolCall

READING = "reading the prompt"


@dataclass
class Chat:
    """A conversation with its view, permissions, stats and autosave.

    Args:
        loaded: Result of :func:`flash_moe.load`.
        always: Names of tools that run without confirmation.
        thinking: ``"on"`` displays reasoning, ``"hide"`` hides it, ``"off"`` turns it off in the
            chat template; may change between turns.
        disk: Prompt caches on disk.
        options: Generation options: sampling, ``max_tokens``.
        shutdown: State of the signal handlers.
    """

    loaded: Any
    view: View
    tools: list[AnyTool]
    always: list[str] = field(default_factory=list)
    system: str | None = None
    thinking: str = "on"
    autosave: Autosave | None = None
    disk: PromptCacheDir | None = None
    options: dict[str, Any] = field(default_factory=dict)
    debug: bool = False
    shutdown: Shutdown = field(default_factory=Shutdown)

    def __post_init__(self) -> None:
        self.turn_stats: TurnStats | None = None
        self.turns: list[TurnStats] = []
        self._calling = False  # a call of the last answer was run or refused
        self._interrupts = Interrupts(self._stopping, self.shutdown)
        self._model = MeteredModel(self.loaded, self._token)
        self.confirm: Callable[[str], str] = lambda question: ""
        self.permissions = Permissions(self.tools, self.always)
        self.conversation = Conversation(
            self._model,
            self.tools,
            system=self.system,
            confirm=self._confirm,
            on_prefill=self._prefill,
            **self.options,
        )
        if self.disk is not None:
            self.conversation.cache = TurnCache(self._model, self.disk)

    def use_engine(self, engine_model: EngineModel) -> None:
        """Leave the prompt caches to an engine."""
        self.conversation.cache = EngineTurns(self._model, engine_model)

    def confirm_with(self, confirm: Callable[[str], str]) -> None:
        """Set the function that displays a question and returns the user's answer, one line."""
        self.confirm = confirm
        self.permissions = Permissions(self.tools, self.always, self._ask_user)

    def set_system(self, text: str) -> None:
        """Set or replace the system message of the conversation."""
        self.conversation.system = text
        messages = self.conversation.messages
        replaces = bool(messages) and messages[0]["role"] == "system"
        messages[: int(replaces)] = [{"role": "system", "content": text}]

    def run_turn(self, question: str) -> bool:
        """Run one turn; return False after an error. The conversation remains usable."""
        conversation = self.conversation
        rounds, messages = len(conversation.prefilled), len(conversation.messages)
        template_args = {"enable_thinking": False} if self.thinking == "off" else {}
        conversation.options = replace(conversation.options, template_args=template_args)
        self._interrupts = interrupts = Interrupts(self._stopping, self.shutdown)
        self._model.begin()
        self._calling = False
        problem = ""
        with interrupts.handling():
            self.view.begin(READING)
            try:
                self._run(question, interrupts)
            except KeyboardInterrupt:
                interrupts.requested = True
            except FlashMoEError as error:
                problem = str(error)
            except Exception as error:  # of MLX or a template
                if self.debug:
                    raise
                problem = f"{type(error).__name__}: {error}"
            finally:
                self.view.end()
        answered = len(conversation.messages) > messages
        self._after(sum(conversation.prefilled[rounds:]), interrupts.requested, answered)
        if problem:
            self.view.error(problem)
        elif interrupts.requested:
            self.view.note("(stopped)" if answered else "(stopped; the question is removed)")
        return not problem

    def _run(self, question: str, interrupts: Interrupts) -> None:
        events = self.conversation.ask(question)
        try:
            reason = self._display(events, interrupts)
        finally:
            events.close()
        if interrupts.requested:
            if not self._calling:
                drop_unfinished(self.conversation.messages)
        elif reason == "length":
            self.view.note("(truncated by --max-tokens or the context length)")
        elif reason == "max_rounds":
            self.view.note("(stopped: the limit of tool calls per question was reached)")

    def _display(self, events: Events, interrupts: Interrupts) -> str:
        """Display events; return the finish reason."""
        for event in events:
            if isinstance(event, ThinkingPiece):
                if self.thinking == "on":
                    self.view.thinking(event.text)
            elif isinstance(event, TextPiece):
                self.view.text(event.text)
            elif isinstance(event, CallRequested):
                if interrupts.requested:
                    return STOPPED
                whole = self.permissions.needs_confirmation(event.call.name)
                self.view.line(call_text(event.call, whole), "cyan")
            elif isinstance(event, CallFinished):
                self.view.line(result_text(event.result), "red" if event.failed else "dim")
                self._next_round(interrupts)
            elif isinstance(event, CallRefused):
                self.view.note(f"  {event.reason}")
                self._next_round(interrupts)
            elif isinstance(event, Answer):
                return event.finish_reason
        return STOPPED

    def _next_round(self, interrupts: Interrupts) -> None:
        interrupts.at_once = False
        self._calling = True
        self.view.status(READING)

    def _token(self) -> bool:
        """Display progress after a token; return whether the answer should end."""
        self._calling = False
        self.view.status(self._model.progress())
        return self._interrupts.requested

    def _prefill(self, done: int, total: int) -> None:
        self._interrupts.check()
        self.view.status(f"{READING}: {done} of {total} tokens" if total > 1 else READING)

    def _stopping(self) -> None:
        self.view.status("stopping; Ctrl-C again stops at once")

    def _confirm(self, call: ToolCall) -> bool | str:
        allowed = self.permissions.confirm(call)
        self._interrupts.at_once = True
        if allowed is True:
            self.view.status(f"running {one_line(call.name, 80)}")
        return allowed

    def _ask_user(self, call: ToolCall) -> str:
        self.view.end()
        try:
            return self.confirm("Run it? y(es), n(o), a(lways): ")
        finally:
            self.view.begin("")

    def _after(self, prompt_tokens: int, stopped: bool, answered: bool) -> None:
        cache = self.conversation.cache
        live = cache.live if cache else None
        context = len(live.ids) if live else 0
        self.turn_stats = self._model.turn_stats(prompt_tokens, context, stopped)
        self.turns.append(self.turn_stats)
        if self.autosave is not None and answered:
            self.autosave.after_turn(self.conversation)


def drop_unfinished(messages: list[dict[str, Any]]) -> None:
    """Remove the tool calls of an interrupted answer from the messages: none of them ran.

    If nothing is left of the answer, the question is removed too.
    """
    while messages and messages[-1]["role"] == "tool":
        messages.pop()
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].pop("tool_calls", None)
        if not messages[-1]["content"] and not messages[-1].get("reasoning_content"):
            messages.pop()
            if messages and messages[-1]["role"] == "user":
                messages.pop()
