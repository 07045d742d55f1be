"""Tool calls in the format of Qwen3-Coder and Qwen3.5: a function with a block per parameter.

    <tool_call>
    <function=NAME>
    <parameter=P>
    VALUE
    </parameter>
    </function>
    </tool_call>

A string is written unquoted, any other value as JSON. mlx-lm's parser converts a value by the type
in the tool's schema (``mlx_lm/tool_parsers/qwen3_coder.py``): "string" keeps the text; "integer",
"number" and "boolean" convert it; "object" parses JSON; but types like ["string", "null"] or an
anyOf make it guess. With the schemas of :func:`parser_tools` it reads exactly the constrained
value. For every type it converts the text "null" to None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from flash_moe.errors import GrammarError
from flash_moe.grammar.json_text import json_source
from flash_moe.grammar.raw_strings import ANY, NOTHING, terminal, without
from flash_moe.tools.schema_facts import DEFINITIONS, types_of

# The parser converts integers through a float (mlx-lm 0.32), which is exact up to this value.
EXACT = 2**53
# Enough for every double; an exponent of three digits could be infinite.
NUMBER = r"/-?(0|[1-9][0-9]{0,16})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/"
_NULL = "/[nN][uU][lL][lL]/"
_NAME = r'[^\s<>"\\]+'
_TAGS = "<(/parameter>|parameter=)"  # of an argument, which a string cannot contain
_END = '"\\n</parameter>\\n"'


def call_grammar(tools: Mapping[str, Mapping[str, Any] | None], end: int) -> str:
    """Return the grammar after the token ``<tool_call>`` up to its end token, in Lark's syntax.

    Args:
        tools: Name to JSON schema of the parameters; ``None`` for any names and values.
        end: Id of ``</tool_call>``.

    Raises:
        GrammarError: This format cannot express a name or a schema.
    """
    rules = [f'start: "\\n" call "\\n" <[{end}]>']
    rules.append("call: " + " | ".join(f"call_{n}" for n in range(len(tools))))
    for n, (name, parameters) in enumerate(tools.items()):
        _check_name("tool", name)
        if parameters is None:
            rules.append(f'call_{n}: "<function={name}>\\n" free* "</function>"')
            continue
        required = parameters.get("required") or ()
        blocks = []
        for m, (key, schema) in enumerate(properties_of(name, parameters).items()):
            _check_name("parameter", key)
            blocks.append(f"p_{n}_{m}" + ("" if key in required else "?"))
            rules += _value_rules(f"{n}_{m}", f"{name}.{key}", key, schema, parameters)
        body = " ".join(blocks)
        rules.append(f'call_{n}: "<function={name}>\\n" {body} "</function>"')
    if None in tools.values():
        rules += ['free: "<parameter=" NAME ">\\n" FREE', f"NAME: /{_NAME}/"]
        rules.append(f"FREE: ({without(ANY, _TAGS)}) {_END}")
    return "\n".join(rules) + "\n"


def properties_of(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a tool in order; those required but not described come last.

    Raises:
        GrammarError: The schema cannot be split into one block per parameter.
    """
    known = (*DEFINITIONS, "type", "properties", "required", "additionalProperties", "strict")
    silent = ("title", "description", "$schema", "$id", "$comment", "default", "examples")
    for key in parameters:
        if key not in (*known, *silent):
            raise GrammarError(
                "grammar",
                f"tool {name}: expected only properties in the parameters, got {key!r}",
                "Describe each parameter separately.",
            )
    described = parameters.get("properties") or {}
    if not isinstance(described, Mapping) or parameters.get("type", "object") != "object":
        raise GrammarError(
            "grammar", f"tool {name}: expected parameters of type object with properties"
        )
    properties = dict(described)
    more = parameters.get("additionalProperties", True)
    for key in parameters.get("required") or ():
        properties.setdefault(key, more)
    return properties


def is_raw(schema: Any, root: Mapping[str, Any]) -> bool:
    """Return whether values are unquoted strings, possibly also null."""
    return types_of(schema, root) in (frozenset({"string"}), frozenset({"string", "null"}))


def parser_schema(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return the type with which mlx-lm's parser reads values constrained to a schema."""
    if is_raw(schema, root):
        nullable = "null" in types_of(schema, root)
        return {"type": "string", **({"nullable": True} if nullable else {})}
    kinds = types_of(schema, root) - {"null"}
    for name in ("integer", "boolean"):
        if kinds == {name}:
            return {"type": name}
    if kinds and kinds <= {"integer", "number"}:
        return {"type": "number"}
    return {"type": "object"}


def _value_rules(at: str, where: str, key: str, schema: Any, root: Mapping[str, Any]) -> list[str]:
    begin = f'p_{at}: "<parameter={key}>\\n"'
    kinds = types_of(schema, root)
    if not kinds:
        raise GrammarError("grammar", f"{where}: expected a schema with a valid value")
    if is_raw(schema, root):
        value = terminal(schema, root)
        if value == NOTHING:
            raise GrammarError("grammar", f"{where}: expected a schema with a valid string")
        value = f"{without(value, _TAGS)} & ~{_NULL}"
        if "null" in kinds:
            value = f'({value}) | "null"'
        return [f"{begin} V_{at}", f"V_{at}: ({value}) {_END}"]
    if kinds <= {"number", "integer", "null"} and _is_plain(schema):
        null = ' | "null"' if "null" in kinds else ""
        return [f"{begin} V_{at}", f"V_{at}: ({NUMBER}{null}) {_END}"]
    whole = dict(schema) if isinstance(schema, Mapping) else {}
    if kinds <= {"number", "integer", "null"} and not {"enum", "const"} & whole.keys():
        whole = _exact(whole)
    whole |= {name: root[name] for name in DEFINITIONS if name in root}
    return [f"{begin} j_{at} {_END}", f"j_{at}: %json {json_source(whole, where)}"]


def _is_plain(schema: Any) -> bool:
    """Return whether a number's schema has no restrictions."""
    silent = {"type", "title", "description", "default", "examples"}
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    return kinds in ("number", ["number", "null"], ["null", "number"]) and schema.keys() <= silent


def _exact(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with bounds within which the parser's conversion to float is exact."""
    low = max(schema.get("minimum", -EXACT), -EXACT)
    high = min(schema.get("maximum", EXACT), EXACT)
    return {**schema, "minimum": low, "maximum": high}


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise GrammarError(
            "grammar", f"{what}: expected a name without spaces, quotes, < and >, got {brief(name)}"
        )
