"""``@tool``: names, descriptions and schemas of functions, and functions that cannot be tools."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, TypedDict, Union

import pytest
from transformers.utils import get_json_schema

from flash_moe.errors import ConfigError
from flash_moe.tools import Tool, ToolDefinitionError, as_tools, tool


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: Annotated[float, "Upwards"] = 0.0


@dataclass
class Chain:
    next: Chain | None


class Person(TypedDict):
    name: str
    age: int


@tool
def paint(
    shape: str,
    color: Color,
    at: Point,
    width: Annotated[int, "In pixels"] = 1,
    tags: list[str] | None = None,
    style: Literal["solid", "dashed"] = "solid",
) -> str:
    """Paint a shape
    on the canvas.

    More words that a model does not need.

    Args:
        shape: What to paint: a circle,
            or a square.
        color (Color, optional): Its color
        width: Loses against Annotated

    Returns:
        Nothing: it is done.
    """
    return f"{shape} {color} {at} {width} {tags} {style}"


def test_a_schema() -> None:
    assert paint.schema == {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint a shape on the canvas.",
            "parameters": {
                "type": "object",
                "properties": {
                    "shape": {
                        "type": "string",
                        "description": "What to paint: a circle, or a square.",
                    },
                    "color": {
                        "type": "string",
                        "enum": ["red", "blue"],
                        "description": "Its color",
                    },
                    "at": {
                        "type": "object",
                        "properties": {
                            "x": {"type": "number"},
                            "y": {"type": "number", "description": "Upwards"},
                        },
                        "required": ["x"],
                    },
                    "width": {"type": "integer", "description": "In pixels"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "style": {"type": "string", "enum": ["solid", "dashed"]},
                },
                "required": ["shape", "color", "at"],
            },
        },
    }
    paint.schema["function"]["parameters"]["properties"].clear()  # a copy
    assert len(paint.parameters["properties"]) == 6


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (list, {"type": "array"}),
        (dict, {"type": "object"}),
        (Any, {}),
        (list[list], {"type": "array", "items": {"type": "array"}}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Union[str, int], {"anyOf": [{"type": "string"}, {"type": "integer"}]}),  # noqa: UP007
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (Literal["a", 2, True], {"type": ["string", "integer", "boolean"], "enum": ["a", 2, True]}),
        (
            Annotated[int, "Why"] | None,
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "Why"},
        ),
        (Annotated[Annotated[int, 5, "Why"], "Outer"], {"type": "integer", "description": "Why"}),
        (
            Person,
            {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": ["name", "age"],
            },
        ),
    ],
)  # fmt: skip
def test_types(hint: Any, schema: dict[str, Any]) -> None:
    def f(x: Any) -> None: ...

    f.__annotations__["x"] = hint
    assert Tool(f).parameters["properties"]["x"] == schema


def test_one_that_may_be_left_out_is_left_out() -> None:
    def f(a: int | None = None, b: int | str | None = None, c: None = None) -> None: ...

    def g(a: Annotated[int | None, "Why"] = None) -> None: ...

    def h(a: Annotated[int, "Why"] | None = None) -> None: ...

    properties = Tool(f).parameters["properties"]
    assert properties["a"] == {"type": "integer"}
    assert properties["b"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    assert properties["c"] == {"type": "null"}
    for function in (g, h):
        entry = Tool(function).parameters["properties"]["a"]
        assert entry == {"type": "integer", "description": "Why"}


def described(
    a: str, b: int, c: list[float], d: dict[str, bool], e: Literal["x", "y"] = "x"
) -> str:
    """Do what it says.

    Args:
        a: First text
        b: Second
            over two lines
        c: Third: with a colon
        d: Fourth
        e: Fifth
    """
    return "done"


def coloured(color: Literal["red", "blue"], n: float = 0.5) -> None:
    """Colour it.

    Args:
        color: The colour
        n: How much
    """


def nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize("function", [described, coloured, nothing])
def test_schemas_are_those_of_transformers(function: Callable[..., Any]) -> None:
    theirs = get_json_schema(function)
    theirs["function"].pop("return", None)
    theirs["function"]["parameters"].setdefault("required", [])
    assert Tool(function).schema == theirs


def test_it_stays_a_function() -> None:
    @tool(name="add-up", description="Sums.", max_result=5)
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert (add(3), add(3, b=4), add(a=1, b=1)) == (5, 7, 2)
    assert (add.name, add.description, add.max_result) == ("add-up", "Sums.", 5)
    assert repr(add) == "Tool(add-up(a, b))"
    assert "Add." in (inspect.getdoc(add) or "")

    class Counter:
        n = 0

        def count(self, by: int) -> int:
            """Count on."""
            self.n += by
            return self.n

    counter = Counter()
    method = Tool(counter.count)
    assert list(method.parameters["properties"]) == ["by"]
    assert [method.run({"by": 2}), method(3)] == ["2", 5]


@pytest.mark.parametrize("text", ["", "Args:\n    x: Text", "\n\n"])
def test_odd_docstrings(text: str) -> None:
    def f(x: int) -> None: ...

    f.__doc__ = text
    made = Tool(f)
    assert made.description == ""
    assert made.parameters["properties"]["x"].get("description", "Text") == "Text"


def bad(code: str) -> Any:
    names: dict[str, Any] = {"Any": Any, "Literal": Literal, "dataclass": dataclass, "Enum": Enum}
    exec(code, names)
    return names["f"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def f(*args: int): ...", r"f: args: expected parameters with names, got \*args"),
        ("def f(**kwargs: int): ...", "f: kwargs: expected parameters with names"),
        ("def f(x: int, /): ...", "f: x: expected a keyword, got a positional one"),
        ("def f(x): ...", r"f: x: has no type hint. For example x: str"),
        ("def f(x: int, y=3): ...", "f: y: has no type hint"),
        ("def f(x: tuple[int, int]): ...", "f: x: expected a type with a JSON form, got tuple"),
        ("def f(x: list[set[int]]): ...", "f: x: expected a type with a JSON form, got set"),
        ("def f(x: bytes): ...", "expected a type with a JSON form, got <class 'bytes'>"),
        ("def f(x: object): ...", "expected a type with a JSON form"),
        ("def f(x: dict[int, str]): ...", "keys of dict: expected str"),
        ("def f(x: Literal[b'a']): ...", "expected text, numbers or booleans to choose from"),
        ("def f(x: Literal[3, (1,)]): ...", "expected text, numbers or booleans"),
        ("class E(Enum):\n    A = object()\ndef f(x: E): ...", "expected text, numbers or"),
        ("class E(Enum): pass\ndef f(x: E): ...", "expected text, numbers or booleans"),
        ("def f(x: 'nowhere.Thing'): ...", "f: the type hints cannot be read: NameError"),
        ("@dataclass\nclass N:\n    z: complex\ndef f(x: N): ...", r"f: x\.z: expected a type"),
        ("async def f(x: int): ...", "expected a plain function, got an async one"),
        ("def f(x: int): yield x", "got an async one or a generator"),
        ("f = lambda: 1", "tool name: expected at most 64 letters"),
        ("def f\u00e9(x: int): ...\nf = f\u00e9", "tool name: expected at most 64 letters"),
        ("f = 3", "expected a function, got 3"),
        ("f = len", "expected a function, got <built-in"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_tools(code: str, says: str) -> None:
    with pytest.raises(ToolDefinitionError, match=says) as caught:
        Tool(bad(code))
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value).startswith("[tools] ")


def test_other_bad_definitions() -> None:
    with pytest.raises(ToolDefinitionError, match="expected a function"):
        Tool(partial(nothing))
    with pytest.raises(ToolDefinitionError, match=r"first: last\.next: Chain contains itself"):

        @tool
        def first(last: Chain) -> None: ...

    with pytest.raises(ToolDefinitionError, match="tool name"):
        tool(name="two words")(nothing)
    with pytest.raises(ToolDefinitionError, match="max_result"):
        tool(max_result=0)(nothing)
    with pytest.raises(ToolDefinitionError, match="two tools are named nothing"):
        as_tools([nothing, tool(nothing)])
    assert list(as_tools([nothing, paint])) == ["nothing", "paint"]
