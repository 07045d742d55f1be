"""The shell tool: where it runs, what it says, and that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe.errors import ConfigError
from flash_moe.tools import ToolArgumentError, ToolError
from flash_moe.tools.builtin import shell
from flash_moe.tools.builtin.shell_command import _Output
from tests.support.processes import gone, soon_gone

pytestmark = pytest.mark.process

TELLS_ITS_PROCESS = """
import sys
from flash_moe.tools.builtin import shell_command

def told(process, *more):
    print(process.pid, flush=True)
    return collect(process, *more)

collect, shell_command._collect = shell_command._collect, told
shell_command.shell(sys.argv[1], 3600)(sys.argv[2])
"""


def test_schema(tmp_path: Path) -> None:
    made = shell(tmp_path)
    assert made.name == "run_command"
    assert list(made.parameters["properties"]) == made.parameters["required"] == ["command"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo hello", "[exit code 0]\nhello\n"),
        ("echo bad >&2; exit 3", "[exit code 3]\nbad\n"),
        ("true", "[exit code 0]\n"),
        ("", "[exit code 0]\n"),
        ("cat; echo end", "[exit code 0]\nend\n"),  # no input
        ("kill -9 $$", "[ended by signal 9]\n"),
        ("printf 'a\\377b'", "[exit code 0]\na\ufffdb"),
        ("printf 'é'", "[exit code 0]\né"),
        ("echo one; echo two | tr t T", "[exit code 0]\none\nTwo\n"),
    ],
)
def test_what_it_says(command: str, says: str, tmp_path: Path) -> None:
    assert shell(tmp_path).run({"command": command}) == says


def test_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    assert shell(tmp_path / "link")("pwd -P") == f"[exit code 0]\n{(tmp_path / 'a b').resolve()}\n"


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    said = shell(tmp_path).run({"command": "no-such-command-anywhere"})
    assert said.startswith("[exit code 127]\n")
    assert "not found" in said


def test_head_and_tail_of_long_output(tmp_path: Path) -> None:
    said = shell(tmp_path, max_output=20).run({"command": "seq 1 100000"})
    assert said == "[exit code 0]\n1\n2\n3\n4\n5\n\n[... 588875 bytes left out ...]\n99\n100000\n"


@given(pieces=st.lists(st.binary(max_size=12), max_size=12), limit=st.integers(1, 30))
def test_output_is_bounded(pieces: list[bytes], limit: int) -> None:
    output = _Output(limit)
    for piece in pieces:
        output.take(piece)
        assert len(output.head) + len(output.tail) <= limit
    whole = b"".join(pieces)
    assert output.size == len(whole)
    if len(whole) <= limit - 1:
        assert output.head + output.tail == whole
    assert whole.startswith(bytes(output.head))
    assert whole.endswith(bytes(output.tail))


def test_the_time_limit_ends_it_with_its_children(tmp_path: Path) -> None:
    command = "echo begun; sleep 600 & echo $! > child; (sleep 600; echo never) ; echo never"
    said = shell(tmp_path, timeout_s=0.5).run({"command": command})
    assert said == "[stopped: the time limit of 0.5 s is over]\nbegun\n"
    assert soon_gone(int((tmp_path / "child").read_text()))


def test_endless_output_ends_at_the_time_limit(tmp_path: Path) -> None:
    said = shell(tmp_path, timeout_s=0.3, max_output=1000).run({"command": "yes"})
    assert said.startswith("[stopped: the time limit")
    assert len(said) < 1200


def test_one_that_closes_its_output_and_sleeps(tmp_path: Path) -> None:
    said = shell(tmp_path, timeout_s=0.3).run({"command": "exec >&- 2>&-; sleep 600"})
    assert said.startswith("[stopped: the time limit")
    assert shell(tmp_path).run({"command": "exec >&- 2>&-; exit 4"}) == "[exit code 4]\n"


def test_a_child_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """It holds the output open; when the command ends it is killed."""
    said = shell(tmp_path, timeout_s=300).run({"command": "sleep 600 & echo $!"})
    assert said.startswith("[exit code 0]\n")
    assert soon_gone(int(said.split()[-1]))


def test_ctrl_c_ends_it_with_its_children(tmp_path: Path) -> None:
    caller = threading.main_thread().ident
    assert caller is not None

    def interrupt() -> None:
        waiting = threading.Event()
        file = tmp_path / "pid"
        for _ in range(3000):
            if file.exists() and file.read_text().strip():
                break
            waiting.wait(0.02)
        signal.pthread_kill(caller, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        shell(tmp_path, timeout_s=300)("sleep 600 & echo $! > pid; wait")
    thread.join()
    assert soon_gone(int((tmp_path / "pid").read_text()))


def test_the_end_of_this_process_ends_it(tmp_path: Path) -> None:
    """Whatever the end is: nobody else holds the time limit."""
    with subprocess.Popen(
        [sys.executable, "-c", TELLS_ITS_PROCESS, tmp_path, "sleep 600; echo never"],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.kill()
    assert soon_gone(pid)


def test_no_file_descriptors_are_left(tmp_path: Path) -> None:
    made = shell(tmp_path, timeout_s=0.2)
    made("true")
    before = len(os.listdir("/dev/fd"))
    for command in ("true", "sleep 9", "exit 1"):
        made(command)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("command", ["a\0b", "\ud800", "x" * 10_000_000])
def test_commands_that_cannot_be_started(command: str, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="the command cannot be started"):
        shell(tmp_path).run({"command": command})
    with pytest.raises(ToolArgumentError):
        shell(tmp_path).run({"command": ["ls"]})


@settings(max_examples=15, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_text_arrives(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"
    said = shell(tmp_path_factory.getbasetemp()).run({"command": f"printf %s {quoted}"})
    assert said == f"[exit code 0]\n{text}"


def test_bad_limits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run_command: expected a directory"):
        shell(tmp_path / "absent")
    for limits in ({"timeout_s": 0}, {"timeout_s": -1}, {"timeout_s": float("nan")}):
        with pytest.raises(ConfigError, match="timeout_s: expected above 0"):
            shell(tmp_path, **limits)
    with pytest.raises(ConfigError, match="max_output: expected at least 1"):
        shell(tmp_path, max_output=0)
