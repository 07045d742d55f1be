"""Command-line flags generated from declared options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from typing import Any

from flash_moe.options.declare import declared


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
            how |= {"choices": o.choices}
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


class _OldFlag(argparse.Action):
    """Hidden flag that reports its new name and acts as the flag of that name."""

    def __init__(self, option_strings: Sequence[str], dest: str, current: argparse.Action) -> None:
        super().__init__(
            option_strings,
            current.dest,
            nargs=current.nargs,
            type=current.type,  # type: ignore[arg-type]
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
        self._current = current

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, *given: Any) -> None:
        old, new = self.option_strings[0], self._current.option_strings[0]
        print(f"flash-moe: {old} is now {new}", file=sys.stderr)
        self._current(parser, namespace, *given)


def renamed(parser: Any, old: str, current: argparse.Action) -> None:
    """Accept the old name of a flag for one release.

    Args:
        parser: Parser or argument group that has the flag.
        old: Old name, such as ``--grace``.
        current: The flag under its new name, as ``add_argument`` returns it.
    """
    parser.add_argument(old, action=_OldFlag, current=current)


def _dest(options: type, name: str) -> str:
    # Two classes may have an option of the same name: top_k of sampling and top_k of the experts.
    return f"{options.__name__}.{name}"
