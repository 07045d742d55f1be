"""Signals that end a chat: the terminal, what a tool has started, and the session afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from flash_moe.chat.interrupt import Interrupts
from flash_moe.chat.keyboard import Keyboard
from flash_moe.chat.signals import Shutdown
from flash_moe.generation.cache_files import cache_files
from tests.support.effort import first
from tests.support.processes import environment, soon_gone
from tests.support.scripted_chat import PAUSE, PAUSE_KEEPING
from tests.support.scripted_model import call_text
from tests.support.terminal import ASK, ENTER, SCRIPTED_CHAT, Terminal, plain_answer, saved_messages
from tests.support.timeout import TIMEOUT_S, wait_until

WAYS = ["SIGTERM", "SIGHUP", "closed"]
SHELL = ("--tools", "shell", "--dir")
SLEEP = "sleep 600 & echo $! > pid; touch began; wait"


def end(terminal: Terminal, way: str) -> None:
    """End a chat, and look at what it leaves of the terminal."""
    if way == "closed":
        assert terminal.hang_up() == 128 + signal.SIGHUP
        return
    number = signal.Signals[way]
    assert terminal.is_quiet()
    os.kill(terminal.process.pid, number)
    terminal.read_to_the_end()
    assert not terminal.is_quiet()
    assert terminal.ended() == 128 + number
    assert "Traceback" not in terminal.text()


@pytest.mark.parametrize("way", WAYS)
def test_at_the_prompt(sessions: Path, way: str) -> None:
    with Terminal("demo", "--tools", "none", sessions=sessions).start() as terminal:
        terminal.type("half a quest")
        terminal.wait_for("half a quest")
        end(terminal, way)
    assert not list(sessions.glob("*/session.json"))


ANSWERING = [
    *((PAUSE, "SIGTERM"), (PAUSE, "closed"), (PAUSE_KEEPING, "SIGHUP")),
    *((PAUSE, "SIGHUP"), (PAUSE_KEEPING, "SIGTERM"), (PAUSE_KEEPING, "closed")),
]


@pytest.mark.parametrize(("pause", "way"), first(3, ANSWERING))
def test_while_it_answers(
    sessions: Path, scripted: Path, way: str, pause: str, tmp_path: Path
) -> None:
    """Turns so far are kept, with their cache."""
    answers = [plain_answer(f"One two {pause}" + "three four five" * (pause == PAUSE))]
    caches = tmp_path / "caches"
    disk = ("--prompt-cache-dir", caches, "--prompt-cache-disk-gb", "1")
    quick = (scripted, "--tools", "none", *disk)
    with Terminal(*quick, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Count{ENTER}")
        terminal.held()
        end(terminal, way)
    question, answer = saved_messages(sessions)
    assert question["content"] == "Count"
    assert answer["content"].startswith("One two")
    assert "five" not in answer["content"]
    assert cache_files(caches)


@pytest.mark.parametrize("way", first(2, ["closed", "SIGTERM", "SIGHUP"]))
def test_while_a_tool_runs(sessions: Path, scripted: Path, folder: Path, way: str) -> None:
    arguments = (scripted, *SHELL, folder, "--allow-tool", "shell")
    answers = [call_text("run_command", command=SLEEP)]
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Wait{ENTER}")
        terminal.wait((folder / "began").exists)
        end(terminal, way)
    assert soon_gone(int((folder / "pid").read_text()))
    assert saved_messages(sessions)[-1]["content"] == "Error: this call was interrupted"


@pytest.mark.parametrize("way", first(1, ["closed", "SIGTERM"]))
def test_at_the_question_about_a_call(
    sessions: Path, scripted: Path, folder: Path, way: str
) -> None:
    answers = [call_text("run_command", command="touch began")]
    with Terminal(scripted, *SHELL, folder, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Go{ENTER}")
        terminal.wait_for(ASK)
        end(terminal, way)
    assert not (folder / "began").exists()
    assert saved_messages(sessions)[-1]["content"] == "Error: this call was interrupted"


def test_a_second_one_ends_it_at_once(sessions: Path, scripted: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from pathlib import Path\nimport time\nfrom flash_moe.tools import tool\n\n"
        "@tool\ndef stubborn() -> str:\n"
        "    'Sleep.'\n    here = Path(__file__)\n"
        "    for n in range(9):\n"
        "        try:\n"
        "            here.with_name(f'began-{n}').touch()\n"
        "            time.sleep(600)\n"
        "        except KeyboardInterrupt:\n"
        "            pass\n"
    )
    arguments = (scripted, "--tools", "none", "--tool-file", own, "--allow-tool", "stubborn")
    answers = [call_text("stubborn")]
    with Terminal(*arguments, sessions=sessions, answers=answers).start() as terminal:
        terminal.type(f"Go{ENTER}")
        terminal.wait((tmp_path / "began-0").exists)
        os.kill(terminal.process.pid, signal.SIGTERM)
        terminal.wait((tmp_path / "began-1").exists)
        os.kill(terminal.process.pid, signal.SIGTERM)
        terminal.read_to_the_end()
        assert not terminal.is_quiet()
        terminal.ended()
        assert terminal.process.signalstatus == signal.SIGTERM


def test_without_a_terminal(scripted: Path, folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "answers.json"
    script.write_text(json.dumps([call_text("run_command", command=SLEEP)]))
    command = [
        *SCRIPTED_CHAT,
        script,
        "chat",
        scripted,
        *SHELL,
        folder,
        "--allow-tool",
        "shell",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"Wait")
        process.stdin.close()
        assert process.stderr is not None
        wait_until(lambda: (folder / "began").exists() or process.poll() is not None)
        assert (folder / "began").exists(), process.stderr.read()
        process.terminate()
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
        assert b"Traceback" not in process.stderr.read()
    assert soon_gone(int((folder / "pid").read_text()))


@pytest.mark.timeout(60)
def test_one_that_came_between_two_steps_is_not_forgotten() -> None:
    """Neither a prompt nor an answer is begun."""
    shutdown = Shutdown()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keyboard = Keyboard(None, {}, lambda columns: "", shutdown)
        shutdown.code = 143
        with pytest.raises(EOFError):
            keyboard.ask()
        with pytest.raises(KeyboardInterrupt):
            keyboard.confirm("Sure?")
    with (
        Interrupts(lambda: None, shutdown).handling() as interrupts,
        pytest.raises(KeyboardInterrupt),
    ):
        interrupts.check()
