"""Calls in the terminal: what runs, what asks, what a refusal does, and text that means harm."""

from __future__ import annotations

from pathlib import Path

from tests.support.scripted_chat import PAUSE
from tests.support.scripted_model import call_text
from tests.support.terminal import ASK, CTRL_C, ENTER, Terminal, plain_answer, saved_messages


def answer(terminal: Terminal, reply: str, nth: int = 1) -> None:
    """Answer the nth question about a call."""
    terminal.wait(lambda: terminal.text().count(ASK) == nth)
    terminal.type(reply + ENTER)


def results(sessions: Path) -> list[str]:
    return [m["content"] for m in saved_messages(sessions) if m["role"] == "tool"]


def test_the_demo_model_lists_files_once_it_may(sessions: Path, folder: Path) -> None:
    """By itself, not forced."""
    arguments = ("demo", "--tools", "list_files", "--dir", folder)
    with Terminal(*arguments, sessions=sessions).start() as terminal:
        terminal.type(f"List the files in docs.{ENTER}")
        answer(terminal, "y")
        terminal.wait(terminal.ready)
    (result,) = results(sessions)
    assert "guide.md" in result


def test_no_a_reason_and_always(sessions: Path, scripted: Path, folder: Path) -> None:
    call = call_text("read_file", path="docs/notes.txt")
    answers = [text for _ in range(4) for text in (call, plain_answer("Done."))]
    arguments = (scripted, "--tools", "read_file", "--dir", folder)
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        for nth, reply in enumerate(("n", "not that one", "a"), start=1):
            terminal.type(f"Turn {nth}{ENTER}")
            answer(terminal, reply, nth)
            terminal.wait(lambda n=nth: terminal.text().count("Done.") == n and terminal.ready())
        terminal.ask("Turn 4")  # always: no question any more
        assert terminal.text().count(ASK) == 3
        terminal.ask("/tools")
        assert "always allowed in this chat" in terminal.text()
    shown = '{"path": "docs/notes.txt", "text": "one\\ntwo\\n"}'
    refused = "The user refused this call: "
    expected = [f"{refused}they said no", f"{refused}not that one", shown, shown]
    assert results(sessions) == expected


def test_no_command_runs_without_a_yes(sessions: Path, scripted: Path, folder: Path) -> None:
    """Neither by Enter, nor by what was typed before the question, nor after Ctrl-C at it."""
    call = call_text("run_command", command="touch ran; echo done")
    held = call.replace("touch", f"touch{PAUSE}")
    answers = [call, plain_answer("A."), held, plain_answer("B."), call, call, plain_answer("D.")]
    arguments = (scripted, "--tools", "shell", "--dir", folder)
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"One{ENTER}")
        answer(terminal, "", 1)
        terminal.wait(lambda: "A." in terminal.text() and terminal.ready())
        assert not (folder / "ran").exists()

        terminal.type(f"Two{ENTER}")
        terminal.held()
        terminal.type(f"y{ENTER}a{ENTER}")  # while the call is being written
        terminal.go_on()
        terminal.wait(lambda: terminal.text().count(ASK) == 2)
        terminal.read(1.0)
        assert terminal.text().count("B.") == 0
        answer(terminal, "n", 2)
        terminal.wait(lambda: "B." in terminal.text() and terminal.ready())
        assert not (folder / "ran").exists()

        terminal.type(f"Three{ENTER}")
        terminal.wait(lambda: terminal.text().count(ASK) == 3)
        terminal.type(CTRL_C)
        terminal.wait(lambda: "(stopped)" in terminal.text() and terminal.ready())
        assert not (folder / "ran").exists()

        terminal.type(f"Four{ENTER}")
        answer(terminal, "y", 4)
        terminal.wait(lambda: "D." in terminal.text() and terminal.ready())
        assert (folder / "ran").exists()
    assert results(sessions)[-2:] == [
        "Error: this call was interrupted",
        "[exit code 0]\ndone\n",
    ]


def test_a_long_command_is_shown_whole_before_the_question(
    sessions: Path, scripted: Path, folder: Path
) -> None:
    command = "echo start " + " ".join(f"w{n}" for n in range(25)) + "\n\n\n; rm -rf end"
    arguments = (scripted, "--tools", "shell", "--dir", folder)
    answers = [call_text("run_command", command=command), plain_answer("No.")]
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Go{ENTER}")
        terminal.wait_for(ASK)
        shown = terminal.text().replace("\n", "")
        assert "w0 w1 w2" in shown
        assert "w24\\n\\n\\n; rm -rf end" in shown
        answer(terminal, "n")
        terminal.wait(terminal.ready)


def test_ctrl_c_ends_a_tool_at_once(sessions: Path, scripted: Path, folder: Path) -> None:
    arguments = (scripted, "--tools", "shell", "--allow-tool", "shell", "--dir", folder)
    answers = [call_text("run_command", command="touch began; sleep 600"), plain_answer("Next.")]
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Wait{ENTER}")
        terminal.wait((folder / "began").exists)
        terminal.type(CTRL_C)
        terminal.wait(lambda: "(stopped)" in terminal.text() and terminal.ready())
        assert ASK not in terminal.text()
        terminal.ask("What now?")
        assert "Next." in terminal.text()
    assert results(sessions) == ["Error: this call was interrupted"]


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m \u202egnp\r!"


def test_hostile_text_never_reaches_the_terminal(
    sessions: Path, scripted: Path, folder: Path
) -> None:
    """In a file name, a file's text, what a tool prints, an argument and the answer itself."""
    (folder / "docs" / f"a{HOSTILE.replace('/', '')}.txt").write_text("x")
    (folder / "evil.txt").write_text(HOSTILE)
    own = folder / "own.py"
    own.write_text(
        "from flash_moe.tools import tool\n\n"
        "@tool\ndef loud(text: str) -> str:\n"
        f"    'Say it.'\n    print({HOSTILE!r} + 'printed')\n    return {HOSTILE!r} + 'returned'\n"
    )
    answers = [
        call_text("list_files", path="docs"),
        call_text("read_file", path="evil.txt"),
        call_text("loud", text=f"argument{HOSTILE}"),
        f"thought {HOSTILE}</think>\n\n**answer** [a](http://b) &#27;[2J\n\n```\n{HOSTILE}\n```\n",
    ]
    arguments = (
        *(scripted, "--tools", "list_files,read_file", "--dir", folder, "--tool-file", own),
        *("--allow-tool", "list_files", "--allow-tool", "read_file"),
    )
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Go{ENTER}")
        answer(terminal, "y")
        terminal.wait(lambda: "answer" in terminal.text() and terminal.ready())
        text = terminal.text()
    for word in ("printed", "returned", "thought", "argument", "␛]0;owned␇"):
        assert word in text, text
    assert "\\u202e" in text
    for sequence in (b"\x1b]0;", b"\x1b[2J", b"\x1b[31mred", b"\x1b]8;"):
        assert sequence not in terminal.raw
    shown = terminal.raw.decode("utf-8")
    assert "\x9b" not in shown
    assert "\u202e" not in shown
