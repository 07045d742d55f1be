"""The toy tokenizer keeps the text, and mlx-lm sees a Qwen3.5 tokenizer in it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from flash_moe.testing.tokenizer import ADDED_TOKENS, added_token_ids, write_tokenizer

USER = {"role": "user", "content": "Hi"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}},
        },
    }
]
CALL = {"function": {"name": "weather", "arguments": {"city": "Graz", "days": 3}}}


@pytest.fixture(scope="module")
def tokenizer(tiny_mlx: Path) -> Any:
    return load_tokenizer(tiny_mlx)


def render(tokenizer: Any, *messages: dict[str, Any], **kwargs: Any) -> str:
    kwargs.setdefault("add_generation_prompt", True)
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **kwargs)


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world! It's 1234 km.",
        "  two spaces\n\n\ttab\r\n",
        "日本語と漢字、한국어",
        "smile 😀👩‍👩‍👧 flags 🇦🇹",
        "naïve e\u0301 (combining) نص हिन्दी",
        "<think>\na\n</think>\n\n<tool_call>\n<function=f>\n</function>\n</tool_call>",
        "",
    ],
)
def test_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    expected = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(ids) == expected
    detokenizer = tokenizer.detokenizer
    for token in ids:
        detokenizer.add_token(token)
    detokenizer.finalize()
    assert detokenizer.text == expected.removeprefix(" ")  # mlx-lm drops the first space


def test_added_tokens_are_last_and_whole(tokenizer: Any) -> None:
    ids = added_token_ids(512)
    assert ids["<|endoftext|>"] == 512 - 33
    assert [ids[token] - ids["<|endoftext|>"] for token in ("<tool_call>", "<think>")] == [14, 24]
    for token in ADDED_TOKENS:
        assert tokenizer.encode(token) == [ids[token]]
    assert len(tokenizer.get_vocab()) == 512


def test_tool_and_think_tokens_survive_skipping_of_special_tokens(tokenizer: Any) -> None:
    ids = tokenizer.encode("<|im_start|><think>x</think><tool_call></tool_call><|im_end|>")
    kept = "<think>x</think><tool_call></tool_call>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == kept


def test_mlx_lm_infers_thinking_tools_and_stop_tokens(tokenizer: Any) -> None:
    assert tokenizer.has_thinking
    assert tokenizer.has_tool_calling
    assert tokenizer.tool_parser.__module__ == "mlx_lm.tool_parsers.qwen3_coder"
    assert tokenizer.eos_token == "<|im_end|>"
    ids = added_token_ids(512)
    assert set(tokenizer.eos_token_ids) >= {ids["<|im_end|>"]}
    assert (tokenizer.think_start, tokenizer.think_end) == ("<think>", "</think>")


def test_smallest_vocabulary_is_bytes_only(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer.get_vocab()) == 289
    assert len(tokenizer.encode("the é")) == 6
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [258, 256]
    with pytest.raises(ValueError, match=r"\[tokenizer\] vocab_size: expected >= 289, got 288"):
        write_tokenizer(tmp_path, 288)


def test_letter_groups_shorten_text(tokenizer: Any) -> None:
    assert len(tokenizer.encode("a tea")) < 5


def test_generation_prompt(tokenizer: Any) -> None:
    turn = "<|im_start|>user\nHi<|im_end|>\n"
    assert render(tokenizer, USER) == turn + "<|im_start|>assistant\n<think>\n"
    closed = render(tokenizer, USER, enable_thinking=False)
    assert closed == turn + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert render(tokenizer, USER, add_generation_prompt=False) == turn


def test_system_and_parts(tokenizer: Any) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}
    text = render(tokenizer, {"role": "system", "content": "Be kind."}, parts)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na<|vision")


def test_tools_block_and_call(tokenizer: Any) -> None:
    system = {"role": "system", "content": "Be kind."}
    assistant = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]}
    results = [{"role": "tool", "content": text} for text in ("rain", "sun")]
    text = render(tokenizer, system, USER, assistant, *results, tools=TOOLS)
    head = text[: text.index("<|im_end|>")]
    assert head.startswith("<|im_start|>system\n# Tools\n")
    listed = head[head.index("<tools>\n") + 8 : head.index("\n</tools>")]
    assert json.loads(listed) == TOOLS[0]
    assert head.endswith("\n\nBe kind.")
    call = (
        "<tool_call>\n<function=weather>\n<parameter=city>\nGraz\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
    )
    assert f"</think>\n\nLet me see.\n\n{call}\n{call}<|im_end|>\n" in text
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    body = call.removeprefix("<tool_call>").removesuffix("</tool_call>")
    parsed = tokenizer.tool_parser(body, TOOLS)
    assert parsed["arguments"] == {"city": "Graz", "days": 3}


def test_thinking_is_kept_only_after_the_last_question(tokenizer: Any) -> None:
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"}
    text = render(tokenizer, USER, answer, USER)
    assert "hm" not in text
    assert "assistant\nYes<|im_end|>" in text
    text = render(tokenizer, USER, {**answer, "content": "Yes", "reasoning_content": "hm"})
    assert "assistant\n<think>\nhm\n</think>\n\nYes<|im_end|>" in text


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "system", "content": "x"}], "No user message"),
        ([USER, {"role": "system", "content": "x"}], "must come first"),
        ([USER, {"role": "robot", "content": "x"}], "Unknown role: robot"),
    ],
)
def test_template_refuses(tokenizer: Any, messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        render(tokenizer, *messages)
