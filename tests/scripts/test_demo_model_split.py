"""The split of the demo model's data: what is judged on cannot have been seen in training."""

from __future__ import annotations

import random
from typing import Any

import pytest

from scripts.demo_model import foreign, held_out, intents, judge
from scripts.demo_model.dialogues import Dialogues
from scripts.demo_model.invented import invent
from scripts.demo_model.patterns import expand, slots
from scripts.demo_model.phrasing import utter
from scripts.demo_model.split import held_out_patterns, kept_for_judging
from scripts.demo_model.tasks import Definition
from scripts.demo_model.ways import Ways
from scripts.demo_model.words import Words, is_held_out

DEFINITIONS = [Definition("lighthouse", "noun", "a tower with a light", "they saw a lighthouse")]


def questions(messages: list[dict[str, Any]]) -> list[str]:
    return [m["content"] for m in messages if m["role"] == "user"]


def test_every_question_of_judging_is_known_as_kept() -> None:
    for seed in (1, 2):
        for prompt in judge.prompts(seed):
            for text in questions(prompt["messages"]) if prompt["kind"] != "foreign" else ():
                assert kept_for_judging(text), text
                assert kept_for_judging(f"Good morning! {text.upper()} Thank you."), text
                assert kept_for_judging(text.rstrip(".?!").replace(",", "")), text


def test_no_question_of_training_is_kept_for_judging() -> None:
    source, n = Dialogues(21, "train", DEFINITIONS), 0
    for _ in range(3000):
        for text in questions(source.draw().messages):
            n += 1
            assert not kept_for_judging(text), text
    assert n > 4000


def test_a_kept_wording_among_those_of_training_is_never_drawn() -> None:
    """The filter does it, not luck: one of two ways is a held-out wording."""
    rng = random.Random(4)
    ways = Ways(direct=(held_out.SEARCH[0], "Look up {query}"))
    texts = [utter(ways, rng, {"query": "red lamp"}) for _ in range(200)]
    assert all("red lamp" in text for text in texts)
    assert not any(kept_for_judging(text) for text in texts)
    assert not any("internet and tell" in text.lower() for text in texts)


@pytest.mark.parametrize("pattern", held_out_patterns())
def test_a_kept_wording_is_known_with_any_values(pattern: str) -> None:
    rng = random.Random(3)
    for _ in range(10):
        values = {name: Words(rng, "held_out").integer() for name in slots(pattern)}
        assert kept_for_judging(expand(pattern, rng, values))


WAYS = {
    **{k: v for k, v in vars(intents).items() if isinstance(v, Ways)},
    **{f"calculate {meaning}": ways for meaning, ways in intents.CALCULATE.items()},
    **{tool.tool.name: tool.ways for tool in foreign.TRAIN},
}


@pytest.mark.parametrize("name", sorted(WAYS))
def test_every_wording_holds_every_value_once(name: str) -> None:
    """Else a question would ask for what it does not say."""
    ways = WAYS[name]
    rng = random.Random(5)
    wanted = sorted(slots("".join(ways.direct[:1] or ways.do[:1])))
    for pattern in (*ways.direct, *ways.do, *ways.what, *ways.whether):
        for _ in range(8):
            text = expand(pattern, rng, {slot: f"<{slot}>" for slot in wanted})
            assert [text.count(f"<{slot}>") for slot in wanted] == [1] * len(wanted), text
            assert not set("[]|{}") & set(text), text
            assert "  " not in text, text


def test_each_intent_has_wordings_of_both_splits() -> None:
    for name, ways in vars(intents).items():
        if isinstance(ways, Ways):
            kept = getattr(held_out, name)
            assert len(kept) >= 3
            assert len(ways.direct) >= 50
            assert set(slots(kept[0])) == set(slots(ways.direct[0]))


def test_values_belong_to_the_split_they_are_drawn_for() -> None:
    for split in ("train", "held_out"):
        words = Words(random.Random(5), split)
        for make in (words.city, words.name, words.phrase, words.path, words.folder, words.code):
            values = {make() for _ in range(200)}
            assert {is_held_out(value) for value in values} == {split == "held_out"}


def test_called_values_of_training_are_not_held_out() -> None:
    source = Dialogues(11, "train")
    names = {"city", "path", "query", "text", "expression"}
    n_values = 0
    for _ in range(400):
        for message in source.draw().messages:
            for call in message.get("tool_calls", []):
                for parameter, value in call["function"]["arguments"].items():
                    if parameter in names:
                        n_values += 1
                        assert not is_held_out(value), (parameter, value)
    assert n_values > 200


def test_held_out_tools_never_occur_in_training() -> None:
    assert not {t.tool.name for t in foreign.TRAIN} & {t.tool.name for t in foreign.HELD_OUT}
    assert 10 <= len(foreign.HELD_OUT) <= 30
    names = [t.tool.name for t in (*foreign.TRAIN, *foreign.HELD_OUT)]
    assert len(names) == len(set(names))


def test_invented_tools_are_never_those_held_out() -> None:
    rng = random.Random(6)
    made = [invent(rng) for _ in range(3000)]
    assert not {t.tool.name for t in made} & {t.tool.name for t in foreign.HELD_OUT}
    assert len({t.tool.name for t in made}) > 2500
    words = Words(rng, "train")
    for tool in made[:300]:
        values = {name: str(getattr(words, maker)()) for name, maker in tool.makers.items()}
        for wording in (*tool.ways.direct, *tool.ways.do):
            text = expand(wording, rng, values)
            assert all(value in text for value in values.values())
