"""The text, cut into windows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from flash_moe.errors import ConfigError, PromptError
from flash_moe.eval.windows import BUNDLED_TEXT, Window, n_scored, read_text, windows
from flash_moe.testing import write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, vocab_size=600)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def with_bos(folder: Path) -> Any:
    """The same tokenizer, but it puts a token before each text, as those of Llama do."""
    inner = PreTrainedTokenizerFast.from_pretrained(folder, bos_token="<|endoftext|>")
    inner.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A",
        special_tokens=[("<|endoftext|>", inner.convert_tokens_to_ids("<|endoftext|>"))],
    )
    return TokenizerWrapper(inner)


def test_the_bundled_text() -> None:
    text = read_text()
    assert 6000 <= len(BUNDLED_TEXT.read_bytes()) <= 10_000
    for kind in ("def ", '{"', "<li>", "SELECT", "?"):
        assert kind in text


def test_windows_without_bos(tokenizer: Any) -> None:
    text = read_text()
    ids = tokenizer.encode(text, add_special_tokens=False)
    cut = windows(tokenizer, text, 1000, 300)
    assert [len(w.inputs) for w in cut] == [299, 299, 299, 99]
    assert cut[0] == Window(tuple(ids[:299]), tuple(ids[1:300]))
    assert cut[3] == Window(tuple(ids[900:999]), tuple(ids[901:1000]))
    assert n_scored(cut) == 996


def test_windows_with_bos(with_bos: Any) -> None:
    ids = with_bos.encode(read_text(), add_special_tokens=False)
    assert with_bos.encode("x")[0] == with_bos.bos_token_id != ids[0]
    cut = windows(with_bos, read_text(), 700, 300)
    assert [len(w.inputs) for w in cut] == [300, 300, 100]
    for i, window in enumerate(cut):
        assert window.inputs[0] == with_bos.bos_token_id
        assert window.targets == tuple(ids[300 * i : min(300 * i + 300, 700)])
        assert window.inputs[1:] == window.targets[:-1]
    assert len(windows(with_bos, "e", 10)) == 1


def test_a_rest_without_a_next_token_is_left_out(tokenizer: Any) -> None:
    assert [len(w.inputs) for w in windows(tokenizer, read_text(), 21, 10)] == [9, 9]


@pytest.mark.parametrize(("text", "n"), [("", 10), ("e", 10), ("the text", 1)])
def test_too_short(tokenizer: Any, text: str, n: int) -> None:
    with pytest.raises(PromptError, match=r"too short: expected at least 2 tokens, got [01]"):
        windows(tokenizer, text, n)


@pytest.mark.parametrize("n", [0, -5])
def test_no_tokens_asked_for(tokenizer: Any, n: int) -> None:
    with pytest.raises(ConfigError, match="tokens: expected at least 1"):
        windows(tokenizer, "some text", n)


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="etaoin \n\u00e9\u4e16.1", max_size=300), st.integers(2, 5))
def test_a_long_text_gives_the_same_first_tokens(tokenizer: Any, part: str, n: int) -> None:
    """Only the beginning of a long text is encoded."""
    text = "the " + 4 * part
    expected = tokenizer.encode(text, add_special_tokens=False)[:n]
    first = windows(tokenizer, text, n)[0]
    assert [*first.inputs, first.targets[-1]] == expected


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Grüße, 世界", encoding="utf-8")
    assert read_text(file) == "Grüße, 世界"
    file.write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(PromptError, match="not UTF-8"):
        read_text(file)
    with pytest.raises(PromptError, match="No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(PromptError, match="not a regular file"):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PromptError, match="not a regular file"):
        read_text(tmp_path / "pipe")
    with open(file, "wb") as stream:
        stream.truncate(64_000_001)
    with pytest.raises(PromptError, match="at most 64000000 bytes"):
        read_text(file)
