"""Constraints for answers with tool calls, in the form that the model's own parser reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from reprlib import repr as brief
from typing import Any

from flash_moe.errors import GrammarError
from flash_moe.grammar import xml_calls
from flash_moe.grammar.constraint import Constraint
from flash_moe.grammar.json_text import json_source
from flash_moe.grammar.plan import Calls, Thinking
from flash_moe.grammar.vocabulary import vocabulary_of

FORMATS = ("qwen3_coder", "json_tools")
Tools = Sequence[Mapping[str, Any]]


def tool_calls(
    tokenizer: Any,
    tools: Tools,
    mode: str | Mapping[str, Any] = "auto",
    *,
    parallel: bool = True,
    after: str | None = None,
    thinking: Thinking = "begun",
) -> Constraint:
    """An answer whose tool calls are calls of these tools, with arguments that fit their schemas.

    Required parameters come, each once, in the order of the schema; parameters that the schema
    does not name do not come. mlx-lm's parser reads what is allowed, given the tools as
    :func:`parser_tools` makes them, to arguments that fit.

    Args:
        tokenizer: mlx-lm's wrapper; its tool parser says in which form calls are written.
        tools: In OpenAI's form: ``{"type": "function", "function": {"name": ..., "parameters":
            schema}}``.
        mode: "auto": text, calls or both. "required": nothing but calls, at least one. A name, or
            OpenAI's ``{"type": "function", "function": {"name": ...}}``: calls of that tool only.
        parallel: Whether there may be more than one call.
        after: Text of the token that ends the model's thoughts, if it thinks: ``"</think>"``.
        thinking: "may" if it is the model that decides whether to think.

    Raises:
        GrammarError: The model writes calls in a form that is not known here; or a tool, or a
            schema, that cannot be held to.
    """
    form = call_format(tokenizer)
    schemas = _schemas(tools)
    if isinstance(mode, Mapping):
        function = mode.get("function")
        mode = function.get("name", "") if isinstance(function, Mapping) else ""
    elif mode in ("auto", "required"):
        return _constraint(tokenizer, form, schemas, mode, parallel, after, thinking)
    if mode not in schemas:
        raise GrammarError(
            "grammar",
            f'tool choice: expected "auto", "required" or one of {", ".join(schemas)}, '
            f"got {brief(mode)}",
        )
    only = {mode: schemas[mode]}
    return _constraint(tokenizer, form, only, "required", parallel, after, thinking)


def call_format(tokenizer: Any) -> str:
    """The name of mlx-lm's tool parser of this tokenizer.

    Raises:
        GrammarError: It has none, or one that is not known here.
    """
    parser = getattr(tokenizer, "tool_parser", None)
    name = str(getattr(parser, "__module__", "none")).rpartition(".")[2]
    if name not in FORMATS:
        raise GrammarError(
            "grammar",
            f"tool calls can be held to their schemas in the forms {' and '.join(FORMATS)}; "
            f"this model's is {name}",
            "Leave calls unconstrained for this model.",
        )
    return name


def parser_tools(tokenizer: Any, tools: Tools) -> list[dict[str, Any]]:
    """The tools as mlx-lm's parser should be given them to read calls that were held to ``tools``.

    For "qwen3_coder" each parameter has the one type by which its text is to be read; for
    "json_tools", whose text says it all, they stay as they are. Not for the chat template.
    """
    if call_format(tokenizer) != "qwen3_coder":
        return [dict(tool) for tool in tools]
    found = []
    for name, root in _schemas(tools).items():
        described = xml_calls.properties_of(name, root)
        read = {key: xml_calls.parser_schema(schema, root) for key, schema in described.items()}
        parameters = {"type": "object", "properties": read}
        function = {"name": name, "parameters": parameters}
        found.append({"type": "function", "function": function})
    return found


def _constraint(
    tokenizer: Any,
    form: str,
    schemas: Mapping[str, Mapping[str, Any]],
    mode: str,
    parallel: bool,
    after: str | None,
    thinking: Thinking,
) -> Constraint:
    ids = vocabulary_of(tokenizer).marker_ids
    markers = (tokenizer.tool_call_start, tokenizer.tool_call_end)
    begin, end = (ids.get(marker) for marker in markers)
    if begin is None or end is None:
        raise GrammarError(
            "grammar", f"expected one token each for {' and '.join(markers)} in this tokenizer"
        )
    written = json.dumps(schemas, ensure_ascii=False)
    for marker in markers:
        if marker in written:
            raise GrammarError("grammar", f"tools: expected schemas without {marker} in them")
    grammar = (
        xml_calls.call_grammar(schemas, end)
        if form == "qwen3_coder"
        else _json_grammar(schemas, end)
    )
    texts = tuple(marker.encode() for marker in markers)
    auto = mode == "auto"
    calls = Calls(begin, end, text=auto, required=not auto, many=parallel, markers=texts)
    return Constraint(tokenizer, grammar, "tool calls", after=after, thinking=thinking, calls=calls)


def _json_grammar(schemas: Mapping[str, Mapping[str, Any]], end: int) -> str:
    r"""``\n{"name": ..., "arguments": {...}}\n`` and the end token, in Lark's syntax."""
    rules = [f'start: "\\n" call "\\n" <[{end}]>']
    rules.append("call: " + " | ".join(f"call_{n}" for n in range(len(schemas))))
    for n, (name, parameters) in enumerate(schemas.items()):
        begin = json.dumps('{"name": ' + json.dumps(name, ensure_ascii=False) + ', "arguments": ')
        source = json_source(_closed(parameters), f"tool {name}")
        rules += [f'call_{n}: {begin} arguments_{n} "}}"', f"arguments_{n}: %json {source}"]
    return "\n".join(rules) + "\n"


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without parameters that are not named, where it is plain which those are."""
    held: dict[str, Any] = {"type": "object", **parameters}
    composed = {"anyOf", "oneOf", "allOf", "$ref", "patternProperties"} & held.keys()
    if "properties" in held and not composed:
        held.setdefault("additionalProperties", False)
    elif not composed and "additionalProperties" not in held:
        held["additionalProperties"] = False
    return held


def _schemas(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """Tool names to the schemas of their parameters."""
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise GrammarError(
                "grammar",
                'tools: expected {"type": "function", "function": {"name": ...}}, '
                f"got {brief(tool)}",
            )
        parameters = function.get("parameters") or {}
        if not isinstance(parameters, Mapping):
            raise GrammarError("grammar", f"tool {name}: expected parameters as a JSON schema")
        json_source(parameters, f"tool {name}")  # what follows needs JSON that is not too deep
        if name in found:
            raise GrammarError("grammar", f"tools: expected different names, got {name} twice")
        found[name] = parameters
    if not found:
        raise GrammarError("grammar", "tools: expected at least one")
    return found
