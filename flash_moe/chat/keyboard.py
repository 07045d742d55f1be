"""Keyboard input: questions with history and completion, and confirmations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent

from flash_moe.chat.interrupt import drop_typed
from flash_moe.chat.signals import Shutdown

FILES = "FILE"  # in the words of a command: complete a path
_MENU = 4  # lines below the prompt that are kept free for completions


class _History(FileHistory):
    """History in a file. The chat continues without it if the file cannot be read or written."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string.encode("utf-8", "replace").decode())

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []


class _Commands(Completer):
    """Completion of commands and their arguments.

    Args:
        commands: Name with its slash to (argument words, description).
    """

    def __init__(self, commands: Mapping[str, tuple[tuple[str, ...], str]]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in document.text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for known, (_, summary) in self._commands.items():
                if known.startswith(name):
                    yield Completion(known, -len(name), display_meta=summary)
            return
        words = self._commands.get(name, ((), ""))[0]
        if FILES in words:
            yield from self._paths.get_completions(Document(rest, len(rest)), complete_event)
        for word in words:
            if word != FILES and word.startswith(rest):
                yield Completion(word, -len(rest))


class Keyboard:
    """Prompts on the terminal.

    Args:
        history: File with earlier input; ``None`` keeps none.
        commands: See ``_Commands``.
        footer: Returns the line below the prompt for a number of columns.
        shutdown: After a signal, no prompt waits.
    """

    def __init__(
        self,
        history: Path | None,
        commands: Mapping[str, tuple[tuple[str, ...], str]],
        footer: Callable[[int], str],
        shutdown: Shutdown,
    ) -> None:
        self._shutdown = shutdown
        self._session: PromptSession[str] = PromptSession(
            FormattedText([("bold", "> ")]),
            history=_history(history),
            completer=_Commands(commands),
            complete_while_typing=True,
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_bindings(),
            bottom_toolbar=lambda: footer(get_app().output.get_size().columns),
            reserve_space_for_menu=_MENU,
        )

    def ask(self) -> str:
        """Read a question or a command.

        Raises:
            EOFError: Ctrl-D, or the chat shuts down.
        """
        while True:
            try:
                text = self._session.prompt(pre_run=self._leave)
            except KeyboardInterrupt:  # a signal from outside; the key clears the line
                text = ""
            if self._shutdown.code:
                raise EOFError
            text = text.encode("utf-8", "replace").decode()
            if text.strip():
                return text.strip()

    def confirm(self, question: str) -> str:
        """Return the user's one-line answer to a question; empty for Ctrl-D.

        Input typed before the question is discarded.

        Raises:
            KeyboardInterrupt: Ctrl-C, or the chat shuts down.
        """
        session: PromptSession[str] = PromptSession(
            FormattedText([("bold", question)]), history=InMemoryHistory()
        )
        drop_typed()
        clear_typeahead(session.input)
        try:
            answer = session.prompt(pre_run=self._leave).strip()
        except EOFError:
            answer = ""
        if self._shutdown.code:  # also if a prompt that was just left took the signal
            raise KeyboardInterrupt
        return answer

    def _leave(self) -> None:
        """Leave a prompt when it starts, if a signal came before it listened."""
        if self._shutdown.code:
            get_app().exit(exception=KeyboardInterrupt)


def _history(file: Path | None) -> History:
    if file is None:
        return InMemoryHistory()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600, exist_ok=True)
    except OSError:
        return InMemoryHistory()
    return _History(str(file))


def _bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys
