"""The chat itself: read, answer or obey, until the user leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flash_moe.chat.commands import QuitError, is_command, run_command
from flash_moe.chat.turn import Talk
from flash_moe.errors import FlashMoEError
from flash_moe.tools import ToolCall

_SHOWN = 2  # messages of a session that goes on


class Typist(Protocol):
    """Who is asked: :class:`flash_moe.chat.keyboard.Keyboard`."""

    def ask(self) -> str: ...
    def confirm(self, question: str) -> str: ...


def chat(talk: Talk, keyboard: Typist) -> None:
    """Go on until /quit, Ctrl-D, or a signal that ends the chat."""
    while not talk.ending.code:
        try:
            text = keyboard.ask()
        except EOFError:
            return
        if not is_command(text):
            talk.say(text)
            talk.view.line("")
            continue
        try:
            run_command(talk, text, keyboard.confirm)
        except QuitError:
            return
        except KeyboardInterrupt:  # at a question of the command
            continue
        except FlashMoEError as error:
            talk.view.error(str(error))


def show_last(talk: Talk) -> None:
    """The end of a conversation that goes on: its last question and answer."""
    said = [m for m in talk.conversation.messages if m["role"] in ("user", "assistant")]
    for message in [m for m in said if m["content"]][-_SHOWN:]:
        if message["role"] == "user":
            talk.view.line(f"> {message['content']}", "bold")
        else:
            talk.view.show(message["content"])
            talk.view.line("")


def asker(confirm: Callable[[str], str]) -> Callable[[ToolCall], str]:
    """Asks about a call: y, n, a; any other text is why not."""

    def ask(call: ToolCall) -> str:
        return confirm("Run it? y(es), n(o), a(lways): ")

    return ask
