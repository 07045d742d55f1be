"""Errors: the tree in the docstring, messages and pickling."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from flash_moe import errors
from flash_moe.errors import (
    FlashMoEError,
    RecordError,
)

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, FlashMoEError) and value.__module__ == errors.__name__
]


def drawn_tree() -> dict[str, str]:
    """Class to parent, as drawn in the docstring of the module."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([\s│├└─]*)([A-Z]\w+)(?:\s|$)", line)
        if match is None:
            continue
        depth = len(match[1])
        above = [entry for entry in above if entry[0] < depth]
        parents[match[2]] = above[-1][1] if above else ""
        above.append((depth, match[2]))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    real = {c.__name__: c.__bases__[0].__name__ for c in CLASSES}
    real["FlashMoEError"] = ""
    assert drawn_tree() == real


def test_builtin_bases() -> None:
    for name, base in (
        ("ConfigError", ValueError),
        ("PromptError", ValueError),
        ("ClosedError", RuntimeError),
        ("KernelError", RuntimeError),
        ("IncompatibleMlxLmError", ImportError),
    ):
        assert issubclass(getattr(errors, name), base)


def made(cls: type[FlashMoEError], hint: str = "Do this.") -> FlashMoEError:
    if issubclass(cls, RecordError):
        return cls("part", "it broke", hint, layer=3, expert=7)
    return cls("part", "it broke", hint)


@pytest.mark.parametrize("cls", CLASSES)
def test_messages(cls: type[FlashMoEError]) -> None:
    where = "layer 3, expert 7: " if issubclass(cls, RecordError) else ""
    assert str(made(cls)) == f"[part] {where}it broke. Do this."
    assert str(made(cls, hint="")) == f"[part] {where}it broke."
    assert str(FlashMoEError("part", "it broke.")) == "[part] it broke."


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_a_copy_keeps_everything(cls: type[FlashMoEError], again: Any) -> None:
    error = made(cls)
    other = again(error)
    assert type(other) is cls
    assert str(other) == str(error)
    assert vars(other) == vars(error)
    assert other.component == "part"
    assert other.hint == "Do this."
    if isinstance(other, RecordError):
        assert (other.layer, other.expert) == (3, 7)
