"""One run of all measurements on GPUs: the words of its steps, and steps that end badly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import measure_gpus
from scripts.measure_gpus import STEPS, last_lines, run, words_of


def test_words() -> None:
    steps = {name: words_of(words, Path("work"), False) for name, _, words in STEPS}
    assert all((measure_gpus.ROOT / words[1]).exists() for words in steps.values())
    assert steps["rows"][2] == "work/full"
    tiny = words_of({name: words for name, _, words in STEPS}["tier"], Path("work"), True)
    assert tiny[-1] == "top_k=8,cache_gb=0.2,warm_up=60"


@pytest.mark.parametrize(
    ("code", "expected"),
    [("print('row')", 0), ("import sys; sys.exit('a problem')", 1), ("while True: pass", 124)],
)
@pytest.mark.parametrize("name", ["rows", "ranks"])
@pytest.mark.process
def test_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, expected: int
) -> None:
    words = [sys.executable, "-c", code]
    assert run(name, words, 2 if expected == 124 else 60, tmp_path) == expected
    files = (tmp_path / name / f"{each}0" for each in measure_gpus.KINDS)
    if name == "rows":
        files = (tmp_path / f"{name}.{each}" for each in measure_gpus.KINDS)
    assert last_lines(*files) == {0: ["row"], 1: ["a problem"], 124: []}[expected]
