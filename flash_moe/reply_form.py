"""What an answer may call and must be: tools and ``response_format`` of one generation."""

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

AnyTool: TypeAlias = "Tool[..., Any] | Callable[..., Any] | Mapping[str, Any]"


@dataclass(frozen=True)
class ReplyForm:
    """Tools that the chat template shows, and what the answer is held to.

    Attributes:
        schemas: Of the tools, in OpenAI's form; empty if none are shown.
        choice: ``"auto"``, ``"required"`` or the name of a tool.
        strict: Whether calls are held to the tools' schemas also where none is required.
        response_format: In OpenAI's form, or ``None``.
    """

    schemas: Sequence[Mapping[str, Any]] = ()
    choice: str = "auto"
    strict: bool = False
    response_format: Mapping[str, Any] | None = None

    @property
    def held(self) -> bool:
        """Whether calls are held to the schemas of the tools."""
        return bool(self.schemas) and (self.strict or self.choice != "auto")

    def calls(self, tokenizer: Any, text: str) -> tuple[ToolCall, ...]:
        """The calls in a whole answer."""
        if not self.schemas:
            return ()
        schemas = [dict(schema) for schema in self.schemas]
        if self.held:
            from flash_moe.grammar import parser_tools

            schemas = parser_tools(tokenizer, schemas)
        return tuple(parse_calls(tokenizer, text, schemas)[1])

    def constraint(self, tokenizer: Any, ids: Sequence[int]) -> Constraint | None:
        """What the answer to these prompt tokens is held to; ``None`` if it is free.

        Raises:
            GrammarError: It cannot be held to that.
        """
        if not self.held and self.response_format is None:
            return None
        from flash_moe.grammar import from_response_format, tool_calls

        after, thinking = thoughts_before(tokenizer, ids)
        if self.held:
            return tool_calls(
                tokenizer,
                self.schemas,
                self.choice,
                after=after,
                thinking=thinking,  # type: ignore[arg-type]
            )
        return from_response_format(
            tokenizer,
            self.response_format,
            after=after,
            thinking=thinking,  # type: ignore[arg-type]
        )


def reply_form(
    tools: Sequence[AnyTool] = (),
    tool_choice: str = "auto",
    strict: bool = False,
    response_format: Mapping[str, Any] | None = None,
) -> ReplyForm:
    """Check the options of a generation.

    Args:
        tools: Tools, typed functions, or schemas in OpenAI's form.
        tool_choice: ``"auto"``, ``"none"`` (tools are not shown), ``"required"``, or a name.

    Raises:
        ConfigError: They do not go together.
        ToolDefinitionError: A function cannot be a tool.
    """
    made = as_tools(t for t in tools if not isinstance(t, Mapping))
    schemas = [t if isinstance(t, Mapping) else made[_name(t)].schema for t in tools]
    if tool_choice == "none":
        schemas = []
    if not schemas and tool_choice not in ("auto", "none"):
        raise ConfigError("generate", f"tool_choice: {tool_choice!r} without tools")
    form = ReplyForm(schemas, tool_choice, strict, response_format)
    if form.held and response_format not in (None, {"type": "text"}):
        raise ConfigError(
            "generate", "response_format: cannot be combined with tools that are held to"
        )
    return form


def _name(tool: Tool[..., Any] | Callable[..., Any]) -> str:
    return tool.name if isinstance(tool, Tool) else tool.__name__


def thoughts_before(tokenizer: Any, ids: Sequence[int]) -> tuple[str | None, str]:
    """Where the answer to a prompt begins: after which marker, and whether thoughts are sure.

    Returns:
        ``after`` and ``thinking`` of :class:`flash_moe.grammar.Constraint`.
    """
    if not tokenizer.has_thinking:
        return None, "begun"
    if opens_thinking(tokenizer, ids):
        return tokenizer.think_end, "begun"
    if tokenizer.decode(list(ids[-32:])).rstrip().endswith(tokenizer.think_end):
        return None, "begun"  # the template has closed an empty thought
    return tokenizer.think_end, "may"
