"""Tools of conversations: Python functions that a model may call.

from flash_moe.tools import Conversation, tool
"""

from flash_moe.errors import ToolArgumentError, ToolDefinitionError, ToolError
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.conversation import Conversation
from flash_moe.tools.converse import converse
from flash_moe.tools.definition import Tool, as_tools, tool
from flash_moe.tools.events import (
    Answer,
    CallFinished,
    CallRefused,
    CallRequested,
    Event,
    TextPiece,
    ThinkingPiece,
)
from flash_moe.tools.splitter import Reply, ReplySplitter, parse_calls, split_reply
from flash_moe.tools.turn_cache import TurnCache

__all__ = [
    "Answer",
    "CallFinished",
    "CallRefused",
    "CallRequested",
    "Conversation",
    "Event",
    "Reply",
    "ReplySplitter",
    "TextPiece",
    "ThinkingPiece",
    "Tool",
    "ToolArgumentError",
    "ToolCall",
    "ToolDefinitionError",
    "ToolError",
    "TurnCache",
    "as_tools",
    "converse",
    "parse_calls",
    "split_reply",
    "tool",
]
