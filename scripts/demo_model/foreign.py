"""Tools besides the core ones, each with wordings of questions for it.

A checksum of its name assigns a tool to ``TRAIN`` or ``HELD_OUT``; tools of ``HELD_OUT`` never
occur in training.
"""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

from scripts.demo_model.corpus import table
from scripts.demo_model.foreign_tool import Entry, Foreign, tool
from scripts.demo_model.words import is_held_out

# The order matters: a seed draws tools by index.
_FILES = "everyday home travel office computer shop_and_health media_and_people".split()
_ALL: tuple[Foreign, ...] = tuple(
    tool(name, entry)
    for file in _FILES
    for name, entry in table(f"foreign/{file}.toml", dict[str, Entry]).items()
)
TRAIN = tuple(entry for entry in _ALL if not is_held_out(entry.tool.name))
HELD_OUT = tuple(entry for entry in _ALL if is_held_out(entry.tool.name))
