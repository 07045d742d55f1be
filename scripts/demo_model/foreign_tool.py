"""A tool beside the core ones, with the ways people ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.demo_model.tools import Schema, Tool, function, number, text
from scripts.demo_model.ways import Ways


@dataclass(frozen=True)
class Foreign:
    """A tool, the makers of its parameters (methods of ``Words``), and how it is asked for.

    The slots of the ways are the parameters.
    """

    schema: Schema
    makers: dict[str, str]
    ways: Ways

    @property
    def tool(self) -> Tool:
        return Tool("", self.schema, {name: name for name in self.makers})


def tool(
    name: str,
    description: str,
    parameters: dict[str, tuple[str, str]],
    *,
    direct: tuple[str, ...] = (),
    do: tuple[str, ...] = (),
) -> Foreign:
    """``parameters``: name to (maker, description); integers and numbers get the number type."""
    makers = {p: maker for p, (maker, _) in parameters.items()}
    properties = {
        p: number(about) if maker in ("integer", "number") else text(about)
        for p, (maker, about) in parameters.items()
    }
    return Foreign(function(name, description, properties), makers, Ways(direct=direct, do=do))
