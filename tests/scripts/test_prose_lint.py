"""The prose lint finds what reviewers found, and leaves plain sentences alone."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "prose_lint.py"

FOUND = [
    "Also one that is partial or damaged, of which is to be said that it is.",
    "What a branch is now is asked by `pull` alone.",
    "What is quantized may need tensors of several shards at once",
    "`thread` is refused in the way on which `tool_runner` goes on without",
    "Each answer more at once asks for other experts in each step.",
    "mlx-lm's cache of keys and values is told the lengths of the prompts and forgets them",
    "what is free later another program gave back and may want again",
    "Whoever waits looks after a second whether threads are gone",
    "Somebody waits for a batch: see that its reads do not wait.",
    "What a logits processor of mlx-lm is shown, told as what is new.",
    "HTTP: who may ask, for what, how much at most.",
    "From what is asked to what is generated: token ids, a constraint.",
    "what an answer was to be held to cannot be held",
    "Files and file names that somebody else chose: a name stays inside its directory.",
    "Of shards that were noted, and may be gone, nothing is written again.",
    "Tells this work's share of the errors from that of others.",
    "What goes beyond it the system wires down at the cost of everything else.",
    "nobody to ask: add --yes",
    "the key X stands there twice",
    "what clients must show; better in FLASH_MOE_API_KEY",
    "then a thought is closed",
    "10 experts a token",
    "Runs in a process of its own.",
    "The cache is kept, also after an error.",
    "A repository at the hub.",
    "The output depends on the layer before.",
    "Replace each symbol by a space.",
    "kind: expected a text, got 3",
    "The file is missing or has another size.",
]
FINE = [
    "Return the experts that a layer needs, 10 experts per token.",
    "Per-layer slot table.",
    "A waiter checks every second that its reader threads are alive.",
    "Include partial and damaged stores so the caller can report them.",
    "The server is stateless; `thread` is rejected.",
    "maximum queued requests",
    "A module is replaced by a subclass; it is also correct on a CPU.",
]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def python(text: str) -> str:
    return f'"""Module."""\n\n\ndef f() -> None:\n    """{text}"""\n'


@pytest.mark.parametrize("text", FOUND)
def test_examples_of_the_review_are_found(script: dict[str, Any], text: str) -> None:
    assert list(script["in_python"](python(text)))
    assert list(script["in_markdown"](text))


@pytest.mark.parametrize("text", FINE)
def test_plain_sentences_pass(script: dict[str, Any], text: str) -> None:
    assert list(script["in_python"](python(text))) == []
    assert list(script["in_markdown"](text)) == []


def test_comments_and_texts_for_users_are_read(script: dict[str, Any]) -> None:
    source = '"""M."""\n\nx = 1  # nobody reads it\nraise ValueError("there is somebody here")\n'
    assert [line for line, _ in script["in_python"](source)] == [4, 3]


def test_an_exception_is_marked(script: dict[str, Any]) -> None:
    assert list(script["in_python"]('"""M."""\n\nx = 1  # anew  # prose: ok\n')) == []
    assert list(script["in_markdown"]("Again, or anew. <!-- prose: ok -->")) == []


def test_lines_of_docs_are_wrapped(script: dict[str, Any]) -> None:
    long = "word " * 30
    assert next(problem for _, problem in script["in_markdown"](long)).endswith("wrap at 100")
    assert list(script["in_markdown"](f"| {long} |")) == []
    assert list(script["in_markdown"](f"```\n{long}\n```")) == []
