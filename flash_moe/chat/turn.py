"""A conversation as the user sees it: turns with their calls, their figures, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flash_moe.chat.autosave import Keeper
from flash_moe.chat.interrupt import Interrupts
from flash_moe.chat.metered_model import STOPPED, WatchedModel
from flash_moe.chat.permissions import AnyTool, Permissions
from flash_moe.chat.sanitize import one_line
from flash_moe.chat.signals import Ending
from flash_moe.chat.stats import Figures
from flash_moe.chat.view import View, call_text, result_text
from flash_moe.errors import FlashMoEError
from flash_moe.generation.conversation import Conversation
from flash_moe.generation.events import Answer, CallFinished, CallRefused, CallRequested
from flash_moe.generation.tool_loop import Events
from flash_moe.tools import TextPiece, ThinkingPiece, ToolCall

READING = "reading the prompt"


@dataclass
class Settings:
    """What may change from turn to turn.

    Attributes:
        thinking: ``"on"`` shows thoughts, ``"hide"`` does not, ``"off"`` asks the model for none.
    """

    thinking: str = "on"


@dataclass
class Talk:
    """Asks, shows, and keeps.

    Args:
        loaded: What :func:`flash_moe.load` returns.
        path: Where it is loaded from.
        always: Names of tools that run without a question.
        options: Of the generation: sampling, ``max_tokens``.
        ending: Whether the chat is to end.
    """

    loaded: Any
    path: Path
    view: View
    tools: list[AnyTool]
    always: list[str] = field(default_factory=list)
    system: str | None = None
    settings: Settings = field(default_factory=Settings)
    keeper: Keeper | None = None
    options: dict[str, Any] = field(default_factory=dict)
    debug: bool = False
    ending: Ending = field(default_factory=Ending)

    def __post_init__(self) -> None:
        self.figures: Figures | None = None
        self.turns: list[Figures] = []
        self._calling = False  # a call of the last answer was run or refused
        self._interrupts = Interrupts(self._stopping, self.ending)
        self._model = WatchedModel(self.loaded, self._token)
        self._ask: Callable[[ToolCall], str] | None = None
        self.permissions = Permissions(self.tools, self.always)
        self.conversation = Conversation(
            self._model,
            self.tools,
            system=self.system,
            confirm=self._confirm,
            on_prefill=self._prefill,
            **self.options,
        )

    def ask_with(self, ask: Callable[[ToolCall], str]) -> None:
        """From now on there is somebody to ask about calls, as ``Permissions`` does."""
        self._ask = ask
        self.permissions = Permissions(self.tools, self.always, self._ask_user)

    def set_system(self, text: str) -> None:
        """Put a system message before the conversation, in the place of the one there."""
        self.conversation.system = text
        messages = self.conversation.messages
        there = bool(messages) and messages[0]["role"] == "system"
        messages[: int(there)] = [{"role": "system", "content": text}]

    def say(self, question: str) -> bool:
        """One turn. Whatever happens in it, the conversation goes on. False after an error."""
        talk = self.conversation
        rounds, messages = len(talk.prefilled), len(talk.messages)
        thinking = self.settings.thinking != "off"
        template_args = {} if thinking else {"enable_thinking": False}
        talk.options = replace(talk.options, template_args=template_args)
        self._interrupts = interrupts = Interrupts(self._stopping, self.ending)
        self._model.begin()
        self._calling = False
        problem = ""
        with interrupts.watched():
            self.view.begin(READING)
            try:
                self._run(question, interrupts)
            except KeyboardInterrupt:
                interrupts.asked = True
            except FlashMoEError as error:
                problem = str(error)
            except Exception as error:  # of MLX or a template; the chat goes on
                if self.debug:
                    raise
                problem = f"{type(error).__name__}: {error}"
            finally:
                self.view.end()
        said = len(talk.messages) > messages
        self._after(sum(talk.prefilled[rounds:]), interrupts.asked, said)
        if problem:
            self.view.error(problem)
        elif interrupts.asked:
            self.view.note("(stopped)" if said else "(stopped; the question is taken back)")
        return not problem

    def _run(self, question: str, interrupts: Interrupts) -> None:
        events = self.conversation.ask(question)
        try:
            reason = self._show(events, interrupts)
        finally:
            events.close()
        if interrupts.asked:
            if not self._calling:
                drop_unfinished(self.conversation.messages)
        elif reason == "length":
            self.view.note("(cut off: --max-tokens, or the end of the context)")
        elif reason == "max_rounds":
            self.view.note("(it wanted to call more tools; that was the most for one question)")

    def _show(self, events: Events, interrupts: Interrupts) -> str:
        """Show what comes. Returns how the answer ended."""
        for event in events:
            if isinstance(event, ThinkingPiece):
                self._thought(event.text)
            elif isinstance(event, TextPiece):
                self.view.text(event.text)
            elif isinstance(event, CallRequested):
                if interrupts.asked:
                    return STOPPED
                whole = event.call.error is None and self.permissions.asks(event.call.name)
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

    def _thought(self, piece: str) -> None:
        if self.settings.thinking == "on":
            self.view.thinking(piece)

    def _token(self) -> bool:
        """After each token: tell how it goes on, and whether it should."""
        self._calling = False
        self.view.status(self._model.so_far())
        return self._interrupts.asked

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
        assert self._ask is not None
        self.view.end()
        try:
            return self._ask(call)
        finally:
            self.view.begin("")

    def _after(self, prompt_tokens: int, stopped: bool, said: bool) -> None:
        cache = self.conversation.cache
        live = cache.live if cache else None
        self.figures = self._model.figures(prompt_tokens, len(live.ids) if live else 0, stopped)
        self.turns.append(self.figures)
        if self.keeper is not None:
            if cache and live is None and cache.checkpoint is None:
                self.keeper.restore(self.conversation)  # stopped inside a pass, or an error
            if said:
                self.keeper.after_turn(self.conversation)


def drop_unfinished(messages: list[dict[str, Any]]) -> None:
    """Take calls of an answer that was ended out of the messages: none of them ran.

    If nothing is left of the answer, the question goes too.
    """
    while messages and messages[-1]["role"] == "tool":
        messages.pop()
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].pop("tool_calls", None)
        if not messages[-1]["content"] and not messages[-1].get("reasoning_content"):
            messages.pop()
            if messages and messages[-1]["role"] == "user":
                messages.pop()
