"""Commands of a chat, such as ``/help``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flash_moe.chat.keyboard import FILES
from flash_moe.chat.messages import checked_messages, read_json
from flash_moe.chat.sanitize import one_line
from flash_moe.chat.turn import Chat
from flash_moe.errors import ConfigError, PromptError
from flash_moe.files.atomic import write_json
from flash_moe.files.sizes import format_bytes
from flash_moe.memory.system import peak_memory

THINKING = ("on", "hide", "off")
_WORD = re.compile(r"/[A-Za-z]+")


class QuitError(Exception):
    """The user ends the chat."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        argument: Syntax of the argument, for /help.
        words: Completions of the argument.
    """

    run: Callable[[Chat, str], None]
    summary: str
    argument: str = ""
    words: tuple[str, ...] = ()


def is_command(text: str) -> bool:
    """Return whether a text begins with a command; a path such as ``/usr/bin`` does not."""
    return bool(_WORD.fullmatch(text.split(maxsplit=1)[0])) if text.strip() else False


def run_command(chat: Chat, text: str) -> None:
    """Run a command.

    Raises:
        QuitError: /quit.
        ConfigError, PromptError: The command is unknown or fails.
    """
    name, _, rest = text.partition(" ") if "\n" not in text.split(" ")[0] else text.partition("\n")
    command = COMMANDS.get(name.lower())
    if command is None:
        raise ConfigError("chat", f"no such command: {one_line(name, 40)}", "/help lists them.")
    command.run(chat, rest.strip())


def _help(chat: Chat, rest: str) -> None:
    names = {f"{name} {c.argument}".strip(): c for name, c in COMMANDS.items()}
    width = max(map(len, names))
    lines = [f"{name:{width}}  {command.summary}" for name, command in names.items()]
    keys = "Enter sends, Alt-Enter inserts a new line, Ctrl-C stops an answer, Ctrl-D quits."
    chat.view.line("\n".join([*lines, keys]))


def _system(chat: Chat, rest: str) -> None:
    if not rest:
        chat.view.line(chat.conversation.system or "(no system message)")
        return
    chat.set_system(rest)
    chat.view.note("system message set")


def _thinking(chat: Chat, rest: str) -> None:
    if rest not in ("", *THINKING):
        raise ConfigError("chat", f"/thinking: expected {', '.join(THINKING)}, got {rest!r:.40}")
    chat.thinking = rest or chat.thinking
    chat.view.note(
        {
            "on": "reasoning is displayed",
            "hide": "the model reasons, but its reasoning is hidden",
            "off": "reasoning is turned off in the chat template",
        }[chat.thinking]
    )


def _tools(chat: Chat, rest: str) -> None:
    if rest == "ask":
        chat.permissions.reset()
    elif rest:
        raise ConfigError("chat", f"/tools: expected no argument or ask, got {rest!r:.40}")
    if not chat.tools:
        chat.view.line("(no tools)")
    for tool in chat.tools:
        about = one_line(tool.description, 80)
        chat.view.line(f"{tool.name}: {about} ({chat.permissions.describe(tool.name)})")


def _save(chat: Chat, rest: str) -> None:
    file = _file("/save", rest)
    question = f"{one_line(str(file), 200)} exists. Overwrite it? y/n "
    if file.exists() and chat.confirm(question).lower() not in ("y", "yes"):
        chat.view.note("not saved")
        return
    try:
        write_json(file, chat.conversation.messages, private=True)
    except OSError as error:
        raise PromptError("chat", f"/save: {file}: {error.strerror}") from error
    chat.view.note(f"{len(chat.conversation.messages)} messages saved to {file}")


def _load(chat: Chat, rest: str) -> None:
    file = _file("/load", rest)
    messages = checked_messages(read_json(file), str(file))
    _leave(chat)
    chat.conversation.continue_from(messages)
    chat.view.note(f"{len(messages)} messages loaded; the next answer continues from them")


def _clear(chat: Chat, rest: str) -> None:
    _leave(chat)
    chat.view.note("new conversation; the system message and the tools remain")


def _leave(chat: Chat) -> None:
    """End the conversation and close its session, which stays on disk."""
    if chat.autosave is not None:
        chat.autosave.leave()
    chat.conversation.reset()


def _stats(chat: Chat, rest: str) -> None:
    conversation, turns = chat.conversation, chat.turns
    stream = chat.loaded.stats
    lines = []
    if chat.turn_stats is not None:
        lines.append(f"last answer   {' · '.join(chat.turn_stats.parts())}")
        lines.append(f"context       {chat.turn_stats.context} tokens")
    lines += [
        f"messages      {len(conversation.messages)}",
        f"all turns     {len(turns)}: {sum(t.prompt_tokens for t in turns)} prompt tokens, "
        f"{sum(t.answer_tokens for t in turns)} tokens, "
        f"{format_bytes(sum(t.stream.bytes_read for t in turns))} read",
        f"experts       {format_bytes(stream.bank_bytes)} cached of "
        f"{format_bytes(stream.expert_bytes)}",
        f"peak memory   {format_bytes(peak_memory())}",
    ]
    session = chat.autosave.session if chat.autosave else None
    lines.append(f"session       {session.path if session else 'not saved'}")
    chat.view.line("\n".join(lines))


def _quit(chat: Chat, rest: str) -> None:
    raise QuitError


def _file(command: str, rest: str) -> Path:
    if not rest:
        raise ConfigError("chat", f"{command}: expected a file name")
    return Path(rest).expanduser()


COMMANDS = {
    "/help": Command(_help, "list the commands"),
    "/system": Command(_system, "display or set the system message", "[TEXT]"),
    "/thinking": Command(
        _thinking, "display reasoning, hide it, or turn it off", f"[{'|'.join(THINKING)}]", THINKING
    ),
    "/tools": Command(_tools, "list the tools; ask: withdraw every always", "[ask]", ("ask",)),
    "/save": Command(_save, "write the messages to a JSON file", "FILE", (FILES,)),
    "/load": Command(_load, "continue from the messages of a JSON file", "FILE", (FILES,)),
    "/clear": Command(_clear, "start a new conversation"),
    "/stats": Command(_stats, "statistics of this chat"),
    "/quit": Command(_quit, "end the chat"),
}
