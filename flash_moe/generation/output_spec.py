"""Structured output of one generation: tools, tool choice and ``response_format``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from flash_moe.errors import ConfigError
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.definition import Tool, as_tools
from flash_moe.tools.splitter import opens_thinking, parse_calls

if TYPE_CHECKING:
    from flash_moe.grammar import Constraint
    from flash_moe.grammar.answer import Thinking

AnyTool: TypeAlias = Tool[..., Any] | Callable[..., Any] | Mapping[str, Any]


@dataclass(frozen=True)
class OutputSpec:
    """Tools for the chat template, and the constraints of the answer.

    Attributes:
        schemas: Tool schemas in OpenAI's form; empty if the template gets no tools.
        choice: ``"auto"``, ``"required"``, the name of a tool, or OpenAI's object for one.
        strict: Names of the tools whose calls always have to fit their schemas.
        response_format: Format of answers without calls, in OpenAI's form, or ``None``.
        parallel: Whether more than one constrained call is allowed.
    """

    schemas: Sequence[Mapping[str, Any]] = ()
    choice: str | Mapping[str, Any] = "auto"
    strict: frozenset[str] = frozenset()
    response_format: Mapping[str, Any] | None = None
    parallel: bool = True

    @property
    def constrains_calls(self) -> bool:
        """True if calls are constrained, at least to the syntax of the parser."""
        if not self.schemas:
            return False
        return bool(self.strict) or self.choice != "auto" or not self._free_text

    @property
    def _free_text(self) -> bool:
        value = self.response_format
        return value is None or (isinstance(value, Mapping) and value.get("type") == "text")

    @property
    def _exact(self) -> frozenset[str] | None:
        """Names of the tools whose arguments must fit; ``None`` for all."""
        return self.strict if self.choice == "auto" else None

    def parser_schemas(self, tokenizer: Any) -> list[dict[str, Any]]:
        """Return the tools as mlx-lm's parser needs them to read the calls.

        Raises:
            GrammarError: Their schemas cannot be enforced.
        """
        if not self.constrains_calls:
            return [dict(schema) for schema in self.schemas]
        from flash_moe.grammar import parser_tools

        return parser_tools(tokenizer, self.schemas, self._exact)

    def calls(self, tokenizer: Any, text: str) -> tuple[ToolCall, ...]:
        """Return the calls in a whole answer."""
        if not self.schemas:
            return ()
        return tuple(parse_calls(tokenizer, text, self.parser_schemas(tokenizer))[1])

    def constraint(
        self, tokenizer: Any, after: str | None, thinking: Thinking
    ) -> Constraint | None:
        """Return the constraint of the answer; ``None`` if it is free.

        Args:
            after, thinking: Result of :func:`thinking_state` for the prompt.

        Raises:
            GrammarError: The schemas cannot be enforced with this tokenizer.
        """
        if not self.constrains_calls and self.response_format is None:
            return None
        from flash_moe.grammar import from_response_format, tool_calls

        if self.constrains_calls:
            return tool_calls(
                tokenizer,
                self.schemas,
                self.choice,
                parallel=self.parallel,
                strict=self._exact,
                response_format=self.response_format,
                after=after,
                thinking=thinking,
            )
        return from_response_format(tokenizer, self.response_format, after=after, thinking=thinking)


def output_spec(
    tools: Sequence[AnyTool] = (),
    tool_choice: str = "auto",
    strict: bool = False,
    response_format: Mapping[str, Any] | None = None,
) -> OutputSpec:
    """Check the options of a generation and return its output spec.

    Args:
        tools: Tools, typed functions, or schemas in OpenAI's form.
        tool_choice: ``"auto"``, ``"none"`` (the model sees no tools), ``"required"``, or a name.
        strict: Enforce the schemas of all tools. A schema with ``"strict": true`` is always
            enforced, as in OpenAI's API.

    Raises:
        ConfigError: The options contradict each other.
        ToolDefinitionError: A function cannot be a tool.
    """
    made = as_tools(t for t in tools if not isinstance(t, Mapping))
    schemas = [t if isinstance(t, Mapping) else made[_name(t)].schema for t in tools]
    if tool_choice == "none":
        schemas = []
    if not schemas and tool_choice not in ("auto", "none"):
        raise ConfigError("generate", f"tool_choice: {tool_choice!r} requires tools")
    values = (schema.get("function") for schema in schemas)
    functions = [value if isinstance(value, Mapping) else {} for value in values]
    names = frozenset(str(f.get("name")) for f in functions if strict or f.get("strict") is True)
    return OutputSpec(schemas, tool_choice, names, response_format)


def _name(tool: Tool[..., Any] | Callable[..., Any]) -> str:
    return tool.name if isinstance(tool, Tool) else tool.__name__


def thinking_state(tokenizer: Any, ids: Sequence[int]) -> tuple[str | None, Thinking]:
    """Return whether and how reasoning precedes the answer to a prompt.

    Returns:
        ``after`` and ``thinking`` of :class:`flash_moe.grammar.Constraint`.
    """
    if not tokenizer.has_thinking:
        return None, "begun"
    if opens_thinking(tokenizer, ids):
        return tokenizer.think_end, "begun"
    if tokenizer.decode(list(ids[-32:])).rstrip().endswith(tokenizer.think_end):
        return None, "begun"  # the template has added an empty reasoning block
    return tokenizer.think_end, "may"
