"""Tools: Python functions that a model may call.

    from flash_moe import Conversation
    from flash_moe.tools import tool

Conversations are in :mod:`flash_moe.generation`; their names can also be imported from here.
"""

from typing import Any

from flash_moe.errors import ToolArgumentError, ToolDefinitionError, ToolError
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.definition import Tool, as_tools, tool
from flash_moe.tools.splitter import (
    Reply,
    ReplySplitter,
    TextPiece,
    ThinkingPiece,
    parse_calls,
    split_reply,
)

__all__ = [
    "Reply",
    "ReplySplitter",
    "TextPiece",
    "ThinkingPiece",
    "Tool",
    "ToolArgumentError",
    "ToolCall",
    "ToolDefinitionError",
    "ToolError",
    "as_tools",
    "parse_calls",
    "split_reply",
    "tool",
]

# Re-exported names and their modules, imported on access because generation imports tools.
_CONVERSATION = {
    "Conversation": "conversation",
    "TurnCache": "turn_cache",
    "converse": "tool_loop",
    **dict.fromkeys(("Answer", "CallFinished", "CallRefused", "CallRequested", "Event"), "events"),
}


def __getattr__(name: str) -> Any:
    if name in _CONVERSATION:
        from importlib import import_module

        return getattr(import_module(f"flash_moe.generation.{_CONVERSATION[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
