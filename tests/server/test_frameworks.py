"""Frameworks for agents run a tool through the server: each in the way that its pages show.

A framework that is not installed is skipped; ``pip install -e .[dev]`` installs the first two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.live_server import Live
from tests.support.scripted_model import call_text
from tests.support.scripted_server import scripted_server

pytestmark = [pytest.mark.process, pytest.mark.slow]

QUESTION, DONE = "How is the weather in Paris?", "It rains in Paris."
SCRIPTS = {
    "weather": [call_text("weather", city="Paris"), DONE],
    "City": [call_text("City", name="Paris", inhabitants=2_100_000)],
}


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


class Weather:
    """A tool that notes the cities that it was called with."""

    def __init__(self) -> None:
        self.cities: list[str] = []

    def weather(self, city: str) -> str:
        """The weather of a city."""
        self.cities.append(city)
        return "rain"


@pytest.fixture(scope="module")
def server(long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with scripted_server(long_model, tmp_path_factory.mktemp("frameworks"), SCRIPTS) as server:
        yield server


@pytest.fixture
def noted(server: Live, monkeypatch: pytest.MonkeyPatch) -> Weather:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    return Weather()


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(noted: Weather, responses: bool) -> None:
    pytest.importorskip("langchain_openai")
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import StructuredTool
    from langchain_openai import ChatOpenAI

    tool = StructuredTool.from_function(noted.weather)
    plain = ChatOpenAI(model="long", use_responses_api=responses)
    model = plain.bind_tools([tool])
    messages: list[Any] = [HumanMessage(QUESTION)]
    messages.append(model.invoke(messages))
    (call,) = messages[-1].tool_calls
    messages.append(ToolMessage(tool.invoke(call["args"]), tool_call_id=call["id"]))
    assert "".join(chunk.text for chunk in model.stream(messages)).strip() == DONE
    assert noted.cities == ["Paris"]
    found = plain.with_structured_output(City, method="function_calling").invoke(QUESTION)
    assert found.model_dump() == {"name": "Paris", "inhabitants": 2_100_000}


@pytest.mark.parametrize("kind", ["OpenAIChatModel", "OpenAIResponsesModel"])
def test_pydantic_ai(noted: Weather, kind: str) -> None:
    pytest.importorskip("pydantic_ai.models.openai")
    from pydantic_ai import Agent
    from pydantic_ai.models import openai as models

    agent = Agent(getattr(models, kind)("long"), tools=[noted.weather], instructions="Be short.")
    result = agent.run_sync(QUESTION)
    assert (result.output.strip(), noted.cities) == (DONE, ["Paris"])

    async def streamed() -> str:
        async with agent.run_stream(QUESTION) as stream:
            return str(await stream.get_output())

    assert asyncio.run(streamed()).strip() == DONE


def test_openai_agents(noted: Weather) -> None:
    agents = pytest.importorskip("agents")
    tool = agents.function_tool(noted.weather)
    agent = agents.Agent(name="Weather", model="long", tools=[tool], instructions="Be short.")
    assert agents.Runner.run_sync(agent, QUESTION).final_output.strip() == DONE
    assert noted.cities == ["Paris"]


def test_instructor(noted: Weather) -> None:
    instructor = pytest.importorskip("instructor")
    with openai.OpenAI() as client:
        found = instructor.from_openai(client).chat.completions.create(
            model="long",
            response_model=City,
            messages=[{"role": "user", "content": QUESTION}],
        )
    assert found.model_dump() == {"name": "Paris", "inhabitants": 2_100_000}
