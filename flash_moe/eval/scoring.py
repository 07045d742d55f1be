"""Whether an answer is what its prompt asks for. Knows no model, and needs no MLX.

A prompt is a table ``{"kind", "messages", "tools", "expected"}``:

* ``tool`` and ``foreign`` (a tool that the model was not made for): expected is the call,
  ``{"name", "arguments"}``. The first call of the answer counts.
* ``json``: expected is the value. The whole answer must be JSON; one code fence around it is taken
  off, since many models write one.
* any other kind, such as ``answer``: expected is a list of texts, which the answer must contain.

Thoughts are no part of an answer.
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
    """Name and arguments of the tool call in an answer of the Qwen3.5 format, values as text."""
    found = _CALL.search(answer)
    return None if found is None else (found.group(1), dict(_PARAMETER.findall(found.group(2))))


def _by_format(prompt: Prompt, answer: str) -> Call | None:
    return call_of(answer)


def is_correct(
    prompt: Prompt,
    answer: str,
    find_call: Callable[[Prompt, str], Call | None] = _by_format,
) -> bool:
    """Whether an answer is what the prompt asks for.

    Args:
        find_call: Finds the call in an answer without thoughts. Default: :func:`call_of`.
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
    """Whether two arguments are the same: text without its white space, numbers by value.

    Formats write all values as text, and parsers turn some into numbers: 3, 3.0 and "3" are the
    same, and so are true and "true". "007" is no number.
    """
    if isinstance(expected, dict | list) or isinstance(got, dict | list):
        return _same(_container(expected), _container(got), same_value)
    return _scalar(expected) == _scalar(got)


def same_json(expected: Any, got: Any) -> bool:
    """Whether two JSON values are the same. 3 and 3.0 are, 1 and true or 3 and "3" are not."""
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
    """The table or list that a text holds as JSON."""
    return parsed(value)[1] if isinstance(value, str) else value


def _scalar(value: Any) -> str | Decimal:
    """What two scalars are compared by."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(text.split())
    if _NUMBER.fullmatch(text):
        try:
            return Decimal(text)
        except InvalidOperation:  # an exponent beyond those of Decimal
            pass
    return text


def parsed(text: str) -> tuple[bool, Any]:
    """Whether a text is valid JSON, and its value. NaN and Infinity are none."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return True, json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def answer_text(answer: str, opens: str = "<think>", closes: str = "</think>") -> str:
    """An answer without its thoughts and end token; nothing, if its thought never ends."""
    _, found, after = answer.rpartition(closes)
    text = after if found else answer.split(opens)[0]
    return text.split("<|im_end|>")[0].strip()


def scores(
    asked: Sequence[Prompt],
    answers: Sequence[str],
    find_call: Callable[[Prompt, str], Call | None] = _by_format,
) -> dict[str, float]:
    """Shares of right answers, from 0 to 1.

    Returns:
        One share for each kind; ``json_valid`` of the ``json`` prompts; ``tool_name``, the right
        name whatever the arguments, and ``tool_NAME`` for each tool of the ``tool`` prompts.
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
