"""Strict readers of the formats of tool calls, by the names of mlx-lm's parsers.

mlx-lm's parsers skip text that they cannot parse, so a malformed call becomes another one. A reader
here consumes all text between the markers, or raises.

An argument in tags may contain the tags of its format. It ends at a closing tag that an argument or
the end of the call follows; closing tags inside it that belong to opening tags inside it do not
count. An argument with more opening than closing tags has therefore no end and is an error.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flash_moe.tools.argument_text import (
    UnfinishedValueError,
    read_json,
    typed,
    whole_json,
    with_new_key,
)

_NAME = r"""\s*["']?(?P<{}>[^"'<>]+?)["']?\s*"""  # of MiniMax's and MiniCPM's tags
_CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'", re.DOTALL)
_GEMMA_KEY = re.compile(r'([{,]\s*)([^\s{}\[\],:"]+)(\s*:)')


class RawText(str):
    """Argument that is written as text; the schema determines its type."""


@dataclass(frozen=True)
class WrittenCall:
    """A call as it is written; ``arguments`` may be anything that JSON can express."""

    name: Any
    arguments: Any
    id: Any = None


@dataclass(frozen=True)
class CallFormat:
    """A format of calls.

    Attributes:
        read: Returns the calls in the text between the markers. Raises ``UnfinishedValueError``
            if the text ends inside an argument, so that a marker after it is a part of the
            argument; ``ValueError`` or ``SyntaxError`` for any other text that is no call.
        closing: Text that ends an argument; after a call it shows that an argument was cut. Empty
            for formats in which the end marker shows that.
        bare: Begin of a call without its marker; ``{}`` stands for the name of the tool.
    """

    read: Callable[[str], list[WrittenCall]]
    closing: str = ""
    bare: tuple[str, ...] = ()

    def unfinished(self, text: str) -> str:
        """Return which argument the text of a call ends in; an empty text if in none."""
        try:
            self.read(text)
        except UnfinishedValueError as error:
            return str(error)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
        return ""


class _Tags:
    """Reader of a format of tags.

    Args:
        call: Regular expression of the begin of a call, with a group ``name``.
        argument: Begin of an argument, with a group ``key``, which is ``None`` if one JSON object
            holds all arguments; an optional group ``type`` is a JSON type that the model writes.
        closing: End of an argument.
        end: End of a call; empty if the end marker is one.
        padded: Whether a newline after the begin and before the end is not a part of a value.
        cdata: Whether a value may be written in ``<![CDATA[...]]>``.
    """

    def __init__(
        self,
        call: str,
        argument: str,
        closing: str,
        end: str = "",
        *,
        padded: bool = False,
        cdata: bool = False,
    ) -> None:
        def pattern(regex: str) -> re.Pattern[str]:
            return re.compile(regex, re.DOTALL)

        last = rf"{end}\s*(?:{call}|\Z)" if end else r"\Z"
        self._call, self._end = pattern(call), pattern(rf"\s*{end}\s*")
        self._argument = pattern(rf"\s*(?:{argument})")
        self._tags = pattern(rf"{argument}|(?P<closing>{closing})")
        self._follows = pattern(rf"\s*(?:{argument}|{last})")
        self._many, self._padded, self._cdata = bool(end), padded, cdata

    def __call__(self, text: str) -> list[WrittenCall]:
        text, at = text.strip(), 0
        calls: list[WrittenCall] = []
        while at < len(text) or not calls:
            begin = self._call.match(text, at)
            if begin is None or (calls and not self._many):
                raise ValueError(f"No function where one should begin: {text[at : at + 40]!r}")
            arguments: dict[str, Any] = {}
            at = self._take_arguments(text, begin.end(), arguments)
            end = self._end.match(text, at)
            if end is None:
                raise ValueError(f"unexpected text in {begin['name']}: {text[at : at + 40]!r}")
            at = end.end()
            calls.append(WrittenCall(begin["name"], arguments))
        return calls

    def _take_arguments(self, text: str, at: int, arguments: dict[str, Any]) -> int:
        """Add the arguments that begin at ``at``; return the position after them."""
        while begin := self._argument.match(text, at):
            groups = begin.groupdict()
            key = groups["key"]
            end = self._end_of_value(text, begin.end())
            if end is None:
                raise UnfinishedValueError(f"the argument {key or 'json'} is not closed")
            value, at = text[begin.end() : end.start()], end.end()
            if key is None:
                for name, each in _object(value).items():
                    with_new_key(arguments, name, each)
            elif "type" in groups:
                with_new_key(arguments, key, typed(value, {"type": groups["type"] or "string"}, {}))
            else:
                with_new_key(arguments, key.strip(), RawText(self._inner(value)))
        return at

    def _end_of_value(self, text: str, begin: int) -> re.Match[str] | None:
        inner = 0  # arguments inside the value that are open
        for tag in self._tags.finditer(text, begin):
            if tag["closing"] is None:
                inner += 1
            elif inner:
                inner -= 1
            elif self._follows.match(text, tag.end()):
                value = text[begin : tag.start()]
                opened = self._cdata and value.lstrip().startswith("<![CDATA[")
                if not opened or _CDATA.fullmatch(value):
                    return tag
        return None

    def _inner(self, value: str) -> str:
        if self._padded:
            return value.removeprefix("\n").removesuffix("\n")
        cdata = _CDATA.fullmatch(value) if self._cdata else None
        return cdata[1] if cdata else value


def _object(text: str) -> dict[str, Any]:
    value = whole_json(text)
    if not isinstance(value, dict):
        raise ValueError("its arguments are no object")
    return value


def _json(text: str) -> list[WrittenCall]:
    """Read ``{"name": ..., "arguments": {...}}``, several, or a list of them."""
    at, values = 0, []
    while at < len(text):
        value, at = read_json(text, at)
        values += value if isinstance(value, list) else [value]
    for value in values:
        if not isinstance(value, dict) or not value.keys() <= {"name", "arguments", "id"}:
            raise ValueError(f"expected name and arguments, got {json.dumps(value):.80}")
    return [WrittenCall(v.get("name"), v.get("arguments"), v.get("id")) for v in values]


def _headed(head: str, tail: str, text: str) -> list[WrittenCall]:
    """Read calls of a head with name and id, and a JSON object."""
    if re.match(r"\s*\[\s*[{\]]", text):
        return _json(text)
    at, calls = 0, []
    begins, ends = re.compile(rf"\s*{head}"), re.compile(rf"{tail}\s*")
    while at < len(text):
        begin = begins.match(text, at)
        if begin is None:
            raise ValueError(f"No function where one should begin: {text[at : at + 40]!r}")
        arguments, at = read_json(text, begin.end())
        at = ends.match(text, at).end()  # type: ignore[union-attr]
        calls.append(WrittenCall(begin["name"], arguments, begin.groupdict().get("id")))
    return calls


def _gemma(quote: str, text: str) -> list[WrittenCall]:
    """Read ``call:NAME{key:value}`` with strings between two ``quote``."""
    parts = text.split(quote)
    if len(parts) % 2 == 0:
        raise UnfinishedValueError("a string is not closed")
    parts[::2] = [_GEMMA_KEY.sub(r'\1"\2"\3', part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    return _headed(r"call:(?P<name>[\w.-]+)", "", "".join(parts))


class _Literals(ast.NodeTransformer):
    """Replaces JSON's literals, which templates write inside lists and objects."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        values = {"true": True, "false": False, "null": None}
        return ast.Constant(values[node.id]) if node.id in values else node


def _pythonic(text: str) -> list[WrittenCall]:
    """Read ``[name(key=value), ...]``."""
    if {'"', "'"} & set(_STRING.sub("", text)):
        raise UnfinishedValueError("a string is not closed")
    source = _STRING.sub(lambda string: string[0].replace("\n", "\\n"), text)
    listed = ast.parse(source.strip(), mode="eval").body
    calls = []
    for node in listed.elts if isinstance(listed, ast.List) else ():
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError("expected calls with named arguments")
        arguments: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError("expected calls with named arguments")
            value = ast.literal_eval(_Literals().visit(keyword.value))
            with_new_key(arguments, keyword.arg, value)
        name = ast.unparse(node.func)
        if not re.fullmatch(r"[\w.]+", name):
            raise ValueError(f"No function is named {name:.40}")
        calls.append(WrittenCall(name, arguments))
    return calls


def _tags_or_json(tags: _Tags, text: str) -> list[WrittenCall]:
    return _json(text) if text.lstrip().startswith(("{", "[")) else tags(text)


def _glm(prefix: str) -> CallFormat:
    key = rf"<{prefix}arg_key>(?P<key>[^<>]+)</{prefix}arg_key>(?:\\n|\s)*<{prefix}arg_value>"
    tags = _Tags(r"(?P<name>[^\s<>]+)", key, f"</{prefix}arg_value>")
    return CallFormat(partial(_tags_or_json, tags), f"</{prefix}arg_value>")


def _bare(call: str, argument: str, end: str) -> tuple[str, ...]:
    return tuple(f"{call}{gap}{then}" for gap in ("", "\n") for then in (argument, end))


_QWEN = r"\s*(?P<{}>[^\s<>]+)(?:>|(?=\n))"
FORMATS: dict[str, CallFormat] = {
    "qwen3_coder": CallFormat(
        _Tags(
            "<function=" + _QWEN.format("name"),
            "<parameter=" + _QWEN.format("key"),
            "</parameter>",
            "</function>",
            padded=True,
        ),
        "</parameter>",
        _bare("<function={}>", "<parameter=", "</function>"),
    ),
    "minimax_m2": CallFormat(
        _Tags(
            f"<invoke name={_NAME.format('name')}>",
            f"<parameter name={_NAME.format('key')}>",
            "</parameter>",
            "</invoke>",
        ),
        "</parameter>",
        _bare('<invoke name="{}">', "<parameter name=", "</invoke>"),
    ),
    "muse_spark": CallFormat(
        _Tags(
            r'<atem:invoke\b[^<>]*?\bname="(?P<name>[^"]+)"[^<>]*>',
            r'<atem:parameter\b[^<>]*?\bname="(?P<key>[^"]+)"[^<>]*>',
            "</atem:parameter>",
            "</atem:invoke>",
        ),
        "</atem:parameter>",
        _bare('<atem:invoke name="{}">', "<atem:parameter ", "</atem:invoke>"),
    ),
    "minicpm5": CallFormat(
        _Tags(
            _NAME.format("name") + ">",
            rf"<param\s+name\s*={_NAME.format('key')}>",
            "</param>",
            cdata=True,
        ),
        "</param>",
    ),
    "kimi_k3": CallFormat(
        _Tags(
            r'<\|open\|>call(?=[^<]*\btool="(?P<name>[^"<]+)")[^<]*<\|sep\|>',
            r'<\|open\|>(?:argument(?=[^<]*\bkey="(?P<key>[^"<]+)")'
            r'(?:[^<]*\btype="(?P<type>\w+)")?|json)[^<]*<\|sep\|>',
            r"<\|close\|>(?:argument|json)<\|sep\|>",
            r"<\|close\|>call<\|sep\|>",
        ),
        "<|close|>argument<|sep|>",
    ),
    "glm47": _glm(""),
    "longcat": _glm("longcat_"),
    "json_tools": CallFormat(_json),
    "mistral": CallFormat(
        partial(
            _headed,
            r"(?:\[TOOL_CALLS\]\s*)?(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\s*(?P<id>\w+)\s*)?\[ARGS\]",
            "",
        )
    ),
    "kimi_k2": CallFormat(
        partial(
            _headed,
            r"(?:<\|tool_call_begin\|>\s*)?(?P<id>(?:functions\.)?(?P<name>[^\s:<]+):\d+)\s*"
            r"<\|tool_call_argument_begin\|>",
            r"(?:<\|tool_call_end\|>)?",
        )
    ),
    "gemma4": CallFormat(partial(_gemma, '<|"|>')),
    "function_gemma": CallFormat(partial(_gemma, "<escape>")),
    "pythonic": CallFormat(_pythonic),
}


def format_of(tokenizer: Any) -> CallFormat | None:
    """Return the format of a tokenizer's calls; ``None`` if its parser is not one of mlx-lm's."""
    return FORMATS.get(format_name(tokenizer))


def format_name(tokenizer: Any) -> str:
    """Return the name of a tokenizer's parser in mlx-lm; ``"none"`` without one."""
    parser = getattr(tokenizer, "tool_parser", None)
    return str(getattr(parser, "__module__", "none")).rpartition(".")[2]
