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
    from flash_moe.grammar.plan import Thinking

AnyTool: TypeAlias = Tool[..., Any] | Callable[..., Any] | Mapping[str, Any]


@dataclass(frozen=True)
class ReplyForm:
    """Tools that the chat template shows, and what the answer is held to.

    Attributes:
        schemas: Of the tools, in OpenAI's form; empty if none are shown.
        choice: ``"auto"``, ``"required"``, the name of a tool, or OpenAI's object for one.
        strict: Names of the tools whose calls are held to their schemas wherever they come.
        response_format: In OpenAI's form, or ``None``: of answers that are no calls.
        parallel: Whether there may be more than one call, where calls are held.
    """

    schemas: Sequence[Mapping[str, Any]] = ()
    choice: str | Mapping[str, Any] = "auto"
    strict: frozenset[str] = frozenset()
    response_format: Mapping[str, Any] | None = None
    parallel: bool = True

    @property
    def held(self) -> bool:
        """Whether calls are held to a form: that of the parser at least."""
        if not self.schemas:
            return False
        return bool(self.strict) or self.choice != "auto" or not self._free_text

    @property
    def _free_text(self) -> bool:
        value = self.response_format
        return value is None or (isinstance(value, Mapping) and value.get("type") == "text")

    @property
    def _exact(self) -> frozenset[str] | None:
        """Names of the tools whose arguments must fit; ``None``: of all."""
        return self.strict if self.choice == "auto" else None

    def parser_schemas(self, tokenizer: Any) -> list[dict[str, Any]]:
        """The tools as mlx-lm's parser needs them to read the calls.

        Raises:
            GrammarError: They cannot be held to.
        """
        if not self.held:
            return [dict(schema) for schema in self.schemas]
        from flash_moe.grammar import parser_tools

        return parser_tools(tokenizer, self.schemas, self._exact)

    def calls(self, tokenizer: Any, text: str) -> tuple[ToolCall, ...]:
        """The calls in a whole answer."""
        if not self.schemas:
            return ()
        return tuple(parse_calls(tokenizer, text, self.parser_schemas(tokenizer))[1])

    def constraint(
        self, tokenizer: Any, after: str | None, thinking: Thinking
    ) -> Constraint | None:
        """What the answer is held to; ``None`` if it is free.

        Args:
            after, thinking: As :func:`thoughts_before` tells them of the prompt.

        Raises:
            GrammarError: It cannot be held to that.
        """
        if not self.held and self.response_format is None:
            return None
        from flash_moe.grammar import from_response_format, tool_calls

        if self.held:
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
        strict: Of all tools. A schema may say ``"strict": true`` for itself, as in OpenAI's API.

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
    found = (schema.get("function") for schema in schemas)
    functions = [each if isinstance(each, Mapping) else {} for each in found]
    names = frozenset(str(f.get("name")) for f in functions if strict or f.get("strict") is True)
    return ReplyForm(schemas, tool_choice, names, response_format)


def _name(tool: Tool[..., Any] | Callable[..., Any]) -> str:
    return tool.name if isinstance(tool, Tool) else tool.__name__


def thoughts_before(tokenizer: Any, ids: Sequence[int]) -> tuple[str | None, Thinking]:
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
