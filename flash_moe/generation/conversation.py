"""A conversation that keeps its messages and its prompt cache from turn to turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flash_moe.errors import PromptError
from flash_moe.generation.tool_loop import Confirm, Events, Message, converse
from flash_moe.generation.turn_cache import TurnCache, network_of
from flash_moe.tools.definition import Tool, as_tools


class Conversation:
    """Messages, tools and one prompt cache. For one thread.

    Args:
        model: What :func:`flash_moe.load` returns, or its ``model``.
        tools: Tools, or plain functions.
        system: A system message.
        confirm, max_rounds, options: As for :func:`flash_moe.generation.tool_loop`.

    Attributes:
        messages: All that was said. May be changed between turns; the cache is compared with it.
        cache: The prompt cache, ``None`` for a model without.

    Raises:
        ToolDefinitionError: A function cannot be a tool, or two have one name.
    """

    def __init__(
        self,
        model: Any,
        tools: Sequence[Tool[..., Any] | Callable[..., Any]] = (),
        *,
        system: str | None = None,
        confirm: Confirm | None = None,
        max_rounds: int = 8,
        **options: Any,
    ) -> None:
        self.model = model
        self.tools = list(as_tools(tools).values())
        self.system = system
        self.confirm = confirm
        self.max_rounds = max_rounds
        self.options = options
        self.cache = TurnCache(model) if network_of(model) is not None else None
        self.messages: list[Message] = []
        self._running: Events | None = None
        self.reset()

    @property
    def prefilled(self) -> tuple[int, ...]:
        """Prompt tokens that each round processed: those the cache did not hold."""
        return tuple(self.cache.prefilled) if self.cache else ()

    def reset(self) -> None:
        """Begin anew: the system message and the tools stay."""
        self._end()
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        if self.cache:
            self.cache.clear()

    def ask(self, text: str) -> Events:
        """Say something; events of the answer, as
        :func:`flash_moe.generation.tool_loop.converse` gives them.

        A question of which nothing was answered, because of an error or because the generator was
        closed, is taken back: it may be asked again. Of two generators only the latest goes on;
        an unfinished one is closed.

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
            yield from converse(
                self.model,
                messages,
                self.tools,
                self.confirm,
                self.max_rounds,
                cache=self.cache,
                **self.options,
            )
        finally:
            if len(messages) == before:
                messages.pop()

    def _end(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None
