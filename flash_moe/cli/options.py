"""Command-line flags generated from declared options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from typing import Any

from flash_moe.options.declare import declared

# Flags of the previous release, by command; their old names work for one release.
_RENAMED = {
    ("serve", "--grace"): "--shutdown-timeout",
    ("chat", "--yes-to"): "--allow-tool",
    ("chat", "--private"): "--no-save",
    ("chat", "--session-disk-gb"): "--prompt-cache-disk-gb",
    ("demo", "--share"): "--cache-fraction",
    ("pull", "--jobs"): "--max-shards",
}


def add_options(
    parser: argparse.ArgumentParser, title: str, options: type, but: Collection[str] = ()
) -> None:
    """Add a flag for each option of a class that declares one.

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
            how |= {"choices": o.choices, "type": each.current}
        else:
            how |= {"metavar": o.metavar or ("N" if each.kind in (int, float) else "TEXT")}
            if each.kind in (int, float):
                how["type"] = each.kind
            if each.default == ():
                how["action"] = "append"
        place.add_argument(*o.flags, **how)


def given(args: argparse.Namespace, options: type) -> dict[str, Any]:
    """Return the options of a class that are set on the command line, by name.

    Raises:
        ConfigError: A value is out of range; raised before anything is loaded.
    """
    values = {name: getattr(args, _dest(options, name), None) for name in declared(options)}
    values = {name: value for name, value in values.items() if value is not None}
    options(**values)
    return values


def current_names(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with renamed flags replaced, and report each of them."""
    result = list(arguments)
    for n, argument in enumerate(result):
        old, equals, value = argument.partition("=")
        if (new := _RENAMED.get((result[0], old))) and "--" not in result[:n]:
            print(f"flash-moe: {old} is now {new}", file=sys.stderr)
            result[n] = f"{new}{equals}{value}"
    return result


def _dest(options: type, name: str) -> str:
    # Two classes may have an option of the same name: top_k of sampling and top_k of the experts.
    return f"{options.__name__}.{name}"
