"""Declaration of options as dataclass fields: checks, parsing, signatures, documentation."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from flash_moe.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
S = TypeVar("S")
T = TypeVar("T")
_DECLARED: dict[type, Mapping[str, Declared]] = {}
# Deprecated names, still accepted.
_RENAMED = {"repetition_context": "repetition_context_size"}


@dataclass(frozen=True)
class Option:
    """Metadata of one option in addition to its name, type and default.

    Attributes:
        help: A phrase without a full stop.
        unit: Unit of a number.
        minimum, maximum: Inclusive range of a number.
        positive: Whether a real number must be above 0.
        choices: Valid values of a string.
        renamed: Deprecated values, still accepted, and their current names.
        default: The default in words, if the value itself is not clear.
        flags: Command-line flags; empty for an option of the library only.
        metavar: Placeholder of the value in help texts.
        group: Name of a group of mutually exclusive options.
        env: Whether ``FLASH_MOE_<NAME>`` sets it.
    """

    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    positive: bool = False
    choices: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    group: str = ""
    env: bool = False

    @property
    def expected(self) -> str:
        """Valid values in words; empty if all are valid."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.positive:
            return "a positive number"
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}" if self.minimum else "0 or more"
        return ""

    def allows(self, value: Any) -> bool:
        """Return whether a value of the right type is in range."""
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float):
            return True
        return (
            math.isfinite(value)
            and not (self.positive and value <= 0)
            and not (self.minimum is not None and value < self.minimum)
            and not (self.maximum is not None and value > self.maximum)
        )


def option(default: Any, help: str, /, *flags: str, repr: bool = True, **facts: Any) -> Any:
    """Declare a dataclass field that is an option."""
    if isinstance(default, dict):
        how: dict[str, Any] = {"default_factory": default.copy}
    else:
        how = {"default": default}
    return field(**how, repr=repr, metadata={"option": Option(help, flags=flags, **facts)})


@dataclass(frozen=True)
class Declared:
    """One option with its name and type.

    Attributes:
        kind: Type of the values: bool, int, float, str, or another for options of the library.
        default: Value if none is given.
    """

    name: str
    kind: type
    default: Any
    option: Option

    @property
    def default_text(self) -> str:
        if self.option.default:
            return self.option.default
        if self.default is None or self.default == () or self.default == {}:
            return "none"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def help(self) -> str:
        """Help with unit, range and default."""
        o = self.option
        facts = [] if o.choices else [o.unit, o.expected]
        facts.append(f"default: {self.default_text}")
        return f"{o.help} ({'; '.join(filter(None, facts))})"

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return f"FLASH_MOE_{self.name.upper()}"

    def current(self, value: Any) -> Any:
        """Return a value, or the current name of a deprecated one, with a ``FutureWarning``."""
        if not isinstance(value, str) or value not in self.option.renamed:
            return value
        new = self.option.renamed[value]
        warnings.warn(f"flash_moe: {self.name}: {value} is now {new}", FutureWarning, stacklevel=2)
        return new

    def parse(self, text: str) -> Any:
        """Return the value that a string stands for.

        Raises:
            ValueError: The string is invalid; the message is the expected form.
        """
        try:
            if self.kind is bool:
                return {"0": False, "1": True, "false": False, "true": True}[text.lower()]
            if self.option.choices:
                return self.option.choices[self.option.choices.index(self.current(text.lower()))]
            return Path(text).expanduser() if self.kind is Path else self.kind(text)
        except (ValueError, KeyError):
            words = {bool: "0 or 1", int: "a whole number", float: "a number"}
            unit = f" of {self.option.unit.split()[0]}" if self.option.unit else ""
            raise ValueError(
                self.option.expected if self.option.choices else words[self.kind] + unit
            ) from None


def _kind(hint: Any) -> type:
    """Return the type of an option's values, without ``None``."""
    arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        # In a union the type that a string is converted to: ``str | Path`` is a path.
        hint = Path if Path in arms else arms[0]
    kind: type = typing.get_origin(hint) or hint
    return kind


def declared(options: type) -> Mapping[str, Declared]:
    """Return the options of a class by name, in their order."""
    if options not in _DECLARED:
        _DECLARED[options] = _declared(options)
    return _DECLARED[options]


def _declared(options: type) -> dict[str, Declared]:
    hints = typing.get_type_hints(options)
    return {
        f.name: Declared(
            f.name,
            _kind(hints[f.name]),
            f.default_factory() if f.default_factory is not MISSING else f.default,
            f.metadata["option"],
        )
        for f in fields(options)
        if "option" in f.metadata
    }


def values(options: Any, base: type | None = None) -> dict[str, Any]:
    """Return all options of an instance by name, or only those that ``base`` declares."""
    return {name: getattr(options, name) for name in declared(base or type(options))}


def check(options: Any, component: str) -> None:
    """Check the types and ranges of all options of an instance; replace deprecated values.

    Raises:
        ConfigError: One is out of range; the message has its name, the expected and actual value.
    """
    for name, each in declared(type(options)).items():
        value = each.current(given := getattr(options, name))
        if value is None:
            continue
        if value is not given:
            object.__setattr__(options, name, value)
        fits, expected = True, each.option.expected
        if each.kind in (int, float):
            number = isinstance(value, int if each.kind is int else int | float)
            fits = number and not isinstance(value, bool)
            expected = expected or ("a whole number" if each.kind is int else "a number")
        elif each.kind is bool:
            fits, expected = isinstance(value, bool), "True or False"
        if not fits or not each.option.allows(value):
            raise ConfigError(component, f"{name}: expected {expected}, got {value!r:.80}")


def _renamed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with deprecated names replaced, and without those that are ``None``."""
    for old in _RENAMED.keys() & arguments.keys():
        warnings.warn(f"flash_moe: {old} is now {_RENAMED[old]}", DeprecationWarning, stacklevel=3)
    return {_RENAMED.get(n, n): value for n, value in arguments.items() if value is not None}


@overload
def accepts(
    options: Callable[P, T], *, make: Callable[..., T] | None = None
) -> Callable[[Callable[[A, T], R]], Callable[Concatenate[A, P], R]]: ...
@overload
def accepts(
    options: Callable[P, T], *, method: bool
) -> Callable[[Callable[[S, A, T], R]], Callable[Concatenate[S, A, P], R]]: ...
def accepts(options: Any, *, make: Any = None, method: bool = False) -> Any:
    """Let a function take the fields of an options class as keyword arguments.

    The function's last parameter receives the instance. Type checkers, editors and ``help()`` see
    each field with its type and default, since the signature is that of the class. An argument
    that is ``None`` selects the default.

    Args:
        options: A class with declared options.
        make: Replaces the class as the constructor of the instance.
        method: Whether the function has two parameters before the last, instead of one.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        plain = inspect.signature(function)
        *own, _ = plain.parameters.values()
        known = declared(options)
        taken = [
            each.replace(default=known[name].default)
            for name, each in inspect.signature(options).parameters.items()
        ]
        signature = plain.replace(parameters=[*own, *taken])

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **_renamed(kwargs)).arguments
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            leading = [bound.pop(each.name, each.default) for each in own]
            return function(*leading, (make or options)(**bound))

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__doc__ = _documented(function.__doc__ or "", options)
        return wrapper

    return decorate


def _documented(text: str, options: type) -> str:
    """Return a docstring with the options in its ``Args:`` section."""
    rows = [f"    {name}: {each.help}." for name, each in declared(options).items()]
    lines = inspect.cleandoc(text).splitlines()
    at = lines.index("Args:") + 1 if "Args:" in lines else None
    if at is None:
        return "\n".join([*lines, "", "Args:", *rows])
    end = next((i for i in range(at, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return "\n".join([*lines[:end], *rows, *lines[end:]])
