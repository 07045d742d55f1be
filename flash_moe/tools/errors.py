"""Errors of tools: how one is defined, what a model asks of it, and what it could not do.

    ToolDefinitionError (ConfigError)   a function that cannot be a tool
    ToolError (FlashMoEError)           a tool could not do what it was asked
    └── ToolArgumentError               the arguments do not fit its parameters

A model hears ``problem`` and ``hint`` of a ``ToolError``; write them so that it can act on them.
"""

from __future__ import annotations

from flash_moe.errors import ConfigError, FlashMoEError


class ToolDefinitionError(ConfigError):
    """A function that cannot be a tool, or two tools of one name."""


class ToolError(FlashMoEError):
    """A tool could not do what it was asked."""


class ToolArgumentError(ToolError, ValueError):
    """The arguments of a call do not fit the parameters of the tool."""
