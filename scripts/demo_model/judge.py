"""Held-out prompts; ``flash_moe.eval.scoring`` scores the answers.

The kinds are ``tool`` and ``foreign`` (the expected call), ``json`` (the expected object) and
``answer`` (a tool has answered; the sentence must contain its values).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from flash_moe.eval.scoring import Prompt, answer_text, call_of, is_correct, parsed, scores
from scripts.demo_model import foreign, json_tasks, results
from scripts.demo_model.dialogues import SYSTEMS
from scripts.demo_model.patterns import expand
from scripts.demo_model.requests import CORE_NAMES, ask
from scripts.demo_model.tools import CORE, Schema, plain
from scripts.demo_model.words import Words

__all__ = [
    "Prompt",
    "answer_text",
    "call_of",
    "is_correct",
    "parsed",
    "prompts",
    "scores",
    "told",
    "write",
]

N_TOOL, N_JSON, N_ANSWER, N_FOREIGN = 320, 160, 80, 80


def prompts(seed: int) -> list[Prompt]:
    """Return all held-out prompts of a seed, ordered by kind."""
    rng = random.Random(f"judge {seed}")
    words = Words(rng, "held_out")
    made = [_tool_prompt(CORE_NAMES[i % len(CORE_NAMES)], words) for i in range(N_TOOL)]
    for _ in range(N_JSON):
        task = json_tasks.json_task(words)
        tools = [] if rng.random() < 0.5 else _tools(rng, rng.choice(CORE_NAMES))
        messages = [{"role": "user", "content": task.text}]
        made.append(_prompt("json", messages, tools, task.value, rng))
    for i in range(N_ANSWER):
        made.append(_answer_prompt(CORE_NAMES[i % len(CORE_NAMES)], words))
    for i in range(N_FOREIGN):
        made.append(_foreign_prompt(foreign.HELD_OUT[i % len(foreign.HELD_OUT)], words))
    return made


def write(path: Path, seed: int) -> None:
    """Write the prompts of a seed as a JSON file."""
    path.write_text(json.dumps(prompts(seed), ensure_ascii=False, indent=1) + "\n", "utf-8")


def _tools(rng: random.Random, core: str) -> list[Schema]:
    others = [name for name in CORE_NAMES if name != core]
    names = [core, *rng.sample(others, rng.randint(1, len(others)))]
    rng.shuffle(names)
    return [CORE[name] for name in names]


def _prompt(
    kind: str,
    messages: list[dict[str, Any]],
    tools: list[Schema],
    expected: Any,
    rng: random.Random,
) -> Prompt:
    if rng.random() < 0.3:
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}, *messages]
    return {"kind": kind, "messages": messages, "tools": tools, "expected": expected}


def _tool_prompt(core: str, words: Words) -> Prompt:
    request = ask(core, words)
    expected = {"name": core, "arguments": request.arguments}
    messages = [{"role": "user", "content": request.text}]
    return _prompt("tool", messages, _tools(words.rng, core), expected, words.rng)


def _foreign_prompt(stranger: foreign.Foreign, words: Words) -> Prompt:
    rng = words.rng
    arguments = {name: words.make(maker) for name, maker in stranger.makers.items()}
    text = expand(rng.choice(stranger.ways.direct), rng, arguments)
    tools = [*_tools(rng, rng.choice(CORE_NAMES))[:3], stranger.schema]
    rng.shuffle(tools)
    expected = {"name": stranger.tool.name, "arguments": arguments}
    return _prompt("foreign", [{"role": "user", "content": text}], tools, expected, rng)


def _answer_prompt(core: str, words: Words) -> Prompt:
    """Draw a question, its call and a result; the answer must contain the result's values."""
    rng = words.rng
    request = ask(core, words)
    result, _ = results.invent(core, request.arguments, words)
    call = {"function": {"name": plain(core).name, "arguments": request.arguments}}
    messages = [
        {"role": "user", "content": request.text},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps(result, ensure_ascii=False)},
    ]
    return _prompt("answer", messages, _tools(rng, core), told(core, result), rng)


def told(core: str, result: dict[str, Any]) -> list[str]:
    """Return the texts that a sentence about a result must contain."""
    if "error" in result:
        return [str(result["error"])]
    if core == "get_weather":
        return [str(result["temperature"]), str(result["condition"])]
    if core == "search":
        return [str(result["results"][0]["text"])]
    if core == "list_files":
        return [*map(str, result["files"])] or ["empty"]
    key = {"get_time": "time", "calculate": "result", "convert_units": "result"}.get(core)
    return [str(result[key])] if key else ([str(result["text"])] if core == "read_file" else [])
