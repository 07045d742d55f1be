"""Flags of the command line, made from declared options."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from flash_moe.options.declare import declared


def add_options(
    parser: argparse.ArgumentParser, title: str, options: type, but: Collection[str] = ()
) -> None:
    """Add a flag for each option of a class that has one.

    Args:
        title: Heading of the group in the help text.
        but: Names of options to leave out.
    """
    section = parser.add_argument_group(title)
    groups: dict[str, Any] = {}
    for name, each in declared(options).items():
        o = each.option
        if not o.flags or name in but:
            continue
        place = section
        if o.group:
            if o.group not in groups:
                groups[o.group] = section.add_mutually_exclusive_group()
            place = groups[o.group]
        how: dict[str, Any] = {"dest": _dest(options, name), "help": each.help.replace("%", "%%")}
        if each.kind is bool:
            how |= {"action": "store_const", "const": True}
        elif o.choices:
            how |= {"choices": o.choices}
        else:
            how |= {"metavar": o.metavar or ("N" if each.kind in (int, float) else "TEXT")}
            if each.kind in (int, float):
                how["type"] = each.kind
            if each.default == ():
                how["action"] = "append"
        place.add_argument(*o.flags, **how)


def given(args: argparse.Namespace, options: type) -> dict[str, Any]:
    """Return the options of a class that the command line sets, by name.

    Raises:
        ConfigError: A value out of range, before anything is loaded.
    """
    values = {name: getattr(args, _dest(options, name), None) for name in declared(options)}
    found = {name: value for name, value in values.items() if value is not None}
    options(**found)
    return found


def _dest(options: type, name: str) -> str:
    # Two classes may have options of one name: top_k of sampling, and of the experts.
    return f"{options.__name__}.{name}"
