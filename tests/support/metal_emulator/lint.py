"""Lint for code that clang accepts and Metal does not, and for traps of MLX's signature.

It reads words, not C++: what it says is a reason to look. It is strict, because the kernels here
are small and can do without; MLX's own headers would not pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.support.metal_emulator.lint_words import (
    ATTRIBUTES,
    PATTERNS,
    PRELUDE_NAMES,
    SPACES,
    TYPES,
    WORDS,
)
from tests.support.metal_emulator.rewrite import THREADGROUP_VARIABLE, strip_comments


@dataclass(frozen=True)
class Finding:
    """One reason to look, at a line of the header or of the body."""

    where: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.where}:{self.line}: {self.text}"


def lint(
    source: str,
    header: str = "",
    *,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    template: Iterable[str] = (),
) -> list[Finding]:
    """All findings for a kernel given as to ``mx.fast.metal_kernel``.

    Args:
        template: The names of the template arguments.
    """
    findings = []
    declared: set[str] = set(template)
    for where, text in (("header", header), ("body", source)):
        text = strip_comments(text)
        declared |= _types(text)
        rules = [_banned(text), _unqualified(text, declared), _prelude_names(text, declared)]
        if where == "header":
            rules += [_recursion(text), _program_scope(text, declared), _header_statics(text)]
        else:
            rules += [_body_statics(text), _signature_traps(text, input_names, output_names)]
        for rule in rules:
            for at, message in rule:
                findings.append(Finding(where, text.count("\n", 0, at) + 1, message))
    return sorted(set(findings), key=lambda f: (f.where, f.line, f.text))


def _banned(text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"\b[A-Za-z_]\w*\b", text):
        if match[0] in WORDS:
            yield match.start(), f"{match[0]}: {WORDS[match[0]]}"
    for pattern, reason in PATTERNS.items():
        for match in re.finditer(pattern, text):
            yield match.start(), f"{' '.join(match[0].split())}: {reason}"


def _alternatives(names: Iterable[str]) -> str:
    """A pattern for one of the names, the longest that fits."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True))


def _types(text: str) -> set[str]:
    names = set(re.findall(r"\b(?:typename|class|struct|union|using)\s+(\w+)", text))
    return names | set(re.findall(r"\btypedef\b[^;]*?(\w+)\s*;", text))


def _unqualified(text: str, declared: set[str]) -> Iterator[tuple[int, str]]:
    """Pointers and references of a named type without an address space."""
    names = _alternatives(TYPES | declared)
    qualifier = rf"(?:{'|'.join(SPACES)}|const|volatile)"
    pattern = (
        rf"(?P<before>(?:\b{qualifier}\s+)*)(?<![\w.])(?:metal::)?\b(?:{names})\b(?:\s*<[^<>;()]*>)?"
        rf"(?P<after>(?:\s+{qualifier}\b)*)\s*(?:[*&]|\(\s*[*&]\s*\w+\s*\)\s*\[)"
    )
    for match in re.finditer(pattern, text):
        if not re.search(rf"\b(?:{'|'.join(SPACES)})\b", match["before"] + match["after"]):
            shown = " ".join(match[0].split())
            yield match.start(), f"{shown}: a pointer or reference without address space"


def _prelude_names(text: str, declared: set[str]) -> Iterator[tuple[int, str]]:
    names = _alternatives(TYPES | declared | {"auto"})
    for pattern in (
        r"(?:#\s*define|\bstruct|\bclass|\bnamespace|\busing(?!\s+namespace))\s+(\w+)",
        rf"\b(?:{names})\b[\s*&]+(\w+)\s*[({{=;\[]",
    ):
        for match in re.finditer(pattern, text):
            if match[1] in PRELUDE_NAMES:
                yield match.start(1), f"{match[1]}: MLX's prelude has this name"


def _functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of the body of everything that looks like a function."""
    for match in re.finditer(r"\b([A-Za-z_]\w*)\s*\([^(){};]*\)\s*(?:const\s*)?\{", text):
        if match[1] in ("if", "for", "while", "switch"):
            continue
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield match[1], match.end(), end


def _recursion(text: str) -> Iterator[tuple[int, str]]:
    bodies = list(_functions(text))
    names = {name for name, _, _ in bodies}
    calls = {name: set[str]() for name in names}
    for name, start, end in bodies:
        # A call with template arguments may recurse on constants: that ends when compiling.
        called = re.findall(r"(?<![\w.:>])([A-Za-z_]\w*)\s*\(", text[start:end])
        calls[name] |= set(called) & names
    for name, start, _ in bodies:
        reached, front = set[str](), set(calls[name])
        while front:
            reached |= front
            front = set().union(*(calls[n] for n in front)) - reached
        if name in reached:
            yield start, f"{name}: recursion (or an overload that calls its namesake)"


def _header_statics(text: str) -> Iterator[tuple[int, str]]:
    for _, start, end in _functions(text):
        for match in re.finditer(r"\bstatic\b", text[start:end]):
            yield start + match.start(), "a static local: Metal has none"
    for match in THREADGROUP_VARIABLE.finditer(text):
        yield match.start("type"), "a threadgroup variable outside the kernel: pass a pointer"


def _body_statics(text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"\bstatic\b", text):
        yield match.start(), "a static local: Metal has none"


def _program_scope(text: str, declared: set[str]) -> Iterator[tuple[int, str]]:
    """Variables outside functions and structures that are not ``constant``."""
    depth, outside = 0, []
    for char in text:
        depth -= char == "}"
        outside.append(char if depth == 0 or char == "\n" else " ")
        depth += char == "{"
    names = _alternatives(TYPES | declared)
    qualifiers = r"((?:(?:static|inline|const|constexpr|constant)\s+)*)"
    pattern = rf"(?:^|[;}}\n])\s*{qualifiers}(?:{names})\s+\w+\s*[=;\[]"
    for match in re.finditer(pattern, "".join(outside)):
        if "constant" not in match[1].split():
            yield match.start(1), "a variable outside functions has to be `constant`"


def _signature_traps(
    text: str, input_names: Sequence[str], output_names: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """MLX searches the body for words, even inside longer words."""
    about = {f"{name}_{what}" for name in input_names for what in ("shape", "strides", "ndim")}
    types = _alternatives(TYPES | {"auto"})
    for match in re.finditer(r"\b[A-Za-z_]\w*\b", text):
        word = match[0]
        if word in about or word in ATTRIBUTES:
            if re.search(rf"\b(?:{types})\s+$", text[: match.start()]):
                yield match.start(), f"{word}: declared by MLX's signature already"
            continue
        for hidden in (about | ATTRIBUTES) - {word}:
            # A longer attribute that is there contains shorter ones: MLX adds both, harmlessly.
            if hidden in word:
                yield match.start(), f"{word}: contains {hidden}, which MLX adds to the signature"

    def uses(words: Iterable[str]) -> bool:
        return any(word in text for word in words)

    if len(output_names) > 1 and uses(about) and not uses(ATTRIBUTES):
        yield 0, "two outputs, a shape, no position attribute: MLX closes the signature too early"
