"""``@tool``: turns a typed Python function into a tool."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from flash_moe.errors import ToolArgumentError, ToolDefinitionError
from flash_moe.tools.calls import openai_function
from flash_moe.tools.docstring import read_docstring
from flash_moe.tools.hints import parameters_of
from flash_moe.tools.result_text import as_text, quoted

P = ParamSpec("P")
R = TypeVar("R")

MAX_RESULT = 20_000  # characters of a result that a model gets
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class Tool(Generic[P, R]):
    """A function that a model may call. Called directly, it is the plain function.

    Attributes:
        name: Name of the tool for the model.
        description: Description in the schema.
        parameters: JSON schema of its arguments.
        max_result: Maximum characters of a result; longer ones keep head and tail.

    Raises:
        ToolDefinitionError: The function has ``*args``, ``**kwargs`` or positional-only
            parameters, lacks a type hint, has a type without a JSON form, or is asynchronous.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        max_result: int = MAX_RESULT,
    ) -> None:
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise ToolDefinitionError("tools", f"expected a function, got {function!r:.80}")
        self.name = function.__name__ if name is None else name
        if not _NAME.fullmatch(self.name):
            raise ToolDefinitionError(
                "tools",
                f"tool name: expected at most 64 letters, digits, _ and -, got {self.name!r}",
                "Set one: @tool(name=...).",
            )
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ToolDefinitionError(
                "tools", f"{self.name}: expected a plain function, got an async one or a generator"
            )
        if max_result < 1:
            raise ToolDefinitionError(
                "tools", f"{self.name}: max_result: expected at least 1, got {max_result}"
            )
        first, texts = read_docstring(function)
        self.description = first if description is None else description
        self.max_result = max_result
        self._function: Callable[P, R] = function
        self._shape = parameters_of(function, self.name, texts)
        self.__doc__ = function.__doc__
        self.__name__ = self.name

    def __repr__(self) -> str:
        return f"Tool({self.name}({', '.join(self._shape.schema['properties'])}))"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    @property
    def parameters(self) -> dict[str, Any]:
        return copy.deepcopy(self._shape.schema)

    @property
    def schema(self) -> dict[str, Any]:
        """Schema of the tool in OpenAI's form, for chat templates."""
        return openai_function(self.name, description=self.description, parameters=self.parameters)

    def bind(self, arguments: Mapping[str, Any]) -> Callable[[], str]:
        """Check and convert arguments of a model, for a later call.

        Returns:
            A function that calls the tool's function and returns the result as text. Errors of
            the tool's function propagate.

        Raises:
            ToolArgumentError: An argument is unknown, missing or invalid; the message names it.
        """
        if not isinstance(arguments, Mapping):
            raise ToolArgumentError(
                "tools", f"arguments: expected an object with names, got {quoted(arguments)}"
            )
        values = self._shape.convert(dict(arguments), "arguments", True)
        function: Callable[..., Any] = self._function
        return lambda: as_text(function(**values), self.max_result)

    def run(self, arguments: Mapping[str, Any]) -> str:
        """Call the tool with arguments of a model. Text stays, other results become JSON.

        Raises:
            ToolArgumentError: As in ``bind``. Errors of the function propagate.
        """
        return self.bind(arguments)()


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, max_result: int = MAX_RESULT
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Turn a typed function into a tool: ``@tool``, or ``@tool(name=...)``.

    The description is the first paragraph of the docstring. Descriptions of parameters come from
    its ``Args:`` section, or from ``Annotated[type, "text"]``. Parameters with defaults are
    optional.

    Args:
        name: Replaces the function's name.
        description: Replaces the docstring's description.
        max_result: Maximum characters of a result.

    Raises:
        ToolDefinitionError: See :class:`Tool`.
    """
    if function is not None:
        return Tool(function)
    return lambda f: Tool(f, **options)


def as_tools(values: Iterable[Tool[..., Any] | Callable[..., Any]]) -> dict[str, Tool[..., Any]]:
    """Return tools and plain functions as tools by name.

    Raises:
        ToolDefinitionError: Two have the same name, or a function cannot be a tool.
    """
    tools: dict[str, Tool[..., Any]] = {}
    for value in values:
        made = value if isinstance(value, Tool) else Tool(value)
        if made.name in tools:
            raise ToolDefinitionError("tools", f"two tools are named {made.name}")
        tools[made.name] = made
    return tools
