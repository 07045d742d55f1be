"""Text of tokens: exactly what the tokenizer decodes, however the tokens fall."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load_tokenizer

from flash_moe.demo_model import STORE
from flash_moe.generation.steps import AnswerText, Detokenizer

TOKENIZER: Any = load_tokenizer(STORE, {})


class Slow:
    """A tokenizer without a backend."""

    def decode(self, ids: list[int]) -> str:
        return str(TOKENIZER.decode(ids))


class LooksBack(Slow):
    """One whose backend refuses to decode piece by piece."""

    backend_tokenizer = object()


@pytest.mark.parametrize("tokenizer", [TOKENIZER, Slow(), LooksBack()])
@given(st.lists(st.integers(0, 2000), max_size=30))
def test_pieces_are_the_decoded_text(tokenizer: Any, ids: list[int]) -> None:
    """Also single bytes of characters, and special tokens."""
    made = Detokenizer(tokenizer)
    text = "".join(made.add(token) for token in ids) + made.finish()
    assert text == TOKENIZER.decode(ids)


@pytest.mark.parametrize(
    "text", ["    return x\n", " hello", "\n\n  x ", "\u00e9t\u00e9 \u4f60\u597d"]
)
def test_space_and_whole_characters_are_kept(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    made = AnswerText(TOKENIZER, len(ids))
    pieces = [made.feed(token) for token in ids]
    assert "".join(pieces) == text
    assert made.finish_reason == "length"
    assert all("\ufffd" not in piece for piece in pieces)


def test_the_end_is_no_text() -> None:
    made = AnswerText(TOKENIZER, 10)
    assert made.feed(next(iter(TOKENIZER.eos_token_ids))) == ""
    assert made.finish_reason == "stop"


def test_a_stop_text_ends_the_answer() -> None:
    made = AnswerText(TOKENIZER, 100, [" b"])
    text = ""
    for token in TOKENIZER.encode("a b c", add_special_tokens=False):
        text += made.feed(token)
        if made.finish_reason:
            break
    assert (text, made.finish_reason) == ("a", "stop")
