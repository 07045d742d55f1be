"""Pins the quality of the model in the package: a change that spoils it is seen here.

The recorded values are those of this store on a CPU; the bounds leave room for other arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flash_moe import FlashMoE, load
from flash_moe.demo_model import PROMPTS, STORE
from flash_moe.eval import scoring
from flash_moe.eval.answers import answer_prompts, call_in
from flash_moe.eval.logits import logits_of
from flash_moe.eval.prompts import read_prompts
from flash_moe.eval.token_scores import TextTally
from flash_moe.eval.windows import read_text, windows
from flash_moe.store.verify import verify
from scripts.demo_model.bundle import MOST_BYTES
from scripts.demo_model.quality_stores import dialogues
from tests.support.effort import repetitions

# Mean negative log-likelihood in nats a token, of the first 256 tokens.
LOSS = {"dialogues": 0.385, "the text of flash-moe eval": 4.684}
BOUND = 0.02


@pytest.fixture(scope="module")
def demo() -> Iterator[FlashMoE]:
    with load("demo") as flash:
        yield flash


def short_prompts() -> list[scoring.Prompt]:
    """Of each tool the held-out prompt with the fewest tools, and some that ask for JSON alone."""
    asked = sorted(read_prompts(None), key=lambda p: len(p["tools"]))
    tools: dict[str, scoring.Prompt] = {}
    for prompt in asked:
        if prompt["kind"] == "tool":
            tools.setdefault(prompt["expected"]["name"], prompt)
    n_tools, n_json = repetitions(4, full=8), repetitions(2, full=6)
    return [*tools.values()][:n_tools] + [p for p in asked if p["kind"] == "json"][:n_json]


def test_the_store_is_sound_and_small() -> None:
    assert not verify(STORE).problems
    files = [f for f in (*STORE.rglob("*"), PROMPTS) if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= MOST_BYTES
    assert not any(str(Path.home()).encode() in f.read_bytes() for f in files if f.suffix != ".bin")


@pytest.mark.parametrize("name", sorted(LOSS))
def test_loss_on_fixed_texts(demo: FlashMoE, name: str) -> None:
    text = dialogues(2000) if name == "dialogues" else read_text(None)
    tally = TextTally()
    for rows, targets in logits_of(demo.model, windows(demo.tokenizer, text, 257), 64):
        tally.add(rows, targets)
    scores = tally.scores()
    assert scores.mean_nll == pytest.approx(LOSS[name], abs=BOUND)
    assert math.log(scores.perplexity) == pytest.approx(scores.mean_nll)


def test_calls_and_json_on_held_out_prompts(demo: FlashMoE) -> None:
    prompts = short_prompts()
    answers = answer_prompts(demo.model, demo.tokenizer, prompts, max_tokens=120)
    shares = scoring.scores(prompts, answers, partial(call_in, demo.tokenizer))
    assert len(prompts) == repetitions(6, full=14)
    assert shares["tool"] >= repetitions(3, full=7) / repetitions(4, full=8)
    assert shares["json_valid"] == 1.0
    assert shares["json"] >= repetitions(1, full=4) / repetitions(2, full=6)
