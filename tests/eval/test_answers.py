"""Answers of a model, and the calls in them, through mlx-lm's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer

from flash_moe import load
from flash_moe.errors import ConfigError, PromptError
from flash_moe.eval.answers import answer_prompts, call_in, supported_prompts, without_reasoning
from flash_moe.eval.scoring import is_correct

USER = [{"role": "user", "content": "How far is 26.2 miles in km?"}]
PARAMETERS = {"value": {"type": "number"}, "to_unit": {"type": "string"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "convert",
            "description": "Convert.",
            "parameters": {"type": "object", "properties": PARAMETERS},
        },
    }
]
TOOL: dict[str, Any] = {
    "kind": "tool",
    "messages": USER,
    "tools": TOOLS,
    "expected": {"name": "convert", "arguments": {"value": "26.2", "to_unit": "km"}},
}
JSON = {"kind": "json", "messages": USER, "tools": TOOLS, "expected": {}}
TOLD = {
    "kind": "answer",
    "messages": [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "convert"}}]},
        {"role": "tool", "content": "42.2"},
    ],
    "tools": TOOLS,
    "expected": ["42.2"],
}
CALL = (
    "<tool_call>\n<function=convert>\n<parameter=value>\n26.20\n</parameter>\n"
    "<parameter=to_unit>\nkm\n</parameter>\n</function>\n</tool_call>"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_mlx: Path) -> Any:
    return load_tokenizer(tiny_mlx)


def with_template(tiny_mlx: Path, folder: Path, template: str | None) -> Any:
    """The tokenizer of the tiny model with another chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_mlx / name, folder / name)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return load_tokenizer(folder)


def test_calls_are_read_by_the_parser_of_the_model(tokenizer: Any) -> None:
    assert call_in(tokenizer, TOOL, f"I look. {CALL}") == (
        "convert",
        {"value": 26.2, "to_unit": "km"},
    )
    assert is_correct(TOOL, CALL, lambda prompt, text: call_in(tokenizer, prompt, text))
    second = CALL.replace("convert", "other")
    assert call_in(tokenizer, TOOL, CALL + second) == call_in(tokenizer, TOOL, CALL)


@pytest.mark.parametrize(
    "text",
    ["", "convert", "<tool_call>", CALL[:60], CALL.replace("26.20", "many"), "<tool_call>{}"],
)
def test_what_is_no_call(tokenizer: Any, text: str) -> None:
    assert call_in(tokenizer, TOOL, text) is None


def test_calls_of_another_format(tiny_mlx: Path, tmp_path: Path) -> None:
    theirs = with_template(tiny_mlx, tmp_path, "<tool_call> {{ tool_call.name }}")
    call = {"name": "convert", "arguments": {"value": 26.2, "to_unit": "km"}}
    answer = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    assert is_correct(TOOL, answer, lambda prompt, text: call_in(theirs, prompt, text))
    call["arguments"] = json.dumps(call["arguments"])
    answer = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    assert is_correct(TOOL, answer, lambda prompt, text: call_in(theirs, prompt, text))
    for wrong in ("3", "[]", '["convert"]', '{"name": 3, "arguments": {}}', '{"name": "convert"}'):
        assert call_in(theirs, TOOL, f"<tool_call>{wrong}</tool_call>") is None


def test_thoughts(tokenizer: Any) -> None:
    def shown(thinking: bool, answer: str) -> str:
        ids = tokenizer.apply_chat_template(
            USER, add_generation_prompt=True, enable_thinking=thinking
        )
        return without_reasoning(tokenizer, ids, answer)

    assert shown(False, " 42 km\n") == "42 km"
    assert shown(True, "hm\n</think>\n\n42 km") == "42 km"
    assert shown(True, "hm, hm") == ""
    assert shown(False, "<think>\nhm") == ""


def test_what_a_model_can_be_asked(tokenizer: Any, tiny_mlx: Path, tmp_path: Path) -> None:
    prompts = [TOOL, JSON, TOLD]
    assert supported_prompts(tokenizer, prompts) == prompts
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = with_template(tiny_mlx, tmp_path / "a", "{{ messages[0].content }}")
    assert supported_prompts(plain, prompts) == [{**JSON, "tools": []}]
    assert call_in(plain, TOOL, CALL) is None
    assert supported_prompts(with_template(tiny_mlx, tmp_path / "b", None), prompts) == []


@pytest.mark.parametrize("thinking", [False, True])
def test_answers_are_those_of_generate(tiny_store: Path, tiny_mlx: Path, thinking: bool) -> None:
    prompts = [TOLD] if thinking else [TOOL, JSON]
    resident, tokenizer = mlx_lm.load(str(tiny_mlx))
    done: list[int] = []
    with load(tiny_store, cache_gb=0.002) as flash:
        found = answer_prompts(
            flash.model,
            flash.tokenizer,
            prompts,
            thinking=thinking,
            max_tokens=6,
            on_answer=lambda: done.append(1),
        )
        for prompt, answer in zip(prompts, found, strict=True):
            template = {"tools": prompt["tools"], "enable_thinking": thinking}
            whole = flash.generate(prompt["messages"], max_tokens=6, template_args=template)
            text = whole.text.strip()
            assert answer == ("" if thinking and "</think>" not in text else text)
    assert len(done) == len(prompts)
    assert answer_prompts(resident, tokenizer, prompts, thinking=thinking, max_tokens=6) == found
    if not thinking:
        assert all(found)


def test_bad_prompts(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=0.002) as flash:
        refused = {**JSON, "messages": [{"role": "assistant", "content": "x"}]}
        with pytest.raises(PromptError, match="prompt 1: the chat template rejects"):
            answer_prompts(flash.model, flash.tokenizer, [JSON, refused], max_tokens=1)
        with pytest.raises(PromptError, match=r"prompt 0: .*the context of this model is 64"):
            answer_prompts(flash.model, flash.tokenizer, [JSON], max_context=64)
        with pytest.raises(ConfigError, match="max_tokens: expected at least 1"):
            answer_prompts(flash.model, flash.tokenizer, [JSON], max_tokens=0)
