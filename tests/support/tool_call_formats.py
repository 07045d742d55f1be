"""One call in each format that mlx-lm parses, as a model of that family writes it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_tokenizer

ARGUMENTS = {"city": "New York", "days": 3}
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "trip",
            "description": "Plan.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "on": {"type": "boolean"},
                    "tags": {"type": "array"},
                },
                "required": ["city"],
            },
        },
    }
]
QWEN = (
    "<tool_call>\n<function=trip>\n<parameter=city>\nNew York\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
FORMATS = {
    "qwen3_coder": QWEN,
    "json_tools": '<tool_call>\n{"name": "trip", "arguments": {"city": "New York", "days": 3}}\n'
    "</tool_call>",
    "glm47": "<tool_call>trip\n<arg_key>city</arg_key>\n<arg_value>New York</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    "mistral": '[TOOL_CALLS]trip[ARGS]{"city": "New York", "days": 3}',
    "pythonic": '<|tool_call_start|>[trip(city="New York", days=3)]<|tool_call_end|>',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.trip:0"
    '<|tool_call_argument_begin|>{"city": "New York", "days": 3}<|tool_call_end|>'
    "<|tool_calls_section_end|>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="trip">\n<parameter name="city">New York'
    '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "longcat": '<longcat_tool_call>\n{"name": "trip", "arguments": {"city": "New York", "days": 3}}'
    "\n</longcat_tool_call>",
    "gemma4": '<|tool_call>call:trip{city:<|"|>New York<|"|>,days:3}<tool_call|>',
}


@cache
def tokenizer_for(path: Path, name: str) -> Any:
    """The toy tokenizer with the parser of another family."""
    return load_tokenizer(path, {"tool_parser_type": name})
