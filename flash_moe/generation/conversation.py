"""``Conversation``: messages, tools and a prompt cache that persist across turns."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from flash_moe.errors import ConfigError, PromptError
from flash_moe.generation.prompt_cache_dir import open_prompt_caches
from flash_moe.generation.tool_loop import Events, Message, ToolLoopOptions, converse
from flash_moe.generation.turn_cache import TurnCache, network_of
from flash_moe.options.declare import accepts, option, values
from flash_moe.options.prompt_cache import PromptCacheOptions
from flash_moe.tools.definition import as_tools

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConversationOptions(ToolLoopOptions, PromptCacheOptions):
    """Options of a conversation: those of each turn, and the system message."""

    system: str | None = option(None, "system message")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache is not None:
            raise ConfigError("tools", "cache: a conversation has its own")


class Conversation:
    """Messages, tools and one prompt cache. Not thread-safe.

    Attributes:
        messages: All messages. May be changed between turns; the cache is compared with them.
        cache: The prompt cache; ``None`` for a model without prompt caches.
        tools, system, options: May be changed between turns.

    Raises:
        ToolDefinitionError: A function cannot be a tool, or two have one name.
        ConfigError: An option is invalid.
    """

    @accepts(ConversationOptions, method=True)
    def __init__(self, model: Any, options: ConversationOptions) -> None:
        """Start a conversation.

        Args:
            model: Result of :func:`flash_moe.load`, or its ``model``.
        """
        self.model = model
        self.tools = list(as_tools(options.tools).values())
        self.system = options.system
        self.options = options
        network, disk = network_of(model), None
        if network is not None and options.prompt_cache_dir is not None:
            disk = open_prompt_caches(network, options, _log.warning)
        self.cache = None if network is None else TurnCache(model, disk)
        self.messages: list[Message] = []
        self._running: Events | None = None
        self.reset()

    @property
    def prefilled(self) -> tuple[int, ...]:
        """Prompt tokens that each round processed because they were not cached."""
        return tuple(self.cache.prefilled) if self.cache else ()

    def reset(self) -> None:
        """Drop all messages and the cache; keep the system message and the tools."""
        self._end()
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        if self.cache:
            self.cache.clear()

    def continue_from(self, messages: list[Message]) -> None:
        """Replace the messages, and the system message by the one that they begin with."""
        self._end()
        self.messages = messages
        if messages and messages[0]["role"] == "system":
            self.system = messages[0]["content"]

    def ask(self, text: str) -> Events:
        """Send a user message; return the events of the answer, as
        :func:`flash_moe.generation.tool_loop.converse` does.

        If no answer was begun, because of an error or because the generator was closed, the
        message is removed and can be sent again. A new call closes an unfinished generator.

        Raises:
            PromptError: The text is empty.
        """
        if not text.strip():
            raise PromptError("tools", "the question is empty")
        self._end()
        self._running = self._ask(text)
        return self._running

    def _ask(self, text: str) -> Events:
        messages = self.messages
        messages.append({"role": "user", "content": text})
        before = len(messages)
        try:
            passed = values(self.options, ToolLoopOptions)
            passed |= {"tools": self.tools, "cache": self.cache}
            yield from converse(self.model, messages, **passed)
        finally:
            if len(messages) == before:
                messages.pop()

    def _end(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None
