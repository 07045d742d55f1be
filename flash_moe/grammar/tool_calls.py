"""Constraints for answers with tool calls, in the form that the model's own parser reads."""

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
        strict: Names of the tools whose arguments must fit; ``None``: of all. Calls of others can
            be read, and their arguments are what the model likes.
        response_format: As in :func:`from_response_format`. With mode "auto" the answer is then
            either calls, or JSON of this form; other modes know no answer but calls.
        after: Text of the token that ends the model's thoughts, if it thinks: ``"</think>"``.
        thinking: "may" if it is the model that decides whether to think.

    Raises:
        GrammarError: The model writes calls in a form that is not known here; or a tool, or a
            schema, that cannot be held to.
    """
    form = call_format(tokenizer)
    schemas = _schemas(tools, strict)
    instead = response_grammar(response_format)
    if isinstance(mode, Mapping):
        function = mode.get("function")
        mode = function.get("name", "") if isinstance(function, Mapping) else ""
    elif mode in ("auto", "required"):
        calls = _calls(tokenizer, mode, parallel, free=instead is None)
        if mode == "required":
            instead = None
        if instead is not None:
            _check_markers(calls, response_format, "response_format")
        return _constraint(tokenizer, form, schemas, calls, instead, after, thinking)
    if mode not in schemas:
        raise GrammarError(
            "grammar",
            f'tool choice: expected "auto", "required" or one of {", ".join(schemas)}, '
            f"got {brief(mode)}",
        )
    only = {mode: schemas[mode]}
    calls = _calls(tokenizer, "required", parallel)
    return _constraint(tokenizer, form, only, calls, None, after, thinking)


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


def parser_tools(
    tokenizer: Any, tools: Tools, strict: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """The tools as mlx-lm's parser should be given them to read calls that were held to ``tools``.

    For "qwen3_coder" each parameter has the one type by which its text is to be read; for
    "json_tools", whose text says it all, they stay as they are, and so do those that are not
    ``strict`` (as in :func:`tool_calls`). Not for the chat template.
    """
    if call_format(tokenizer) != "qwen3_coder":
        return [dict(tool) for tool in tools]
    found = []
    for (name, root), tool in zip(_schemas(tools, strict).items(), tools, strict=True):
        if root is None:
            found.append(dict(tool))
            continue
        described = xml_calls.properties_of(name, root)
        read = {key: xml_calls.parser_schema(schema, root) for key, schema in described.items()}
        parameters = {"type": "object", "properties": read}
        found.append(openai_function(name, parameters=parameters))
    return found


def _calls(tokenizer: Any, mode: str, parallel: bool, free: bool = True) -> Calls:
    """What holds of all calls.

    Args:
        free: Whether text that is no call may be anything, where the mode lets it come.
    """
    ids = vocabulary_of(tokenizer).marker_ids
    markers = (tokenizer.tool_call_start, tokenizer.tool_call_end)
    begin, end = (ids.get(marker) for marker in markers)
    if begin is None or end is None:
        raise GrammarError(
            "grammar", f"expected one token each for {' and '.join(markers)} in this tokenizer"
        )
    texts = tuple(marker.encode() for marker in markers)
    text = free and mode == "auto"
    return Calls(begin, end, text=text, required=not text, many=parallel, markers=texts)


def _constraint(
    tokenizer: Any,
    form: str,
    schemas: Schemas,
    calls: Calls,
    instead: str | None,
    after: str | None,
    thinking: Thinking,
) -> Constraint:
    _check_markers(calls, schemas, "tools")
    grammar = (
        xml_calls.call_grammar(schemas, calls.end)
        if form == "qwen3_coder"
        else _json_grammar(schemas, calls.end)
    )
    return Constraint(
        tokenizer,
        grammar,
        "tool calls",
        after=after,
        thinking=thinking,
        calls=calls,
        instead=instead,
    )


def _check_markers(calls: Calls, held: Any, what: str) -> None:
    """They would be taken for the ends of calls wherever they stand."""
    written = json.dumps(held, ensure_ascii=False)
    for marker in (text.decode() for text in calls.markers):
        if marker in written:
            raise GrammarError("grammar", f"{what}: expected schemas without {marker} in them")


def _json_grammar(schemas: Schemas, end: int) -> str:
    r"""``\n{"name": ..., "arguments": {...}}\n`` and the end token, in Lark's syntax."""
    rules = [f'start: "\\n" call "\\n" <[{end}]>']
    rules.append("call: " + " | ".join(f"call_{n}" for n in range(len(schemas))))
    for n, (name, parameters) in enumerate(schemas.items()):
        begin = json.dumps('{"name": ' + json.dumps(name, ensure_ascii=False) + ', "arguments": ')
        held = {"type": "object"} if parameters is None else _closed(parameters)
        source = json_source(held, f"tool {name}")
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


def _schemas(tools: Tools, strict: Collection[str] | None) -> Schemas:
    """Tool names to the schemas of their parameters, or to ``None`` where any will do."""
    found: dict[str, Mapping[str, Any] | None] = {}
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
        if name in found:
            raise GrammarError("grammar", f"tools: expected different names, got {name} twice")
        found[name] = parameters if strict is None or name in strict else None
        if found[name] is not None:  # what follows needs JSON that is not too deep
            json_source(parameters, f"tool {name}")
    if not found:
        raise GrammarError("grammar", "tools: expected at least one")
    return found
