"""The real command in a pseudo-terminal: questions, keys, commands, and what the screen shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.scripted_chat import PAUSE
from tests.support.terminal import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    ENTER,
    PASTE,
    Terminal,
    plain_answer,
    saved_messages,
)

QUICK = ("--tools", "none")  # without tools prompts are short


def test_a_question_a_tool_and_the_footer(sessions: Path) -> None:
    """The demo model by itself: it thinks, calls calculate, and answers."""
    arguments = ("demo", "--tools", "calculate")
    with Terminal(*arguments, sessions=sessions).start() as terminal:
        terminal.ask("How much is 17.5 percent of 2480?")
        text = terminal.text()
        assert '→ calculate(expression="' in text
        assert '"result": 434' in text
        assert re.search(r"^.*434\.$", text, re.MULTILINE)
        figures = r"\d+ tokens · [\d.]+ tok/s · prompt \d+ · first [\d.]+ s · read .*B · hits \d+%"
        assert re.fullmatch(figures, terminal.footer())
        assert terminal.end() == 0
    roles = [message["role"] for message in saved_messages(sessions)]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_markdown_is_rendered_and_thoughts_can_be_hidden(sessions: Path, scripted: Path) -> None:
    answer = "my plan</think>\n\n# Title\n\nSome **bold** text.\n\n- one\n- two\n"
    with Terminal(
        scripted, *QUICK, sessions=sessions, answers=[answer, answer]
    ).start() as terminal:
        terminal.ask("Go")
        text = terminal.text()
        assert "my plan" in text
        assert "Some bold text." in text
        assert " • one\n • two" in text
        assert "**" not in text
        terminal.ask("/thinking hide")
        terminal.ask("Again")
        assert terminal.text().count("my plan") == 1
        assert terminal.text().count("Some bold text.") == 2


def test_a_limit_of_thoughts(sessions: Path, scripted: Path) -> None:
    answer = "one two three</think>\n\nNever."  # of which the first token is taken
    limited = (scripted, *QUICK, "--max-thinking-tokens", 1, "-n", 30)
    with Terminal(*limited, sessions=sessions, answers=[answer]).start() as terminal:
        terminal.ask("Go")
    (_, answered) = saved_messages(sessions)
    assert answered["reasoning_content"] == "one"


def test_a_long_answer_is_there_whole_and_once(sessions: Path, scripted: Path) -> None:
    """MarkdownStream far longer than the screen: code, a list, a paragraph, a table."""
    code = "\n".join(f"line_{n} = {n}" for n in range(24))
    items = "\n".join(f"- item{n} text" for n in range(16))
    words = " ".join(f"word{n}" for n in range(70))
    rows = "\n".join(f"| row{n} | {n} |" for n in range(12))
    answer = f"```python\n{code}\n```\n\n{items}\n\n{words}\n\n| a | b |\n|---|---|\n{rows}\n\nEnd."
    terminal = Terminal(
        scripted,
        *QUICK,
        "-n",
        3000,
        sessions=sessions,
        answers=[plain_answer(answer)],
        rows=8,
        columns=50,
    )
    with terminal.start():
        terminal.ask("Go")
        text = terminal.text()
        seen = re.findall(r"\b(?:line_|item|word|row)\d+\b", text)
        wanted = re.findall(r"\b(?:line_|item|word|row)\d+\b", answer)
        assert seen == wanted
        assert "End." in text


def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(
    sessions: Path, scripted: Path
) -> None:
    numbers = " ".join(f"n{n}" for n in range(40))
    answers = [plain_answer(f"{numbers} {PAUSE}{numbers} end"), plain_answer("Short.")]
    with Terminal(scripted, *QUICK, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Count{ENTER}")
        terminal.held()
        terminal.wait_for("n10 ")
        terminal.type(CTRL_C)
        terminal.wait_for("(stopped)")
        terminal.wait(terminal.ready)
        assert terminal.footer().startswith("stopped · ")
        assert "end" not in terminal.text()
        # The prompt cache was kept: what follows is all that is processed.
        terminal.ask("And now?")
        assert "Short." in terminal.text()
        assert terminal.end() == 0
    first, partly, second, answer = saved_messages(sessions)
    assert first == {"role": "user", "content": "Count"}
    assert partly["content"].startswith("n0 n1 n2")
    assert second["content"] == "And now?"
    assert answer["content"] == "Short."


def test_ctrl_c_while_a_call_is_written_drops_the_call(
    sessions: Path, scripted: Path, folder: Path
) -> None:
    half = "<tool_call>\n<function=read_file>\n<parameter=path>\n" + f"very/{PAUSE}" * 2
    answers = [half, plain_answer("Good.")]
    arguments = (scripted, "--tools", "read_file", "--dir", folder)
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Read it{ENTER}")
        terminal.held()
        terminal.wait(lambda: re.search(r"\d+ tokens", terminal.footer()) is not None)
        terminal.type(CTRL_C)
        terminal.wait_for("(stopped; the question is removed)")
        terminal.wait(terminal.ready)
        terminal.ask("Then not")
        assert terminal.end() == 0
    assert [m["content"] for m in saved_messages(sessions)] == ["Then not", "Good."]


def test_keys_at_the_prompt(sessions: Path, scripted: Path) -> None:
    """Ctrl-C clears the line, Alt-Enter and a paste make several, Up brings the last one back."""
    answers = [plain_answer("One."), plain_answer("Two."), plain_answer("Three.")]
    with Terminal(scripted, *QUICK, sessions=sessions, answers=answers).start() as terminal:
        terminal.type("never sent")
        terminal.wait_for("never sent")
        terminal.type(CTRL_C)
        terminal.wait(lambda: "never sent" not in terminal.text())
        terminal.type(f"first{ALT_ENTER}second{ENTER}")
        terminal.wait_for("One.")
        terminal.wait(terminal.ready)
        terminal.type(PASTE.format("def f():\r    return 1\r\rf()"))
        terminal.wait_for("return 1")
        terminal.ask("")
        terminal.type("\x1b[A")
        terminal.wait(lambda: terminal.text().count("return 1") == 2)
        terminal.ask("")
        assert terminal.end() == 0
    questions = [m["content"] for m in saved_messages(sessions) if m["role"] == "user"]
    assert questions == ["first\nsecond", *["def f():\n    return 1\n\nf()"] * 2]


def test_commands(sessions: Path, scripted: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    answers = [plain_answer("Aye."), plain_answer("No.")]
    with Terminal(scripted, *QUICK, sessions=sessions, answers=answers).start() as terminal:
        terminal.ask("/help")
        assert "/thinking [on|hide|off]" in terminal.text()
        terminal.ask("/thinking")
        assert "reasoning is displayed" in terminal.text()
        terminal.ask("/nonsense")
        assert "no such command: /nonsense. /help lists them." in terminal.text()
        terminal.ask("/system Speak like a sailor.")
        terminal.ask("Ready?")
        terminal.ask(f"/save {file}")
        terminal.ask("/tools")
        assert "(no tools)" in terminal.text()
        terminal.ask("/clear")
        terminal.ask(f"/load {tmp_path / 'none.json'}")
        assert "no such file" in terminal.text()
        terminal.ask(f"/load {file}")
        assert "3 messages loaded" in terminal.text()
        terminal.ask("Sure?")
        # Tab completes; the rest of the command is typed.
        terminal.type("/st")
        terminal.wait_for("/stats  statistics of this chat")
        terminal.type("\t")
        terminal.wait_for("> /stats")
        terminal.ask("")
        assert "peak memory" in terminal.text()
        terminal.type(f"/quit{ENTER}")
        assert terminal.ended() == 0
    saved = json.loads(file.read_text())
    assert [m["role"] for m in saved] == ["system", "user", "assistant"]
    assert saved[0]["content"] == "Speak like a sailor."
    kept = sorted(sessions.glob("*/session.json"), key=lambda f: f.stat().st_mtime)
    contents = [[m["content"] for m in json.loads(f.read_text())["messages"]] for f in kept]
    assert contents == [
        ["Speak like a sailor.", "Ready?", "Aye."],
        ["Speak like a sailor.", "Ready?", "Aye.", "Sure?", "No."],
    ]


def test_saving_over_a_file_asks(sessions: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("precious")
    wide = {"columns": 200}  # for the path in one line
    with Terminal("demo", *QUICK, sessions=sessions, **wide).start() as terminal:
        terminal.type(f"/save {file}{ENTER}")
        terminal.wait_for("Overwrite it? y/n")
        terminal.type(ENTER)
        terminal.wait_for("not saved")
        terminal.wait(terminal.ready)
        assert file.read_text() == "precious"
        terminal.type(f"/save {file}{ENTER}")
        terminal.wait(lambda: terminal.text().count("y/n") == 2)
        terminal.type(CTRL_D)  # at a question this is a no
        terminal.wait(lambda: terminal.text().count("not saved") == 2)
        assert file.read_text() == "precious"


def test_a_narrow_terminal(sessions: Path, scripted: Path) -> None:
    answer = plain_answer(
        "A sentence that is longer than the line.\n\n```\nx = 'also longer than that'\n```"
    )
    terminal = Terminal(
        scripted,
        *QUICK,
        sessions=sessions,
        answers=[answer, "hm</think>\n\nYes."],
        columns=20,
        rows=10,
    )
    with terminal.start():
        terminal.ask("What do you say?")
        text = " ".join(terminal.text().split())
        assert "A sentence that is longer than the line." in text
        assert "also longer" in text
        assert len(terminal.footer()) <= 20
        terminal.ask("Really?")
        assert "Yes." in terminal.text()


def test_no_colour_and_a_dumb_terminal(sessions: Path, scripted: Path) -> None:
    answer = "plan</think>\n\n# Title\n\nSome **bold** text."
    plain = Terminal(scripted, *QUICK, sessions=sessions, answers=[answer], NO_COLOR="1")
    with plain.start():
        plain.ask("Go")
    # Attributes such as bold are no colours.
    codes = {
        code for found in re.findall(rb"\x1b\[([\d;]*)m", plain.raw) for code in found.split(b";")
    }
    assert not {c for c in codes if re.fullmatch(rb"3[0-8]|4[0-8]|9\d|10\d", c)}

    with Terminal(scripted, *QUICK, sessions=sessions, answers=[answer], TERM="dumb") as dumb:
        dumb.wait_for(">")
        dumb.type(f"Go{ENTER}")
        dumb.wait_for("Some **bold** text.")
        assert "(thinking) plan" in dumb.text()
        dumb.type(CTRL_D)
        assert dumb.ended() == 0
    assert not re.search(rb"\x1b\[\d*[A-HJKST]", dumb.raw), dumb.raw  # no cursor is moved
