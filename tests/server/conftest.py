"""One server for all tests, and the model by itself to compare with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from flash_moe import FlashMoE, load
from flash_moe.demo_model import STORE
from flash_moe.tools import builtin
from tests.support.live_server import Live, expert_budget_gb
from tests.support.scripted_server import write_long_model
from tests.support.timeout import TIMEOUT_S


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    server = Live(
        tmp_path_factory.mktemp("server") / "log",
        "--alias",
        "claude-demo",
        "--allow-host",
        "host.docker.internal",
    )
    yield server
    try:
        assert server.healthy()
        assert server.stop() == 0, server.said()
        assert "Traceback" not in server.said()
    finally:
        server.close()


@pytest.fixture(scope="session")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as made:
        yield made


@pytest.fixture(scope="session")
def claude(live: Live) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=live.url, api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as made:
        yield made


@pytest.fixture(scope="session")
def alone() -> Iterator[FlashMoE]:
    """The same model in this process."""
    with load(STORE, cache_gb=expert_budget_gb()) as flash:
        yield flash


@pytest.fixture(scope="session")
def endless(alone: FlashMoE) -> dict[str, float]:
    """A ``logit_bias`` with which answers never end by themselves."""
    return {str(token): -100.0 for token in alone.tokenizer.eos_token_ids}


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the context that agents need. Do not change it."""
    path = tmp_path_factory.mktemp("models") / "long"
    write_long_model(path)
    return path


@pytest.fixture
def calculate() -> dict[str, Any]:
    """A tool that the model was trained to call."""
    return copy.deepcopy(builtin.calculate.schema)
