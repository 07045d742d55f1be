"""The demo model's dialogues: reproducible, in the template's form, readable by mlx-lm's parser."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer

from flash_moe.testing import write_tokenizer
from scripts.demo_model import judge, packing, tokenizer, windows
from scripts.demo_model.chat import CLASS_SHIFT, CONTEXT, IGNORED, WRITTEN, Chat
from scripts.demo_model.dialogues import Dialogue, Dialogues
from scripts.demo_model.results import invent
from scripts.demo_model.tasks import Definition
from scripts.demo_model.tools import CORE

DEFINITIONS = [Definition("lighthouse", "noun", "a tower with a light", "they saw a lighthouse")]
N_DIALOGUES = 120
IDS = (1 << CLASS_SHIFT) - 1


def drawn(seed: int, n: int = N_DIALOGUES) -> list[Dialogue]:
    source = Dialogues(seed, "train", DEFINITIONS)
    return [source.draw() for _ in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer learned from a few dialogues; small, so that learning is quick."""
    path = tmp_path_factory.mktemp("demo_tokenizer")
    write_tokenizer(path)
    bare = Chat(path, learned=False)
    texts = [bare.render(d.messages, d.tools) for d in drawn(0)]
    tokenizer.write(path, texts, vocab_size=1024, n_spaced=100)
    return path


@pytest.fixture(scope="module")
def chat(folder: Path) -> Chat:
    return Chat(folder)


def test_a_seed_gives_the_same_dialogues_and_another_seed_others() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert judge.prompts(1) == judge.prompts(1)


def test_text_is_what_transformers_and_mlx_lm_render(folder: Path, chat: Chat) -> None:
    theirs = load_tokenizer(folder)
    for dialogue in drawn(2, 40):
        tools = dialogue.tools or None
        expected = theirs.apply_chat_template(
            dialogue.messages, tools=tools, tokenize=False, add_generation_prompt=False
        )
        assert chat.render(dialogue.messages, dialogue.tools) == expected
    prompt = judge.prompts(3)[0]
    for thinking in (True, False):
        expected = theirs.apply_chat_template(
            prompt["messages"],
            tools=prompt["tools"],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        shown = chat.render(
            prompt["messages"], prompt["tools"], prompt=True, enable_thinking=thinking
        )
        assert shown == expected


def test_calls_are_read_back_by_mlx_lm_and_by_the_judge(folder: Path, chat: Chat) -> None:
    theirs = load_tokenizer(folder)
    assert theirs.has_tool_calling
    n_calls = 0
    for dialogue in drawn(4):
        for message in dialogue.messages:
            for call in message.get("tool_calls", []):
                one = [{"role": "user", "content": "?"}, {**message, "tool_calls": [call]}]
                text = chat.render(one, []).split("<tool_call>")[1]
                inner = text.split("</tool_call>")[0]
                parsed = theirs.tool_parser(inner, dialogue.tools)
                wanted = call["function"]
                assert parsed["name"] == wanted["name"]
                assert parsed["arguments"].keys() == wanted["arguments"].keys()
                for name, value in wanted["arguments"].items():
                    got = parsed["arguments"][name]
                    assert got == (value if isinstance(got, str) else float(value))
                assert judge.call_of(f"<tool_call>{text}") == (wanted["name"], wanted["arguments"])
                n_calls += 1
    assert n_calls > 100


def test_every_call_fits_a_listed_tool() -> None:
    for dialogue in drawn(5):
        listed = {tool["function"]["name"]: tool["function"] for tool in dialogue.tools}
        for message in dialogue.messages:
            for call in message.get("tool_calls", []):
                spec = listed[call["function"]["name"]]["parameters"]
                given = call["function"]["arguments"].keys()
                assert set(spec["required"]) <= given <= spec["properties"].keys()


def test_classes_mark_what_the_model_writes(chat: Chat) -> None:
    for dialogue in drawn(6):
        tokens = chat.encode(dialogue)
        ids, classes = tokens & IDS, tokens >> CLASS_SHIFT
        written = chat.tokenizer.decode(ids[classes == WRITTEN].tolist(), skip_special_tokens=False)
        said = [m for m in dialogue.messages if m["role"] == "assistant"]
        assert written.count("<|im_end|>") == len(said)
        assert all(m["content"] in written for m in said)
        assert "<|im_start|>" not in written
        assert "<tool_response>" not in written
        asked = chat.tokenizer.decode(ids[classes == CONTEXT].tolist(), skip_special_tokens=False)
        assert all(m["content"] in asked for m in dialogue.messages if m["role"] == "user")
        given = ids[classes == IGNORED].tolist()
        opened = len(chat.thought) if dialogue.thinking else len(chat.no_thought)
        assert len(given) % opened == 0
        assert given


def test_a_word_has_the_same_tokens_behind_a_space(chat: Chat) -> None:
    space = chat.ids(" ")
    assert len(space) == 1
    for word in ("Trondvik", "zorplat", "Wexford", "flumox_7.txt"):
        assert chat.ids(f" {word}") == space + chat.ids(word)


def test_right_answers_are_right_and_wrong_ones_wrong(chat: Chat) -> None:
    asked = judge.prompts(9)
    answers = [_right_answer(prompt) for prompt in asked]
    assert all(judge.is_correct(p, a) for p, a in zip(asked, answers, strict=True))
    scores = judge.scores(asked, answers)
    assert set(scores.values()) == {1.0}
    shifted = judge.scores(asked, answers[1:] + answers[:1])
    assert shifted["tool"] < 0.1
    assert shifted["json"] < 0.1


def _right_answer(prompt: dict[str, Any]) -> str:
    expected = prompt["expected"]
    if prompt["kind"] in ("tool", "foreign"):
        parameters = "".join(
            f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in expected["arguments"].items()
        )
        name = expected["name"]
        return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call><|im_end|>"
    if prompt["kind"] == "json":
        return json.dumps(expected, indent=1) + "<|im_end|>"
    return f"I see: {', '.join(expected)}.<|im_end|>"


def test_results_have_the_shapes_that_the_model_knows() -> None:
    source = Dialogues(12, "train")
    keys = {
        "get_time": {"time", "date"},
        "calculate": {"expression", "result"},
        "search": {"results"},
        "list_files": {"path", "files"},
    }
    arguments = {"expression": "6 * 7", "query": "red lamp", "path": "docs"}
    for core, wanted in keys.items():
        assert core in CORE
        results = [invent(core, arguments, source.words)[0] for _ in range(20)]
        assert all(set(r) in (wanted, {"error"}) for r in results)
    values = {invent("calculate", arguments, source.words)[0].get("result") for _ in range(20)}
    assert 42 in values


def test_windows_come_back_as_written_and_damage_is_seen(tmp_path: Path) -> None:
    tokens = np.random.RandomState(0).randint(0, 2**16, (3, windows.WINDOW)).astype(np.uint16)
    path = tmp_path / "some.xz"
    windows.save(path, tokens)
    assert np.array_equal(windows.load(path), tokens)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(lzma.LZMAError):
        windows.load(path)
    path.write_bytes(lzma.compress(b"something else"))
    with pytest.raises(ValueError, match="not a file of windows"):
        windows.load(path)


def test_a_seed_makes_the_same_windows_and_another_seed_others(folder: Path) -> None:
    chat = Chat(folder)
    plain = np.concatenate([chat.encode_text("The lamp is old."), chat.encode_text("A red boat.")])
    windows.save(folder / packing.PLAIN, plain[:, None])
    entries = json.dumps([["lighthouse", "noun", "a tower with a light", ""]])
    (folder / packing.DEFINITIONS).write_text(entries, "utf-8")
    first = packing.shard(3, folder, 4)
    assert first.shape == (4, windows.WINDOW)
    assert np.array_equal(first, packing.shard(3, folder, 4))
    assert not np.array_equal(first, packing.shard(4, folder, 4))
    assert 0.1 < np.mean(first >> CLASS_SHIFT == WRITTEN) < 0.9
