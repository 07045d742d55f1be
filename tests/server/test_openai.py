"""The official client of OpenAI's API against a live server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from flash_moe import FlashMoE
from flash_moe.tools import builtin
from tests.support.effort import repetitions
from tests.support.live_server import Live

QUESTION = [{"role": "user", "content": "How much is 17.5 percent of 2480?"}]
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}
CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "size": {"enum": ["small", "large"]},
        "parts": {
            "type": "array",
            "items": {"type": "integer", "maximum": 99, "minimum": 0},
            "minItems": 1,
            "maxItems": 3,
        },
    },
    "required": ["name", "size", "parts"],
    "additionalProperties": False,
}


def ask(client: openai.OpenAI, messages: Any = HELLO, **options: Any) -> Any:
    body = {"max_tokens": 64, "extra_body": NO_THOUGHTS, **options}
    return client.chat.completions.create(model="demo", messages=messages, **body)


def joined(chunks: Any) -> tuple[str, str | None]:
    text, reason = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def test_an_answer_equals_that_of_the_model_alone(client: openai.OpenAI, alone: FlashMoE) -> None:
    answer = ask(client)
    expected = alone.generate(HELLO, max_tokens=64, template_args={"enable_thinking": False})
    assert answer.choices[0].message.content == expected.text.strip()
    assert answer.choices[0].finish_reason == expected.finish_reason == "stop"
    assert answer.usage.prompt_tokens == expected.stats.prompt_tokens
    assert answer.usage.completion_tokens == expected.stats.generation_tokens
    assert answer.model == "demo"
    assert answer._request_id.startswith("req_")


def test_thoughts_beside_others_end_at_their_budgets(
    client: openai.OpenAI, alone: FlashMoE
) -> None:
    """Several at once, each with its own."""

    def thought(budget: int) -> str:
        options = {"extra_body": {"thinking_budget": budget}, "max_tokens": 8}
        message = ask(client, **options).choices[0].message
        return str(message.model_extra.get("reasoning", ""))

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(thought, (0, 1, 3)))
    expected = [
        alone.generate(HELLO, max_tokens=8, max_thinking_tokens=n).text.partition("</think>")[0]
        for n in (0, 1, 3)
    ]
    assert found == [text.strip() for text in expected]
    assert found[0] == ""


def test_streaming_gives_the_same(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == (whole.choices[0].message.content, "stop")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 5
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_thoughts_come_apart(client: openai.OpenAI, alone: FlashMoE) -> None:
    answer = ask(client, extra_body={}, max_tokens=128).choices[0].message
    raw = alone.generate(HELLO, max_tokens=128).text
    thought, _, text = raw.partition("</think>")
    assert answer.reasoning == thought.strip()
    assert (answer.content or "") == text.strip()
    pieces = [c.choices[0].delta for c in ask(client, extra_body={}, max_tokens=128, stream=True)]
    assert "".join(getattr(p, "reasoning", None) or "" for p in pieces) == thought.strip()


def test_tools_round_trip(
    client: openai.OpenAI, calculate: dict[str, Any], live: Live, alone: FlashMoE
) -> None:
    messages: list[Any] = list(QUESTION)
    first = ask(client, messages, tools=[calculate])
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert call.function.name == "calculate"
    assert "2480" in json.loads(call.function.arguments)["expression"]
    messages.append(first.choices[0].message)
    result = builtin.calculate.run(json.loads(call.function.arguments))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    before = live.metric("cached_prompt_tokens_total")
    second = ask(client, messages, tools=[calculate])
    assert second.choices[0].finish_reason == "stop"
    said = second.choices[0].message.content
    assert "434" in said
    function = {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
    calls = [{"id": call.id, "type": "function", "function": function}]
    messages[1] = {"role": "assistant", "content": "", "tool_calls": calls}
    template_args = {"tools": [calculate], "enable_thinking": False}
    assert said == alone.generate(messages, max_tokens=64, template_args=template_args).text.strip()
    # All of the first prompt but the beginning of its answer is there already.
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens - 12 <= cached < second.usage.prompt_tokens
    assert live.metric("cached_prompt_tokens_total") - before == cached


def test_streamed_calls(client: openai.OpenAI, calculate: dict[str, Any]) -> None:
    stream = ask(client, QUESTION, tools=[calculate], stream=True)
    calls = [c for chunk in stream for c in chunk.choices[0].delta.tool_calls or ()]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert json.loads(calls[0].function.arguments).keys() == {"expression"}
    assert calls[0].id


@pytest.mark.parametrize("choice", ["required", "named", "none"])
def test_tool_choice(client: openai.OpenAI, calculate: dict[str, Any], choice: str) -> None:
    other = json.loads(json.dumps(calculate).replace("calculate", "other"))
    named = {"type": "function", "function": {"name": "other"}}
    given: Any = named if choice == "named" else choice
    options = {"tools": [calculate, other], "tool_choice": given, "temperature": 1, "seed": 3}
    message = ask(client, QUESTION, parallel_tool_calls=False, **options).choices[0].message
    if choice == "none":
        assert not message.tool_calls
        return
    (call,) = message.tool_calls
    assert call.function.name in (["other"] if choice == "named" else ["calculate", "other"])
    assert json.loads(call.function.arguments).keys() == {"expression"}


def test_json_schema_holds_at_any_temperature(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    for seed in range(repetitions(2, full=4)):
        answer = ask(client, response_format=form, temperature=2, seed=seed, max_tokens=400)
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), CITY)
    answer = ask(client, response_format={"type": "json_object"}, temperature=1, seed=1)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


class City(BaseModel):
    name: str = Field(max_length=12)
    inhabitants: int = Field(ge=0, le=1000)


@pytest.mark.parametrize("thinks", [False, True])
def test_the_clients_own_parser(client: openai.OpenAI, thinks: bool) -> None:
    """The form begins after the thoughts."""
    answer = client.chat.completions.parse(
        model="demo",
        messages=HELLO,
        response_format=City,
        max_tokens=300,
        extra_body={} if thinks else NO_THOUGHTS,
    )
    message = answer.choices[0].message
    assert isinstance(message.parsed, City)
    assert bool(getattr(message, "reasoning", None)) == thinks


@pytest.mark.parametrize("stream", [False, True])
def test_a_form_beside_tools_leaves_the_model_its_calls(
    client: openai.OpenAI, stream: bool
) -> None:
    """An answer is either calls, or JSON; with the client's own helpers."""

    class calculate(BaseModel):
        """Value of an arithmetic expression."""

        expression: str

    def said(messages: Any, **options: Any) -> Any:
        body = {"max_tokens": 200, "response_format": City, "messages": messages, **options}
        body |= {"tools": [openai.pydantic_function_tool(calculate)], "extra_body": NO_THOUGHTS}
        if not stream:
            return client.chat.completions.parse(model="demo", **body).choices[0].message
        with client.chat.completions.stream(model="demo", **body) as streamed:
            return streamed.get_final_completion().choices[0].message

    (call,) = said(QUESTION).tool_calls
    assert "2480" in call.function.parsed_arguments.expression
    message = said([{"role": "user", "content": "Anna is 31. Give me JSON with name and age."}])
    assert not message.tool_calls
    assert isinstance(message.parsed, City)
    if not stream:
        assert said(HELLO, tool_choice="required", parallel_tool_calls=False).tool_calls


def test_strictness_is_of_each_tool(client: openai.OpenAI, calculate: dict[str, Any]) -> None:
    calculate["function"]["strict"] = True
    upload = {"name": "upload", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    loose = {"type": "function", "function": upload}
    (call,) = ask(client, QUESTION, tools=[calculate, loose]).choices[0].message.tool_calls
    assert call.function.name == "calculate"
    upload["strict"] = True
    with pytest.raises(openai.BadRequestError, match=r"Unimplemented keys: \[\"not\"\]"):
        ask(client, QUESTION, tools=[calculate, loose])


def test_strict_tools_hold_at_any_temperature(
    client: openai.OpenAI, calculate: dict[str, Any]
) -> None:
    strict = json.loads(json.dumps(calculate))
    strict["function"]["strict"] = True
    strict["function"]["parameters"] = CITY
    for seed in range(repetitions(1, full=2)):
        answer = ask(
            client,
            QUESTION,
            tools=[strict],
            temperature=1.5,
            seed=seed,
            max_tokens=400,
            tool_choice="required",
        ).choices[0]
        assert answer.finish_reason in ("tool_calls", "length")
        for call in answer.message.tool_calls or ():
            jsonschema.validate(json.loads(call.function.arguments), CITY)


def test_logprobs(client: openai.OpenAI) -> None:
    short: dict[str, Any] = {"logprobs": True, "max_tokens": 12}
    whole = ask(client, top_logprobs=3, **short).choices[0]
    tokens = whole.logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode().strip() == whole.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob  # temperature 0: the likeliest
        assert token.logprob <= 0
    chunks = list(ask(client, stream=True, **short))
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in tokens]


def test_seeds(client: openai.OpenAI) -> None:
    """The same answer for the same seed, also beside other answers; another for another."""

    def said(seed: int) -> str:
        answer = ask(client, temperature=1.8, seed=seed, max_tokens=12)
        return str(answer.choices[0].message.content)

    expected = [said(seed) for seed in range(3)]
    assert len(set(expected)) == 3
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(said, range(3))) == expected


def test_stop_texts_are_found_in_the_text(client: openai.OpenAI) -> None:
    """Also where a token has more than the stop text, or only a part of it."""
    whole = ask(client).choices[0].message.content
    middle = whole[len(whole) // 2 - 1 : len(whole) // 2 + 2]
    for stream in (False, True):
        answer = ask(client, stop=[middle, "never to be seen"], stream=stream)
        if stream:
            assert joined(answer) == (whole[: whole.index(middle)].rstrip(), "stop")
        else:
            assert answer.choices[0].message.content == whole[: whole.index(middle)].rstrip()


def test_a_stop_text_of_white_space(client: openai.OpenAI, alone: FlashMoE) -> None:
    (newline,) = alone.tokenizer.encode("\n", add_special_tokens=False)
    bias = {str(newline): 100}
    answer = ask(client, stop="\n\n", logit_bias=bias, max_tokens=60)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (2, "stop")


def test_max_tokens(client: openai.OpenAI) -> None:
    answer = ask(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert ask(client, max_tokens=None, max_completion_tokens=2).usage.completion_tokens == 2


def test_completions(client: openai.OpenAI, alone: FlashMoE) -> None:
    prompt = "The capital of"
    ids = alone.tokenizer.encode(prompt)
    expected = alone.generate(ids, max_tokens=8).text
    for given in (prompt, ids, [prompt]):
        answer = client.completions.create(model="demo", prompt=given, max_tokens=8, logprobs=2)
        assert answer.choices[0].text == expected
        assert "".join(answer.choices[0].logprobs.tokens).strip() == expected.strip()
        assert len(answer.choices[0].logprobs.token_logprobs) == 8
    pieces = client.completions.create(model="demo", prompt=prompt, max_tokens=8, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == expected


def test_a_prompt_that_is_wholly_cached(client: openai.OpenAI, alone: FlashMoE) -> None:
    """A prompt and its answer as the next prompt leaves a token to process, and goes on."""
    prompt = list(alone.tokenizer.encode("Numbers: one two"))
    first = alone.generate(prompt, max_tokens=5)
    client.completions.create(model="demo", prompt=prompt, max_tokens=5)
    for held in (4, 5):
        longer = [*prompt, *first.token_ids[:held]]
        answer = client.completions.create(model="demo", prompt=longer, max_tokens=6)
        assert answer.choices[0].text == alone.generate(longer, max_tokens=6).text


def test_a_second_turn_is_not_processed_again(client: openai.OpenAI, alone: FlashMoE) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are of few words. " * 4},
        {"role": "user", "content": "Name a colour. " * 4},
    ]
    first = ask(client, messages, extra_body={})
    said = first.choices[0].message.content or ""
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Another."}]
    second = ask(client, messages, extra_body={}, max_tokens=12)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens - 12  # all but the beginning of the answer
    expected = alone.generate(messages, max_tokens=12)
    assert second.usage.completion_tokens == expected.stats.generation_tokens
    # Another conversation with the same system prompt has that of it.
    hello = [messages[0], {"role": "user", "content": "Hello."}]
    other = ask(client, hello, extra_body={}, max_tokens=1)
    assert other.usage.prompt_tokens_details.cached_tokens > 20


def test_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"demo", "claude-demo"}
    assert client.models.retrieve("demo").owned_by == "flash-moe"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
