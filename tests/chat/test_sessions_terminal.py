"""Sessions in the terminal: going on after kill -9, two at once, the list, errors on the way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from flash_moe.demo_model import STORE
from flash_moe.generation.cache_files import cache_files
from tests.support.processes import in_process
from tests.support.scripted_chat import PAUSE, PAUSE_KEEPING
from tests.support.scripted_model import call_text
from tests.support.terminal import CTRL_D, ENTER, Terminal, kill, plain_answer, saved_messages

PROMPT_TOKENS = re.compile(r"prompt (\d+)")
TOOLS = ("demo", "--tools", "calculate")
FIRST, SECOND = "How much is 17.5 percent of 2480?", "How much is 12 times 12?"


def prompt_tokens(terminal: Terminal) -> int:
    found = PROMPT_TOKENS.search(terminal.footer())
    assert found, terminal.footer()
    return int(found[1])


def test_going_on_after_kill_9_processes_only_what_is_new(
    sessions: Path, scripted: Path, tmp_path: Path
) -> None:
    caches = tmp_path / "caches"
    disk = ("--prompt-cache-dir", caches, "--prompt-cache-disk-gb", "1")
    tools = (scripted, "--tools", "calculate", *disk)
    first = [call_text("calculate", expression="2480 * 17.5 / 100"), plain_answer("That is 434.")]
    second = [plain_answer("That is 144.")]
    with Terminal(*tools, sessions=sessions, answers=first).start() as terminal:
        terminal.ask(FIRST)
        whole = prompt_tokens(terminal)
        terminal.wait(lambda: len(cache_files(caches)) == 2)  # of both answers
        kill(terminal)
    with Terminal(*tools, "--resume", sessions=sessions, answers=second).start() as terminal:
        assert re.search(r"resumed session .*: 4 messages", terminal.text())
        assert FIRST in terminal.text()  # the last exchange is shown again
        assert re.search(r"434\.\n\n>", terminal.text())
        terminal.ask(SECOND)
        resumed = prompt_tokens(terminal)
        assert terminal.end() == 0
    other = tmp_path / "other"
    # The same without the kill.
    tools = (*tools, "--prompt-cache-disk-gb", "0")
    with Terminal(*tools, sessions=other, answers=[*first, *second]).start() as terminal:
        terminal.ask(FIRST)
        terminal.ask(SECOND)
        unbroken = prompt_tokens(terminal)
    assert resumed == unbroken < whole
    plain = [
        [{**m, "tool_calls": 0, "tool_call_id": 0} for m in saved_messages(p)]
        for p in (sessions, other)
    ]
    assert plain[0] == plain[1]


def test_two_terminals_on_one_session(sessions: Path, scripted: Path) -> None:
    quick = (scripted, "--tools", "none")
    with Terminal(
        *quick, sessions=sessions, answers=[plain_answer("Hi."), plain_answer("Yes.")]
    ).start() as first:
        first.ask("Hello")
        (name,) = [path.parent.name for path in sessions.glob("*/session.json")]
        second = Terminal(*quick, "--resume", sessions=sessions)
        assert second.ended() == 1
        said_no = second.text().replace("\n", "")
        assert f"session {name} is open in another terminal (process " in said_no
        third = Terminal(*quick, sessions=sessions, answers=[plain_answer("Me too.")]).start()
        with third:
            third.ask("Hello")  # a conversation of its own
            third.end()
        first.ask("Still there?")
        first.end()
    assert len(list(sessions.glob("*/session.json"))) == 2


def test_the_list_of_sessions(sessions: Path, scripted: Path) -> None:
    quick = (scripted, "--tools", "none")
    with Terminal(*quick, sessions=sessions, answers=[plain_answer("Hi.")]).start() as terminal:
        terminal.ask("Hello \u202ethere")
        terminal.end()
    out = in_process("chat", "--sessions")
    assert out.returncode == 0
    assert re.fullmatch(
        r"\d{8}-\d{6}-[0-9a-f]{4}  \d{4}-\d\d-\d\d \d\d:\d\d +2 messages +[\d.]+ k?B  "
        r"Hello \\u202ethere\n",
        out.stdout,
    )
    assert out.stderr == f"1 sessions in {sessions}\n"


def test_no_save_keeps_nothing(sessions: Path, scripted: Path) -> None:
    arguments = (scripted, "--tools", "none", "--no-save")
    with Terminal(*arguments, sessions=sessions, answers=[plain_answer("Hi.")]).start() as terminal:
        terminal.ask("Hello")
        terminal.end()
    assert not sessions.exists()


def test_a_failed_read_and_a_full_context_are_one_line(sessions: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(STORE, tmp_path / "store"))
    files = sorted((store / "experts").iterdir())
    long = tmp_path / "long.json"
    long.write_text(json.dumps([{"role": "user", "content": "word " * 4200}]))
    good = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(bytes(file.stat().st_size))
    arguments = (store, "--tools", "none", "--verify-reads", "--io", "buffered")
    with Terminal(*arguments, sessions=sessions).start() as terminal:
        terminal.ask("Hello")
        assert re.search(r"layer \d+, expert \d+", terminal.text())
        assert "Traceback" not in terminal.text()
        for file, content in zip(files, good, strict=True):
            file.write_bytes(content)
        terminal.ask(f"/load {long}")
        terminal.ask("Too much?")
        assert "the context of this model is 4096" in " ".join(terminal.text().split())
        terminal.ask("/clear")
        terminal.ask("Thank you!")
        assert "welcome" in terminal.text().lower()
    assert [m["role"] for m in saved_messages(sessions)] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "expected a store"),
        (["demo", "--resume", "x"], "no sessions in"),
        (["demo", "--tools", "calculate,fly"], "expected calculate, get_time"),
        (["demo", "--allow-tool", "shell"], "no tool run_command"),
        (["demo", "--tool-file", "none.py"], "expected a Python file"),
        (["demo", "--dir", "/no/such"], "expected a directory"),
        (["demo", "--prompt-cache-disk-gb", "-1"], "expected 0 or more"),
        (["demo", "--no-save", "--resume"], "--no-save keeps nothing"),
    ],
)
def test_wrong_options_are_one_line(sessions: Path, arguments: list[str], text: str) -> None:
    out = in_process("chat", *arguments, input="Hello")
    assert out.returncode == 1
    assert text in out.stderr
    assert out.stderr.count("\n") == 1


def test_without_a_terminal(sessions: Path) -> None:
    """Plain text in, plain text out; calls are told beside it, and nothing is kept."""
    out = in_process("chat", *TOOLS, input=f"{FIRST}\n")
    assert out.returncode == 0
    assert out.stdout == "That is 434.\n"
    assert "→ calculate(" in out.stderr
    assert "\x1b" not in out.stdout + out.stderr
    assert not sessions.exists()


def test_without_a_terminal_nobody_confirms(sessions: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text("x")
    arguments = ("demo", "--tools", "list_files", "--dir", tmp_path)
    out = in_process("chat", *arguments, input="List the files in docs.")
    assert "not confirmed: stdin is not a terminal" in out.stderr
    allowed = ("--allow-tool", "list_files")
    out = in_process("chat", *arguments, *allowed, input="List the files in docs.")
    assert "guide.md" in out.stderr
    assert "guide" in out.stdout


@pytest.mark.parametrize(("content", "text"), [(b" \n", "no question"), (b"\xff", "not UTF-8")])
def test_bad_standard_input(sessions: Path, content: bytes, text: str) -> None:
    out = in_process("chat", "demo", input=content)
    assert out.returncode == 1
    assert text in out.stderr


def test_enter_is_not_an_answer_typed_ahead(sessions: Path, scripted: Path) -> None:
    """What is typed while the chat answers is the next question."""
    answers = [plain_answer(f"One two {PAUSE}three four five."), plain_answer("Next.")]
    quick = (scripted, "--tools", "none")
    with Terminal(*quick, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"First{ENTER}")
        terminal.held()
        terminal.type(f"Second{ENTER}")
        terminal.go_on()
        terminal.wait(lambda: "Next." in terminal.text() and terminal.ready())
    assert [m["content"] for m in saved_messages(sessions)][2:] == ["Second", "Next."]


@pytest.mark.parametrize("pause", [PAUSE, PAUSE_KEEPING])
def test_ctrl_d_before_the_prompt_is_there_ends_the_chat_at_it(
    sessions: Path, scripted: Path, pause: str
) -> None:
    answers, quick = [plain_answer(f"One two.{pause}")], (scripted, "--tools", "none")
    with Terminal(*quick, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"First{ENTER}")
        terminal.held()
        terminal.type(CTRL_D)
        terminal.go_on()
        assert terminal.ended() == 0
    assert [m["content"] for m in saved_messages(sessions)] == ["First", "One two."]
