"""Scoring of answers to prompts; needs no model and no MLX.

A prompt is an object ``{"kind", "messages", "tools", "expected"}``:

* ``tool`` and ``foreign`` (a tool not in the training data): expected is the call,
  ``{"name", "arguments"}``. The first call of the answer counts.
* ``json``: expected is the value. The whole answer must be JSON; one code fence around it is
  removed, since many models write one.
* any other kind, such as ``answer``: expected is a list of strings, which the answer must contain.

Reasoning is not part of an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

Prompt: TypeAlias = dict[str, Any]
# Name and arguments.
Call: TypeAlias = tuple[str, dict[str, Any]]

TOOL_KINDS = ("tool", "foreign")

_CALL = re.compile(r"<tool_call>\s*<function=([^\s<>]+)>(.*?)</function>\s*</tool_call>", re.S)
_PARAMETER = re.compile(r"<parameter=([^\s<>]+)>\n(.*?)\n</parameter>", re.S)
_FENCE = re.compile(r"```[\w-]*\n(.*)\n```", re.S)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,9})?", re.A)


def call_of(answer: str) -> Call | None:
    """Return name and arguments of the call in an answer of the Qwen3.5 format, values as text."""
    match = _CALL.search(answer)
    return None if match is None else (match.group(1), dict(_PARAMETER.findall(match.group(2))))


def _by_format(prompt: Prompt, answer: str) -> Call | None:
    return call_of(answer)


def is_correct(
    prompt: Prompt,
    answer: str,
    find_call: Callable[[Prompt, str], Call | None] = _by_format,
) -> bool:
    """Return whether an answer is what its prompt expects.

    Args:
        find_call: Returns the call in an answer without reasoning. Default: :func:`call_of`.
    """
    expected, text = prompt["expected"], answer_text(answer)
    if prompt["kind"] in TOOL_KINDS:
        call = find_call(prompt, text)
        return (
            call is not None
            and call[0] == expected["name"]
            and same_value(expected["arguments"], call[1])
        )
    if prompt["kind"] == "json":
        valid, value = parsed(text)
        return valid and same_json(expected, value)
    return all(value in text for value in expected)


def same_value(expected: Any, got: Any) -> bool:
    """Compare two arguments: text without white space, numbers by value.

    Formats write all values as text, and parsers turn some into numbers: 3, 3.0 and "3" are equal,
    and so are true and "true". "007" is not a number.
    """
    if isinstance(expected, dict | list) or isinstance(got, dict | list):
        return _same(_container(expected), _container(got), same_value)
    return _scalar(expected) == _scalar(got)


def same_json(expected: Any, got: Any) -> bool:
    """Compare two JSON values: 3 equals 3.0, but 1 differs from true, and 3 from "3"."""
    if isinstance(expected, dict | list) or isinstance(got, dict | list):
        return _same(expected, got, same_json)
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    return bool(expected == got)


def _same(expected: Any, got: Any, same: Callable[[Any, Any], bool]) -> bool:
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(same(expected[k], got[k]) for k in expected)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(same, expected, got))
    return False


def _container(value: Any) -> Any:
    """Return the object or list in a JSON text."""
    return parsed(value)[1] if isinstance(value, str) else value


def _scalar(value: Any) -> str | Decimal:
    """Return the comparison key of a scalar."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(text.split())
    if _NUMBER.fullmatch(text):
        try:
            return Decimal(text)
        except InvalidOperation:  # the exponent exceeds Decimal's range
            pass
    return text


def parsed(text: str) -> tuple[bool, Any]:
    """Return whether a text is valid JSON, and its value. NaN and Infinity are invalid."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return True, json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def answer_text(answer: str, opens: str = "<think>", closes: str = "</think>") -> str:
    """Return an answer without reasoning and end token; empty if its reasoning never ends."""
    _, closed, after = answer.partition(closes)
    text = after if closed else answer.split(opens)[0]
    return text.split("<|im_end|>")[0].strip()


def scores(
    asked: Sequence[Prompt],
    answers: Sequence[str],
    find_call: Callable[[Prompt, str], Call | None] = _by_format,
) -> dict[str, float]:
    """Return shares of correct answers, from 0 to 1.

    Returns:
        One share per kind; ``json_valid`` of the ``json`` prompts; of the ``tool`` prompts,
        ``tool_name`` (correct name with any arguments) and ``tool_NAME`` for each tool.
    """
    share: dict[str, list[bool]] = {}
    for prompt, answer in zip(asked, answers, strict=True):
        kind = prompt["kind"]
        share.setdefault(kind, []).append(is_correct(prompt, answer, find_call))
        if kind == "json":
            share.setdefault("json_valid", []).append(parsed(answer_text(answer))[0])
        if kind == "tool":
            call, name = find_call(prompt, answer_text(answer)), prompt["expected"]["name"]
            share.setdefault("tool_name", []).append(call is not None and call[0] == name)
            share.setdefault(f"tool_{name}", []).append(share["tool"][-1])
    return {name: sum(hits) / len(hits) for name, hits in share.items()}
