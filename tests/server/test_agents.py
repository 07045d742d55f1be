"""Claude Code, Codex and opencode complete a turn with a tool call that they run themselves.

The agents come from npm. A test is skipped if its agent is neither in the folder that
``FLASH_MOE_AGENTS`` names nor on ``PATH``; CONTRIBUTING.md has the command that installs them.
"""

from __future__ import annotations

import json
import os
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
PROMPT = "Write made.txt."
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

    def __init__(self, name: str, package: str, folder: Path) -> None:
        places = [os.environ["PATH"]]
        if agents := os.environ.get("FLASH_MOE_AGENTS"):
            places.insert(0, f"{agents}/node_modules/.bin")
        found = shutil.which(name, path=os.pathsep.join(places))
        if found is None:
            pytest.skip(
                f"{name} is not installed: npm install --prefix DIR {package}, FLASH_MOE_AGENTS=DIR"
            )
        self.command = found
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()

    def run(self, *arguments: str, **variables: str) -> str:
        """Run a turn and return what the agent prints."""
        done = run(
            self.command,
            *arguments,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **variables},
            cwd=self.work,
            input="",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check(self, printed: str) -> None:
        assert DONE in printed
        assert (self.work / "made.txt").read_text() == MADE


def test_claude_code(server: Live, tmp_path: Path) -> None:
    agent = Agent("claude", "@anthropic-ai/claude-code", tmp_path)
    variables = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": "long",
        "ANTHROPIC_SMALL_FAST_MODEL": "long",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    agent.check(agent.run("--allowedTools", "Bash", "-p", PROMPT, **variables))
    again = agent.run("-c", "-p", "Is it?", **variables)
    assert again.strip() == DONE


def test_codex(server: Live, tmp_path: Path) -> None:
    agent = Agent("codex", "@openai/codex", tmp_path)
    (agent.home / ".codex").mkdir()
    (agent.home / ".codex" / "config.toml").write_text(
        f"""\
model = "long"
model_provider = "flash-moe"
check_for_update_on_startup = false

[model_providers.flash-moe]
name = "flash-moe"
base_url = "{server.url}/v1"
wire_api = "responses"

[analytics]
enabled = false
"""
    )
    # The sandbox of Codex needs namespaces that a container may not have.
    freely = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    agent.check(agent.run("exec", *freely, PROMPT))
    assert agent.run("exec", *freely, "resume", "--last", "Is it?").strip() == DONE


def test_opencode(server: Live, tmp_path: Path) -> None:
    agent = Agent("opencode", "opencode-ai", tmp_path)
    config = {
        "autoupdate": False,
        "share": "disabled",
        "model": "flash-moe/long",
        "provider": {
            "flash-moe": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"{server.url}/v1", "apiKey": "none"},
                "models": {"long": {"limit": {"context": 262_144, "output": 4096}}},
            }
        },
    }
    (agent.work / "opencode.json").write_text(json.dumps(config))
    offline = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
    agent.check(agent.run("run", PROMPT, **offline))
    assert DONE in agent.run("run", "-c", "Is it?", **offline)
