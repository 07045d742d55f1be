"""The lines of ``flash-moe serve`` for clients; tests/server/test_agents.py runs them."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from flash_moe.cli.client_settings import AGENT_CONTEXT, client_lines

URL = "http://127.0.0.1:8080"
NAME = "it's a model"


def lines(context: int | None, protected: bool = False) -> dict[str, list[str]]:
    made = client_lines(NAME, URL, context, protected)
    return {title: shlex.split(line) for title, _, line in (each.partition(": ") for each in made)}


def test_names_are_quoted() -> None:
    made = lines(AGENT_CONTEXT)
    assert list(made) == ["OpenAI clients", "Claude Code", "Codex", "opencode"]
    assert f"ANTHROPIC_MODEL={NAME}" in made["Claude Code"]
    assert f"ANTHROPIC_BASE_URL={URL}" in made["Claude Code"]
    assert f'model="{NAME}"' in made["Codex"]
    config = json.loads(made["opencode"][0].removeprefix("OPENCODE_CONFIG_CONTENT="))
    assert config["model"] == f"flash-moe/{NAME}"
    limit = {"context": AGENT_CONTEXT, "output": AGENT_CONTEXT // 4}
    assert config["provider"]["flash-moe"]["models"] == {NAME: {"limit": limit}}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in 3.11")
@pytest.mark.parametrize("protected", [False, True])
def test_codex_reads_toml(protected: bool) -> None:
    import tomllib

    codex = lines(None, protected)["Codex"]
    config = tomllib.loads("\n".join(codex[2::2]).replace("=flash-moe\n", '="flash-moe"\n'))
    provider = config["model_providers"]["flash-moe"]
    assert (config["model"], provider["base_url"]) == (NAME, f"{URL}/v1")
    assert provider.get("env_key") == ("FLASH_MOE_API_KEY" if protected else None)


def test_a_key_is_named() -> None:
    assert all("FLASH_MOE_API_KEY" in " ".join(words) for words in lines(None, True).values())


def test_agents_need_a_long_context() -> None:
    made = client_lines("demo", URL, 4096, False)
    assert len(made) == 2
    assert "4096 tokens is too small" in made[1]
