"""Converts Metal text to C++ for clang, with few changes and the same line numbers.

Only what C++ has no syntax for is touched: comments go, threadgroup variables become references
into the runtime's arena, array parameters become pointers, function constants are only declared,
structures are copied between address spaces by a call, and MLX's line that instantiates the kernel
goes (the entry point names the instance). All else is the shim's work.
"""

from __future__ import annotations

import functools
import itertools
import re

_COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)
_HOST_NAME = re.compile(
    r"template\s*\[\[\s*host_name\([^)]*\)\s*\]\]\s*(?:\[\[\s*kernel\s*\]\])?\s*"
    r"decltype\(.*?\)\s+[^;]*;",
    re.S,
)
_ARRAY_PARAMETER = re.compile(
    r"(?P<type>\b(?:const\s+)?(?:constant|device|threadgroup)\s+(?:const\s+)?[\w:]+)\s+"
    r"(?P<name>\w+)\s*\[\w*\]\s*(?=[,)])"
)
_THREADGROUP_INDEX = re.compile(r"\[\[\s*threadgroup\s*\(\d+\)\s*\]\]")
_DECLARATOR = r"\w+\s*(?:\[[^\];]*\]\s*)*"
THREADGROUP_VARIABLE = re.compile(
    # At the start of a statement; as a parameter or in a cast it would follow `(`, `,` or `<`.
    r"(?<=[;{}\n])(?P<space>\s*)threadgroup\s+"
    r"(?P<type>(?:alignas\([^)]*\)\s*)?[A-Za-z_][\w:]*(?:\s*<[^;{}()]*?>)?)\s+"
    rf"(?P<names>{_DECLARATOR}(?:,\s*{_DECLARATOR})*);"
)
# Declared only: a kernel that uses it does not link, as there is nothing here that would set it.
_FUNCTION_CONSTANT = re.compile(
    r"\bconstant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant\s*\(\w+\)\s*\]\]\s*;"
)
# *((threadgroup T*)(to)) = *((const device T*)(from));
_POINTER = r"\(\s*(?:const\s+)?(?:constant|device|threadgroup)\s+(?:const\s+)?[\w:]+\s*\*\s*\)"
_COPY = re.compile(
    rf"(?<=[;{{}}\n])(?P<before>\s*)\*\(\s*(?P<to>{_POINTER}\s*\([^;=]*\))\s*\)(?P<equals>\s*=\s*)"
    rf"\*\(\s*(?P<from>{_POINTER}\s*\([^;=]*\))\s*\)\s*;"
)
_VECTOR_CALL = re.compile(r"\bvec<([^<>();]+)>\s*\(")


def strip_comments(text: str) -> str:
    """Without comments, every line where it was. String literals stay."""

    def replace(match: re.Match[str]) -> str:
        found = match[0]
        return found if found.startswith('"') else " " + "\n" * found.count("\n")

    return _COMMENT.sub(replace, text)


@functools.lru_cache(maxsize=16)
def to_cpp(text: str) -> str:
    """``text`` for clang and the shim."""
    text = strip_comments(text)
    text = _HOST_NAME.sub(_blank, text)
    text = _THREADGROUP_INDEX.sub("", text)
    text = _FUNCTION_CONSTANT.sub(r"extern constant \1 \2;", text)
    text = _ARRAY_PARAMETER.sub(r"\g<type>* \g<name>", text)
    text = _VECTOR_CALL.sub(r"::metal::make_vector<vec<\1>>(", text)
    text = _COPY.sub(
        lambda m: (
            f"{m['before']}msl::assign({m['to']},{m['equals'].replace('=', ' ')}{m['from']});"
        ),
        text,
    )
    numbers = itertools.count()

    def declare(match: re.Match[str]) -> str:
        declared = []
        for declarator in re.findall(_DECLARATOR, match["names"]):
            name, brackets, sizes = declarator.partition("[")
            number = next(numbers)
            kind = f"threadgroup_type_{number}"
            declared.append(
                f"using {kind} = {match['type']}{brackets}{sizes.strip()}; "
                f"threadgroup {kind}& {name.strip()} = "
                f"msl::threadgroup_variable<{kind}, {number}>();"
            )
        lost = match[0].count("\n") - match["space"].count("\n")
        return match["space"] + " ".join(declared).replace("\n", " ") + "\n" * lost

    return THREADGROUP_VARIABLE.sub(declare, text)


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")
