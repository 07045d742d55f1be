"""The commands of a chat: ``/help`` and so on. A table of them, and what each does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flash_moe.chat.keyboard import FILES
from flash_moe.chat.messages import checked_messages, read_json
from flash_moe.chat.sanitize import one_line
from flash_moe.chat.turn import Talk
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
        takes: What may follow its name, for /help.
        words: Completions of that.
    """

    run: Callable[[Talk, str, Callable[[str], str]], None]
    meaning: str
    takes: str = ""
    words: tuple[str, ...] = ()


def is_command(text: str) -> bool:
    """Whether a text begins like a command. A path does not: ``/usr/bin``."""
    return bool(_WORD.fullmatch(text.split(maxsplit=1)[0])) if text.strip() else False


def run_command(talk: Talk, text: str, confirm: Callable[[str], str]) -> None:
    """Run a command.

    Args:
        confirm: Asks the user for an answer in one line.

    Raises:
        QuitError: It was /quit.
        ConfigError, PromptError: It is unknown, or cannot be done.
    """
    name, _, rest = text.partition(" ") if "\n" not in text.split(" ")[0] else text.partition("\n")
    command = COMMANDS.get(name.lower())
    if command is None:
        raise ConfigError("chat", f"no such command: {one_line(name, 40)}", "/help lists them.")
    command.run(talk, rest.strip(), confirm)


def _help(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    names = {f"{name} {c.takes}".strip(): c for name, c in COMMANDS.items()}
    width = max(map(len, names))
    lines = [f"{name:{width}}  {command.meaning}" for name, command in names.items()]
    keys = "Enter sends, Alt-Enter is a new line, Ctrl-C stops an answer, Ctrl-D quits."
    talk.view.line("\n".join([*lines, keys]))


def _system(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    if not rest:
        talk.view.line(talk.conversation.system or "(no system message)")
        return
    talk.set_system(rest)
    talk.view.note("system message set")


def _thinking(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    if rest not in ("", *THINKING):
        raise ConfigError("chat", f"/thinking: expected {', '.join(THINKING)}, got {rest!r:.40}")
    talk.settings.thinking = rest or talk.settings.thinking
    talk.view.note(
        {
            "on": "thoughts are shown",
            "hide": "the model thinks, and it is not shown",
            "off": "the model is asked not to think",
        }[talk.settings.thinking]
    )


def _tools(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    if rest == "ask":
        talk.permissions.forget()
    elif rest:
        raise ConfigError("chat", f"/tools: expected nothing or ask, got {rest!r:.40}")
    if not talk.tools:
        talk.view.line("(no tools)")
    for tool in talk.tools:
        about = one_line(tool.description, 80)
        talk.view.line(f"{tool.name}: {about} ({talk.permissions.describe(tool.name)})")


def _save(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    file = _file("/save", rest)
    question = f"{one_line(str(file), 200)} is there. Write over it? y/n "
    if file.exists() and confirm(question).lower() not in ("y", "yes"):
        talk.view.note("not saved")
        return
    try:
        write_json(file, talk.conversation.messages, private=True)
    except OSError as error:
        raise PromptError("chat", f"/save: {file}: {error.strerror}") from error
    talk.view.note(f"{len(talk.conversation.messages)} messages saved to {file}")


def _load(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    file = _file("/load", rest)
    messages = checked_messages(read_json(file), str(file))
    _leave(talk)
    talk.conversation.messages = messages
    first = messages[0] if messages else {"role": ""}
    if first["role"] == "system":
        talk.conversation.system = first["content"]
    talk.view.note(f"{len(messages)} messages loaded; the next answer goes on from there")


def _clear(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    _leave(talk)
    talk.view.note("a new conversation; the system message and the tools stay")


def _leave(talk: Talk) -> None:
    """End the conversation and its session; what is kept of it stays on disk."""
    if talk.keeper is not None:
        talk.keeper.leave()
    talk.conversation.reset()


def _stats(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    conversation, turns = talk.conversation, talk.turns
    stream = talk.loaded.stats
    lines = []
    if talk.figures is not None:
        lines.append(f"last answer   {' · '.join(talk.figures.parts())}")
        lines.append(f"context       {talk.figures.context} tokens")
    lines += [
        f"messages      {len(conversation.messages)}",
        f"all turns     {len(turns)}: {sum(t.prompt_tokens for t in turns)} prompt tokens, "
        f"{sum(t.answer_tokens for t in turns)} tokens, "
        f"{format_bytes(sum(t.bytes_read for t in turns))} read",
        f"experts       {format_bytes(stream.bank_bytes)} held of "
        f"{format_bytes(stream.expert_bytes)}",
        f"peak memory   {format_bytes(peak_memory())}",
    ]
    session = talk.keeper.session if talk.keeper else None
    lines.append(f"session       {session.path if session else 'not kept'}")
    talk.view.line("\n".join(lines))


def _quit(talk: Talk, rest: str, confirm: Callable[[str], str]) -> None:
    raise QuitError


def _file(command: str, rest: str) -> Path:
    if not rest:
        raise ConfigError("chat", f"{command}: expected the name of a file")
    return Path(rest).expanduser()


COMMANDS = {
    "/help": Command(_help, "these lines"),
    "/system": Command(_system, "show the system message, or set it", "[TEXT]"),
    "/thinking": Command(
        _thinking, "show thoughts, hide them, or ask for none", f"[{'|'.join(THINKING)}]", THINKING
    ),
    "/tools": Command(_tools, "the tools; ask: forget what was always allowed", "[ask]", ("ask",)),
    "/save": Command(_save, "write the messages to a JSON file", "FILE", (FILES,)),
    "/load": Command(_load, "go on from the messages of a JSON file", "FILE", (FILES,)),
    "/clear": Command(_clear, "begin a new conversation"),
    "/stats": Command(_stats, "figures of this chat"),
    "/quit": Command(_quit, "end the chat"),
}
