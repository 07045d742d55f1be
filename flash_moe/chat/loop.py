"""Chat loop: read input, then answer it or run its command."""

from __future__ import annotations

from flash_moe.chat.commands import QuitError, is_command, run_command
from flash_moe.chat.keyboard import Keyboard
from flash_moe.chat.lines import Lines
from flash_moe.chat.turn import Chat
from flash_moe.errors import FlashMoEError

_LAST_MESSAGES = 2  # messages of a resumed session


def run_chat(chat: Chat, keyboard: Keyboard | Lines) -> None:
    """Run turns and commands until /quit, Ctrl-D or a signal."""
    while not chat.shutdown.code:
        try:
            text = keyboard.ask()
        except EOFError:
            return
        if not is_command(text):
            chat.run_turn(text)
            chat.view.line("")
            continue
        try:
            run_command(chat, text)
        except QuitError:
            return
        except KeyboardInterrupt:  # at a confirmation
            continue
        except FlashMoEError as error:
            chat.view.error(str(error))


def show_last(chat: Chat) -> None:
    """Display the last question and answer of a resumed conversation."""
    messages = [m for m in chat.conversation.messages if m["role"] in ("user", "assistant")]
    for message in [m for m in messages if m["content"]][-_LAST_MESSAGES:]:
        if message["role"] == "user":
            chat.view.line(f"> {message['content']}", "bold")
        else:
            chat.view.show(message["content"])
            chat.view.line("")
