"""``flash-moe chat``: a conversation on the terminal, or one piped question."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.generate import standard_input
from flash_moe.cli.machines import connected, follow
from flash_moe.cli.options import add_options, given
from flash_moe.env import prompt_cache_options
from flash_moe.errors import ConfigError, PromptError
from flash_moe.files.sizes import format_bytes
from flash_moe.generation.options import GenerationOptions
from flash_moe.options.loading import LoadOptions
from flash_moe.options.prompt_cache import PromptCacheOptions

if TYPE_CHECKING:
    from flash_moe.chat.autosave import Autosave
    from flash_moe.chat.permissions import AnyTool
    from flash_moe.chat.sessions import Session
    from flash_moe.chat.signals import Shutdown
    from flash_moe.chat.turn import Chat
    from flash_moe.chat.view import View
    from flash_moe.generation.prompt_cache_dir import PromptCacheDir
    from flash_moe.ranks.group import Ranks


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("chat", parents=[common], help="chat with a model on the terminal")
    parser.add_argument("model", nargs="?", metavar="STORE", help="store or mlx checkpoint")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--hide-thinking", action="store_true", help="do not print reasoning")
    add_options(parser, "sampling", GenerationOptions)
    _add_tools(parser)
    _add_sessions(parser)
    add_options(parser, "prompt caches", PromptCacheOptions)
    add_options(parser, "streaming", LoadOptions)
    parser.set_defaults(run=run)


def _add_tools(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tools")
    group.add_argument(
        "--tools",
        metavar="NAMES",
        help="tools that the model may call, separated by commas, or none (default: calculate,"
        "get_time,convert_units,read_file,list_files); shell lets it run commands",
    )
    group.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        help="directory of the file tools and the shell (default: the current one)",
    )
    group.add_argument(
        "--tool-file",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.py",
        help="run this Python file and add the tools that it defines with @tool; repeatable",
    )
    group.add_argument(
        "--allow-tool",
        action="append",
        default=[],
        metavar="NAME",
        help="run calls of this tool without confirmation in this chat; repeatable",
    )


def _add_sessions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sessions")
    group.add_argument(
        "--resume",
        nargs="?",
        const="last",
        metavar="NAME",
        help="continue a saved conversation (without a name: the last one)",
    )
    group.add_argument("--sessions", action="store_true", help="list the saved conversations")
    group.add_argument("--no-save", action="store_true", help="save nothing of this chat")


def run(args: argparse.Namespace) -> int:
    if args.sessions:
        return _list_sessions()
    if args.no_save and args.resume:
        raise ConfigError(
            "chat", "--no-save keeps nothing and --resume continues a saved session: drop one"
        )
    caches = prompt_cache_options(**given(args, PromptCacheOptions))
    if (ranks := connected(args)) is not None:
        return _run_on_machines(args, caches, ranks)
    session, model = _session(args)
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    question = None if on_terminal else _piped_question()
    tools = _tools(args)  # before the model is loaded, which takes longer
    from flash_moe.chat.autosave import Autosave
    from flash_moe.chat.interrupt import quiet_terminal
    from flash_moe.chat.signals import Shutdown
    from flash_moe.generation.prompt_cache_dir import open_prompt_caches
    from flash_moe.hub.resolve import resolve
    from flash_moe.loader import load

    path = resolve(model)
    shutdown = Shutdown()
    quiet = quiet_terminal() if on_terminal else nullcontext(shutdown.restore_terminal)
    with (
        shutdown.handling(),
        quiet as shutdown.restore_terminal,
        load(path, **given(args, LoadOptions)) as flash,
    ):
        if tools and not flash.tokenizer.has_tool_calling:
            if args.tools or args.tool_file:
                raise ConfigError("chat", "the chat template of this model does not support tools")
            tools = []
        keep = not args.no_save and (on_terminal or session is not None)
        view = _view(on_terminal)
        autosave = Autosave(path, view.note, session) if keep else None
        disk = open_prompt_caches(flash.model, caches, view.note) if keep else None
        chat = _chat(args, flash, view, tools, autosave, disk, shutdown)
        if question is not None:
            answered = chat.run_turn(question)
            stopped = chat.turn_stats is not None and chat.turn_stats.stopped
            return 130 if stopped else 0 if answered else 1
        return _on_terminal(chat, args.no_save)


def _run_on_machines(args: argparse.Namespace, caches: PromptCacheOptions, ranks: Ranks) -> int:
    """Chat on rank 0 with an engine that all ranks run. Each line of standard input is a turn."""
    from flash_moe.chat.lines import Lines
    from flash_moe.chat.loop import run_chat
    from flash_moe.chat.plain_view import Plain
    from flash_moe.chat.signals import Shutdown
    from flash_moe.generation.engine_model import EngineModel
    from flash_moe.server.options import ServeOptions
    from flash_moe.server.run import engine_of

    model = ranks.share(ranks.together(lambda: _session(args)[1]))
    assert model is not None
    tools = ranks.together(lambda: _tools(args) if ranks.first else [])
    view, shutdown = Plain(sys.stderr), Shutdown()
    options = ServeOptions(
        model=model,
        streaming={**given(args, LoadOptions), "group": ranks},
        concurrency=1,
        max_queue=1,
        prompt_caches_on_disk=caches,
    )
    engine = engine_of(options, view.note)
    if not ranks.first:
        return follow(engine)
    try:
        with shutdown.handling():
            while not engine.loaded.wait(0.2):
                pass
            if engine.error is not None:
                raise engine.error
            flash = EngineModel(engine)
            chat = _chat(args, flash, view, tools, None, None, shutdown)
            chat.use_engine(flash)
            lines = Lines(sys.stdin, view)
            chat.confirm_with(lines.confirm)
            run_chat(chat, lines)
            if engine.error is not None:
                raise engine.error
    finally:
        engine.close()
    return 0


def _session(args: argparse.Namespace) -> tuple[Session | None, str]:
    """Return the session to continue, if any, and the model: the given one or the session's."""
    if args.resume is None:
        if args.model is None:
            raise ConfigError("chat", "expected a store", "Try flash-moe chat demo.")
        return None, args.model
    from flash_moe.chat.sessions import Session, find_session

    session = Session(find_session(args.resume))
    return session, args.model or session.load()[1]


def _piped_question() -> str:
    text = standard_input()
    if not text.strip():
        raise PromptError("chat", "no question: standard input is empty", "Pipe a question in.")
    return text.strip()


def _tools(args: argparse.Namespace) -> list[AnyTool]:
    from flash_moe.chat.permissions import DEFAULT, Permissions, built_in, tools_of_file

    names = DEFAULT if args.tools is None else [n.strip() for n in args.tools.split(",")]
    tools = built_in(names, args.dir)
    for file in args.tool_file:
        tools += tools_of_file(file)
    Permissions(tools, args.allow_tool)  # raises errors before the model is loaded
    return tools


def _view(on_terminal: bool) -> View:
    from flash_moe.chat.plain_view import Plain

    if not on_terminal:
        return Plain(sys.stderr)
    from flash_moe.chat.terminal_view import Screen

    screen = Screen()
    return Plain() if screen.console.is_dumb_terminal else screen


def _chat(
    args: argparse.Namespace,
    flash: Any,
    view: View,
    tools: list[AnyTool],
    autosave: Autosave | None,
    disk: PromptCacheDir | None,
    shutdown: Shutdown,
) -> Chat:
    from flash_moe.chat.turn import Chat

    chat = Chat(
        flash,
        view,
        tools,
        always=args.allow_tool,
        system=args.system,
        thinking="hide" if args.hide_thinking else "on",
        autosave=autosave,
        disk=disk,
        options=given(args, GenerationOptions),
        debug=args.debug,
        shutdown=shutdown,
    )
    if autosave is not None and autosave.session is not None:
        autosave.resume(chat.conversation)
        if args.system is not None:
            chat.set_system(args.system)
    return chat


def _on_terminal(chat: Chat, no_save: bool) -> int:
    from flash_moe.chat.commands import COMMANDS
    from flash_moe.chat.interrupt import ignored
    from flash_moe.chat.keyboard import Keyboard
    from flash_moe.chat.loop import run_chat, show_last
    from flash_moe.chat.sessions import sessions_dir
    from flash_moe.chat.stats import footer

    keyboard = Keyboard(
        None if no_save else sessions_dir() / "history",
        {name: (c.words, c.summary) for name, c in COMMANDS.items()},
        lambda columns: footer(chat.turn_stats, columns),
        chat.shutdown,
    )
    chat.confirm_with(keyboard.confirm)
    if chat.autosave is not None and chat.autosave.session is not None:
        chat.view.note(
            f"resumed session {chat.autosave.session.name}: "
            f"{len(chat.conversation.messages)} messages"
        )
        show_last(chat)
    with ignored():
        run_chat(chat, keyboard)
    if chat.autosave is not None and chat.autosave.session is not None:
        chat.view.note(f"flash-moe chat --resume {chat.autosave.session.name} resumes it")
    return 0


def _list_sessions() -> int:
    from flash_moe.chat.sanitize import one_line
    from flash_moe.chat.sessions import list_sessions, sessions_dir

    sessions = list_sessions()
    for info in sessions:
        date = datetime.fromtimestamp(info.changed).isoformat(" ", "minutes")
        taken = format_bytes(info.n_bytes)
        print(
            f"{one_line(info.name)}  {date}  {info.n_messages:4} messages  {taken:>9}  {info.title}"
        )
    print(f"{len(sessions)} sessions in {one_line(str(sessions_dir()))}", file=sys.stderr)
    return 0
