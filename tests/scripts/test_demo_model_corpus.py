"""The demo model's corpus: malformed data is refused, and no edit changes training unnoticed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from scripts.demo_model import corpus, judge
from scripts.demo_model.corpus import CorpusError, entries, table
from scripts.demo_model.dialogues import Dialogues
from scripts.demo_model.foreign_tool import Entry
from scripts.demo_model.records import Record
from scripts.demo_model.tasks import Definition
from scripts.demo_model.ways import Ways

DEFINITIONS = [Definition("lighthouse", "noun", "a tower with a light", "they saw a lighthouse")]
TRAINING_SET = "cd3a036773b6a53ade9e5fb54126bf03078031154a1d0cb152662bbdb5913844"


@pytest.mark.parametrize(
    ("shape", "text", "message"),
    [
        (Ways, 'direkt = ["Hi"]', "direkt: unknown, expected one of direct, do, what, whether"),
        (Ways, 'direct = "Hi"', "direct: expected a list, got 'Hi'"),
        (Ways, 'direct = ["Hi", 5]', r"direct\[1\]: expected a text, got 5"),
        (Ways, "direct = [", "Invalid value"),
        (dict[str, Ways], "hello = 5", "hello: expected a table, got 5"),
        (dict[str, Entry], "[greet]", "greet.description: expected a value, got none"),
        (
            dict[str, Entry],
            '[greet]\ndescription = "Greets."\nparameters.who = { maker = "x", about = "Whom" }',
            "greet.parameters.who: expected a maker of Words, got 'x'",
        ),
        (
            dict[str, Record],
            '[cat]\nsubject = { keys = ["cat"], between = [1] }\nfields = {}',
            "cat.subject: expected a maker or two bounds, got '', \\(1,\\)",
        ),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, shape: Any, text: str, message: str) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(CorpusError, match=rf"^\[corpus\] .*some\.toml: {message}"):
        table(path, shape)


@pytest.mark.parametrize("text", ["lamp\n\ndesk\n", "lamp\ndesk \n"])
def test_a_malformed_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(CorpusError, match=r"some\.txt: line 2: expected an entry"):
        entries(path)


def test_the_training_set_changes_only_on_purpose() -> None:
    """One hash covers all data of the corpus and a sample of what is drawn from it.

    If a change is meant to give another training set, put the hash that the failure shows in place
    of ``TRAINING_SET``. The model in the package then knows another set than the recipe makes until
    it is trained again.
    """
    folder = Path(corpus.__file__).parent
    data = [entries(path) for path in sorted(folder.rglob("*.txt"))]
    data += [corpus.tomllib.loads(p.read_text("utf-8")) for p in sorted(folder.rglob("*.toml"))]
    sources = [Dialogues(1, split, DEFINITIONS) for split in ("train", "held_out")]
    drawn = [source.draw() for source in sources for _ in range(500)]
    found = repr((data, drawn, judge.prompts(1)))
    assert hashlib.sha256(found.encode()).hexdigest() == TRAINING_SET
