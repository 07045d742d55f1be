"""Constraints for answers with tool calls, in the format of the model's own parser."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, TypeAlias

from flash_moe.errors import GrammarError
from flash_moe.grammar import xml_calls
from flash_moe.grammar.answer import Calls, Thinking
from flash_moe.grammar.constraint import Constraint
from flash_moe.grammar.json_text import json_source, response_grammar
from flash_moe.grammar.vocabulary import vocabulary_of
from flash_moe.tools.call_formats import format_name
from flash_moe.tools.calls import openai_function

FORMATS = ("qwen3_coder", "json_tools")
Tools = Sequence[Mapping[str, Any]]
Schemas: TypeAlias = "Mapping[str, Mapping[str, Any] | None]"


def tool_calls(
    tokenizer: Any,
    tools: Tools,
    mode: str | Mapping[str, Any] = "auto",
    *,
    parallel: bool = True,
    strict: Collection[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
    after: str | None = None,
    thinking: Thinking = "begun",
) -> Constraint:
    """Constrain tool calls to these tools, with arguments that fit their schemas.

    Required parameters come once each, in the order of the schema; parameters that the schema
    does not name cannot come. mlx-lm's parser, given the result of :func:`parser_tools`, reads
    every allowed call to arguments that fit.

    Args:
        tokenizer: mlx-lm's wrapper; its tool parser determines the format of calls.
        tools: Tools in OpenAI's form: ``{"type": "function", "function": {"name": ...,
            "parameters": schema}}``.
        mode: "auto": text, calls or both. "required": only calls, at least one. A name, or
            OpenAI's ``{"type": "function", "function": {"name": ...}}``: only calls of that tool.
        parallel: Whether more than one call is allowed.
        strict: Names of the tools whose arguments must fit; ``None`` for all. Calls of others can
            be parsed, and their arguments are free.
        response_format: As in :func:`from_response_format`. With mode "auto" the answer is
            either calls, or JSON of this form; other modes ignore it.
        after: Text of the token that ends reasoning, for models that think: ``"</think>"``.
        thinking: "may" if the model decides whether to think.

    Raises:
        GrammarError: The model's call format is not supported, or a tool or schema cannot be
            enforced.
    """
    form = call_format(tokenizer)
    schemas = _schemas(tools, strict)
    instead = response_grammar(response_format)
    if mode not in ("auto", "required"):
        function = mode.get("function") if isinstance(mode, Mapping) else {"name": mode}
        name = function.get("name", "") if isinstance(function, Mapping) else ""
        if name not in schemas:
            raise GrammarError(
                "grammar",
                f'tool choice: expected "auto", "required" or one of {", ".join(schemas)}, '
                f"got {brief(name)}",
            )
        schemas, mode = {name: schemas[name]}, "required"
    if mode == "required":
        instead = None
    calls = _calls(tokenizer, text=mode == "auto" and instead is None, many=parallel)
    if instead is not None:
        _check_markers(calls, response_format, "response_format")
    _check_markers(calls, schemas, "tools")
    make_grammar = xml_calls.call_grammar if form == "qwen3_coder" else _json_grammar
    return Constraint(
        tokenizer,
        make_grammar(schemas, calls.end),
        "tool calls",
        after=after,
        thinking=thinking,
        calls=calls,
        instead=instead,
    )


def call_format(tokenizer: Any) -> str:
    """Return the name of this tokenizer's tool parser in mlx-lm.

    Raises:
        GrammarError: It has none, or an unsupported one.
    """
    name = format_name(tokenizer)
    if name not in FORMATS:
        raise GrammarError(
            "grammar",
            f"tool calls can be constrained in the formats {' and '.join(FORMATS)}; "
            f"this model's is {name}",
            "Leave calls unconstrained for this model.",
        )
    return name


def parser_tools(
    tokenizer: Any, tools: Tools, strict: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Return the tools in the form in which mlx-lm's parser reads constrained calls exactly.

    For "qwen3_coder" each parameter gets the single type that its text is parsed as. Tools stay
    unchanged for "json_tools", whose text has all types, and if they are not ``strict`` (as in
    :func:`tool_calls`). Not for the chat template.
    """
    if call_format(tokenizer) != "qwen3_coder":
        return [dict(tool) for tool in tools]
    result = []
    for (name, root), tool in zip(_schemas(tools, strict).items(), tools, strict=True):
        if root is None:
            result.append(dict(tool))
            continue
        described = xml_calls.properties_of(name, root)
        read = {key: xml_calls.parser_schema(schema, root) for key, schema in described.items()}
        parameters = {"type": "object", "properties": read}
        result.append(openai_function(name, parameters=parameters))
    return result


def _calls(tokenizer: Any, *, text: bool, many: bool) -> Calls:
    """Return the rules for all calls; arguments as in :class:`Calls`."""
    ids = vocabulary_of(tokenizer).marker_ids
    markers = (tokenizer.tool_call_start, tokenizer.tool_call_end)
    begin, end = (ids.get(marker) for marker in markers)
    if begin is None or end is None:
        raise GrammarError(
            "grammar", f"expected one token each for {' and '.join(markers)} in this tokenizer"
        )
    texts = tuple(marker.encode() for marker in markers)
    return Calls(begin, end, text=text, required=not text, many=many, markers=texts)


def _check_markers(calls: Calls, schemas: Any, what: str) -> None:
    """Raise if a schema contains a call marker: the parser would end the call there."""
    written = json.dumps(schemas, ensure_ascii=False)
    for marker in (text.decode() for text in calls.markers):
        if marker in written:
            raise GrammarError("grammar", f"{what}: expected schemas without {marker} in them")


def _json_grammar(schemas: Schemas, end: int) -> str:
    r"""``\n{"name": ..., "arguments": {...}}\n`` and the end token, in Lark's syntax."""
    rules = [f'start: "\\n" call "\\n" <[{end}]>']
    rules.append("call: " + " | ".join(f"call_{n}" for n in range(len(schemas))))
    for n, (name, parameters) in enumerate(schemas.items()):
        begin = json.dumps('{"name": ' + json.dumps(name, ensure_ascii=False) + ', "arguments": ')
        schema = {"type": "object"} if parameters is None else _closed(parameters)
        source = json_source(schema, f"tool {name}")
        rules += [f'call_{n}: {begin} arguments_{n} "}}"', f"arguments_{n}: %json {source}"]
    return "\n".join(rules) + "\n"


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema without additional properties, unless it is composed of others."""
    schema: dict[str, Any] = {"type": "object", **parameters}
    if not {"anyOf", "oneOf", "allOf", "$ref", "patternProperties"} & schema.keys():
        schema.setdefault("additionalProperties", False)
    return schema


def _schemas(tools: Tools, strict: Collection[str] | None) -> Schemas:
    """Map tool names to the schemas of their parameters, or to ``None`` for any arguments."""
    schemas: dict[str, Mapping[str, Any] | None] = {}
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
        if name in schemas:
            raise GrammarError("grammar", f"tools: expected different names, got {name} twice")
        schemas[name] = parameters if strict is None or name in strict else None
        if schemas[name] is not None:  # also checks that the schema is not nested too deeply
            json_source(parameters, f"tool {name}")
    if not schemas:
        raise GrammarError("grammar", "tools: expected at least one")
    return schemas
