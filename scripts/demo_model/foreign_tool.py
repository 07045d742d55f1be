"""Tool besides the core ones, with wordings of questions for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from scripts.demo_model.tools import Schema, Tool, function, number, text
from scripts.demo_model.ways import Ways
from scripts.demo_model.words import Words


@dataclass(frozen=True)
class Parameter:
    """Maker of a parameter's values (a method of ``Words``), and its description."""

    maker: str
    about: str

    def __post_init__(self) -> None:
        if not hasattr(Words, self.maker):
            raise ValueError(f"expected a maker of Words, got {self.maker!r}")


@dataclass(frozen=True)
class Entry:
    """Entry of a file of ``corpus/foreign/``, whose key is the tool's name."""

    description: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    direct: tuple[str, ...] = ()
    do: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """Tool, makers of its parameters (methods of ``Words``), and wordings.

    The slots of the wordings are the parameters.
    """

    schema: Schema
    makers: dict[str, str]
    ways: Ways

    @property
    def tool(self) -> Tool:
        return Tool("", self.schema, {name: name for name in self.makers})


def tool(name: str, entry: Entry) -> Foreign:
    """Convert an entry to a tool; integers and numbers get the number type."""
    makers = {p: parameter.maker for p, parameter in entry.parameters.items()}
    properties = {
        p: (number if makers[p] in ("integer", "number") else text)(parameter.about)
        for p, parameter in entry.parameters.items()
    }
    schema = function(name, entry.description, properties)
    return Foreign(schema, makers, Ways(direct=entry.direct, do=entry.do))
