"""A session of twenty turns through each API with its official client.

Tools, a truncated answer, a truncated call in the history, a cancelled stream, and a resumption
from a file, as agents do it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.support.live_server import Live
from tests.support.scripted_model import call_text
from tests.support.scripted_server import scripted_server
from tests.support.timeout import TIMEOUT_S

pytestmark = [pytest.mark.process, pytest.mark.slow]

TURNS = 20
LONG, TWO_CALLS, CUT, CANCELLED, CUT_CALL, RESUMED = 2, 5, 8, 11, 14, 17
CITIES = ("Paris", "Rome")
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
DESCRIPTION = "The weather of a city"


def final_text(turn: int) -> str:
    return (
        "It rains there. " * 200 + f"End of turn {turn}." if turn == LONG else f"Turn {turn} ends."
    )


def n_calls(turn: int) -> int:
    if turn in (CUT, CANCELLED, CUT_CALL):
        return 0
    return 2 if turn == TWO_CALLS else turn % 2


def script() -> list[str]:
    """The answers of all turns, in order."""
    answers = []
    for turn in range(TURNS):
        calls = [call_text("weather", city=city) for city in CITIES[: n_calls(turn)]]
        answers += ["\n".join(["I look it up.\n", *calls])] if calls else []
        if turn == CUT:
            answers += [call_text("weather", city="the city of " * 100)]
        elif turn == CANCELLED:
            answers += ["It rains and rains. " * 1000]
        else:
            # The client invents the truncated call, which counts as an answer.
            answers += [*[""] * (turn == CUT_CALL), final_text(turn)]
    return answers


@dataclass(frozen=True)
class Answer:
    text: str
    calls: list[tuple[str, dict[str, Any]]]  # ids and arguments
    truncated: bool
    n_cached: int


class OpenAI:
    """The official client and the history of a session."""

    def __init__(self, url: str) -> None:
        self.url, self.history = url, list[Any]()
        self.client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
        )

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})


class Chat(OpenAI):
    """OpenAI's chat completions."""

    def give(self, call: str, result: str) -> None:
        self.history.append({"role": "tool", "tool_call_id": call, "content": result})

    def truncated_call(self, arguments: str) -> None:
        function = {"name": "weather", "arguments": arguments}
        call = {"id": "cut", "type": "function", "function": function}
        self.history.append({"role": "assistant", "content": None, "tool_calls": [call]})

    def body(self, limit: int) -> dict[str, Any]:
        function = {"name": "weather", "description": DESCRIPTION, "parameters": PARAMETERS}
        tools = [{"type": "function", "function": {**function, "strict": True}}]
        return {"model": "long", "messages": self.history, "tools": tools, "max_tokens": limit}

    def answer(self, streamed: bool, limit: int = 4000) -> Answer:
        if streamed:
            options = {"stream_options": {"include_usage": True}}
            with self.client.chat.completions.stream(**self.body(limit), **options) as stream:
                answer = stream.get_final_completion()
        else:
            answer = self.client.chat.completions.create(**self.body(limit))
        message = answer.choices[0].message
        self.history.append(message.to_dict())
        return Answer(
            message.content or "",
            [(each.id, json.loads(each.function.arguments)) for each in message.tool_calls or ()],
            answer.choices[0].finish_reason == "length",
            answer.usage.prompt_tokens_details.cached_tokens,
        )

    def cancel(self) -> None:
        with self.client.chat.completions.create(**self.body(9000), stream=True) as stream:
            text = ""
            while len(text) < 30:
                text += next(stream).choices[0].delta.content or ""
        self.history.append({"role": "assistant", "content": text})


class Messages:
    """Anthropic's messages, with reasoning."""

    def __init__(self, url: str) -> None:
        self.url, self.history = url, list[Any]()
        self.client = anthropic.Anthropic(
            base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_S
        )

    def say(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})

    def give(self, call: str, result: str) -> None:
        part = {"type": "tool_result", "tool_use_id": call, "content": result}
        if self.history[-1]["role"] == "user":
            self.history[-1]["content"].append(part)
        else:
            self.history.append({"role": "user", "content": [part]})

    def truncated_call(self, arguments: str) -> None:
        """Clients of this API send what they could parse."""
        call = {"type": "tool_use", "id": "cut", "name": "weather", "input": {}}
        self.history.append({"role": "assistant", "content": [call]})

    def body(self, limit: int) -> dict[str, Any]:
        tool = {"name": "weather", "description": DESCRIPTION, "input_schema": PARAMETERS}
        thinking = {"type": "enabled", "budget_tokens": 1024}
        return {
            "model": "long",
            "messages": self.history,
            "tools": [tool],
            "max_tokens": limit,
            **({"thinking": thinking} if limit > 1024 else {}),
        }

    def answer(self, streamed: bool, limit: int = 4000) -> Answer:
        if streamed:
            with self.client.messages.stream(**self.body(limit)) as stream:
                answer = stream.get_final_message()
        else:
            answer = self.client.messages.create(**self.body(limit))
        self.history.append({"role": "assistant", "content": answer.to_dict()["content"]})
        return Answer(
            "".join(part.text for part in answer.content if part.type == "text"),
            [(part.id, part.input) for part in answer.content if part.type == "tool_use"],
            answer.stop_reason == "max_tokens",
            answer.usage.cache_read_input_tokens,
        )

    def cancel(self) -> None:
        with self.client.messages.stream(**self.body(9000)) as stream:
            text = ""
            while len(text) < 30:
                text += next(stream.text_stream)
        self.history.append({"role": "assistant", "content": [{"type": "text", "text": text}]})


class Responses(OpenAI):
    """OpenAI's responses."""

    def give(self, call: str, result: str) -> None:
        output = {"type": "function_call_output", "call_id": call, "output": result}
        self.history.append(output)

    def truncated_call(self, arguments: str) -> None:
        call = {"type": "function_call", "call_id": "cut", "name": "weather"}
        self.history.append({**call, "arguments": arguments})

    def body(self, limit: int) -> dict[str, Any]:
        tool = {"type": "function", "name": "weather", "description": DESCRIPTION}
        tool |= {"parameters": PARAMETERS, "strict": True}
        return {
            "model": "long",
            "input": self.history,
            "tools": [tool],
            "max_output_tokens": limit,
            "store": False,
        }

    def answer(self, streamed: bool, limit: int = 4000) -> Answer:
        if streamed:
            with self.client.responses.stream(**self.body(limit)) as stream:
                answer: Any = stream.get_final_response()
        else:
            answer = self.client.responses.create(**self.body(limit))
        self.history += answer.to_dict()["output"]
        return Answer(
            answer.output_text,
            [
                (item.call_id, json.loads(item.arguments))
                for item in answer.output
                if item.type == "function_call"
            ],
            answer.status == "incomplete",
            answer.usage.input_tokens_details.cached_tokens,
        )

    def cancel(self) -> None:
        with self.client.responses.create(**self.body(9000), stream=True) as stream:
            text = ""
            while len(text) < 30:
                event = next(stream)
                text += event.delta if event.type == "response.output_text.delta" else ""
        self.history.append({"role": "assistant", "content": text})


@pytest.fixture(scope="module")
def server(long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("sessions")
    with scripted_server(long_model, folder, {"weather": script()}) as server:
        yield server


@pytest.mark.parametrize("api", [Chat, Messages, Responses])
def test_session(api: type[Chat | Messages | Responses], server: Live, tmp_path: Path) -> None:
    session = api(server.url)
    for turn in range(TURNS):
        if turn == RESUMED:
            saved = tmp_path / "session.json"
            saved.write_text(json.dumps(session.history))
            session.client.close()
            session = api(server.url)
            session.history = json.loads(saved.read_text())
        session.say(f"This is turn {turn}.")
        if turn == CUT:
            assert session.answer(streamed=False, limit=40).truncated
            continue
        if turn == CANCELLED:
            gone = server.metric("ended_answers_total", reason="client_gone")
            session.cancel()
            server.wait_for_metric("ended_answers_total", gone + 1, reason="client_gone")
            continue
        if turn == CUT_CALL:
            session.truncated_call('{"city": "the city of ')
            session.give("cut", "Error: the arguments are not JSON.")
        if n_calls(turn):
            answer = session.answer(streamed=turn % 4 == 1)
            assert answer.text.strip() == "I look it up."
            assert [given["city"] for _, given in answer.calls] == list(CITIES[: n_calls(turn)])
            for call, given in answer.calls:
                session.give(call, f"Rain in {given['city']}.")
        answer = session.answer(streamed=turn % 2 == 0)
        assert answer.text == final_text(turn)
        assert not answer.calls
        assert not answer.truncated
        assert answer.n_cached or turn == 0
    session.client.close()
