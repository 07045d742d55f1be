"""The split of the demo model's data: what is judged on cannot have been seen in training."""

from __future__ import annotations

import random

import pytest

from scripts.demo_model import foreign, held_out, json_tasks, judge, tasks, wordings
from scripts.demo_model.dialogues import Dialogues
from scripts.demo_model.invented import invent
from scripts.demo_model.patterns import expand, matcher, slots
from scripts.demo_model.words import Words, is_held_out

CORE_PATTERNS = {
    name: [entry[0] if isinstance(entry, tuple) else entry for entry in getattr(wordings, name)]
    for name in (
        *("WEATHER", "WEATHER_UNIT", "TIME_CITY", "TIME_HERE", "CALCULATE", "CONVERT"),
        *("SEARCH", "READ_FILE", "LIST_FILES", "WRITE_FILE"),
    )
}
TRAINING_PATTERNS = (
    *(pattern for patterns in CORE_PATTERNS.values() for pattern in patterns),
    *(pattern for tool in foreign.TRAIN for pattern in tool.wordings),
    *(p.replace("\\n", "\n") for p in (*json_tasks.TRAIN, *json_tasks.LISTS_TRAIN)),
    *(question for question, _ in (*tasks.CHAT, *tasks.SUMS)),
    *tasks.DEFINE,
)


def asked(seed: int) -> list[str]:
    """The first question of every held-out prompt of a seed."""
    users = ([m for m in p["messages"] if m["role"] == "user"] for p in judge.prompts(seed))
    return [messages[0]["content"] for messages in users]


def test_no_held_out_question_is_a_training_wording() -> None:
    matchers = [matcher(pattern) for pattern in TRAINING_PATTERNS]
    for seed in (1, 2):
        for text in asked(seed):
            for shown in (text, text.rstrip(".?!")):
                hits = [m.pattern for m in matchers if m.fullmatch(shown)]
                assert not hits, f"{text!r} could come from {hits[0]}"


@pytest.mark.parametrize("pattern", TRAINING_PATTERNS)
def test_a_matcher_matches_what_its_pattern_gives(pattern: str) -> None:
    """Else the test above would prove nothing."""
    rng = random.Random(3)
    words = Words(rng, "train")
    for _ in range(10):
        values = {name: words.integer() for name in slots(pattern)}
        assert matcher(pattern).fullmatch(expand(pattern, rng, values))


@pytest.mark.parametrize("name", sorted(CORE_PATTERNS))
def test_each_intent_has_wordings_of_both_splits(name: str) -> None:
    kept = [e[0] if isinstance(e, tuple) else e for e in getattr(held_out, name)]
    assert len(kept) >= 3
    assert set(slots(kept[0])) <= {s for p in CORE_PATTERNS[name] for s in slots(p)}


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


def test_invented_tools_are_never_those_held_out() -> None:
    rng = random.Random(6)
    made = [invent(rng) for _ in range(3000)]
    assert not {t.tool.name for t in made} & {t.tool.name for t in foreign.HELD_OUT}
    kept = {frozenset(t.makers) for t in foreign.HELD_OUT}
    assert not {frozenset(t.makers) for t in made} & kept
    assert len({t.tool.name for t in made}) > 2500
    words = Words(rng, "train")
    for tool in made[:300]:
        values = {name: str(getattr(words, maker)()) for name, maker in tool.makers.items()}
        for wording in tool.wordings:
            text = expand(wording, rng, values)
            assert all(value in text for value in values.values())
