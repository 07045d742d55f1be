"""Constrained decoding: JSON schemas, tool calls with valid arguments, patterns, grammars.

This package computes which tokens may come next; llguidance does the parsing. Pass a constraint's
``processor()`` to the generation loop as a logits processor. Unsupported schemas raise errors.
"""

from flash_moe.errors import GrammarError
from flash_moe.grammar.constraint import Constraint, Processor
from flash_moe.grammar.json_text import (
    from_response_format,
    json_object,
    json_schema,
    lark,
    regex,
)
from flash_moe.grammar.tool_calls import parser_tools, tool_calls

__all__ = [
    "Constraint",
    "GrammarError",
    "Processor",
    "from_response_format",
    "json_object",
    "json_schema",
    "lark",
    "parser_tools",
    "regex",
    "tool_calls",
]
