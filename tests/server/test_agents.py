"""Claude Code, Codex and opencode complete a turn with a tool call that they run themselves.

The agents come from npm. A test is skipped if its agent is neither in the folder that
``FLASH_MOE_AGENTS`` names nor on ``PATH``; CONTRIBUTING.md has the command that installs them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live_server import Live
from tests.support.processes import run
from tests.support.scripted_model import call_text
from tests.support.scripted_server import scripted_server

pytestmark = [pytest.mark.process, pytest.mark.slow]

WRITE, MADE, DONE = "echo from the agent > made.txt", "from the agent\n", "The file is written."
# No telemetry, updates and downloads.
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
}
SCRIPTS = {
    "Bash": [call_text("Bash", command=WRITE, description="Write a file"), DONE],
    "bash": [call_text("bash", command=WRITE, description="Write a file"), DONE],
    "exec_command": [call_text("exec_command", cmd=WRITE), DONE],
}


@pytest.fixture(scope="module")
def server(long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with scripted_server(long_model, tmp_path_factory.mktemp("agents"), SCRIPTS) as server:
        yield server


class Agent:
    """A command of npm with a home and a working folder of its own."""

    def __init__(self, title: str, name: str, package: str, server: Live, folder: Path) -> None:
        places = [os.environ["PATH"]]
        if agents := os.environ.get("FLASH_MOE_AGENTS"):
            places.insert(0, f"{agents}/node_modules/.bin")
        found = shutil.which(name, path=os.pathsep.join(places))
        if found is None:
            pytest.skip(
                f"{name} is not installed: npm install --prefix DIR {package}, FLASH_MOE_AGENTS=DIR"
            )
        self.title, self.command, self.server = title, found, server
        self.home, self.work = folder / "home", folder / "work"
        self.cached = server.metric("cached_prompt_tokens_total")
        self.home.mkdir()
        self.work.mkdir()

    def run(self, arguments: str) -> str:
        """Run a turn with the line that the server prints, and return what the agent prints."""
        (line,) = re.findall(rf"^  {self.title}: (.*)$", self.server.said(), re.MULTILINE)
        path = os.pathsep.join([str(Path(self.command).parent), os.environ["PATH"]])
        done = run(
            *("sh", "-c", f"{line} {arguments}"),
            env={"PATH": path, "HOME": str(self.home), **QUIET},
            cwd=self.work,
            input="",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check(self, printed: str) -> None:
        assert DONE in printed
        # The request with the result continues the prompt of the first one.
        assert self.server.metric("cached_prompt_tokens_total") - self.cached > 8000
        assert (self.work / "made.txt").read_text() == MADE


def test_claude_code(server: Live, tmp_path: Path) -> None:
    agent = Agent("Claude Code", "claude", "@anthropic-ai/claude-code", server, tmp_path)
    agent.check(agent.run("--allowedTools Bash -p 'Write made.txt.'"))
    assert agent.run("-c -p 'Is it?'").strip() == DONE


def test_codex(server: Live, tmp_path: Path) -> None:
    agent = Agent("Codex", "codex", "@openai/codex", server, tmp_path)
    # The sandbox of Codex needs namespaces that a container may not have.
    options = (
        "-c analytics.enabled=false -c check_for_update_on_startup=false exec "
        "--skip-git-repo-check --dangerously-bypass-approvals-and-sandbox"
    )
    agent.check(agent.run(f"{options} 'Write made.txt.'"))
    assert agent.run(f"{options} resume --last 'Is it?'").strip() == DONE


def test_opencode(server: Live, tmp_path: Path) -> None:
    agent = Agent("opencode", "opencode", "opencode-ai", server, tmp_path)
    agent.check(agent.run("run 'Write made.txt.'"))
    assert DONE in agent.run("run -c 'Is it?'")
