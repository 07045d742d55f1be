"""Find sentences that a reader has to translate: vague openings, code as a person, private words.

    python scripts/prose_lint.py [FILE ...]

Reads docstrings, comments and texts for users in Python files, and whole Markdown files; without
arguments those of the repository. A line that has to keep its words ends with ``prose: ok`` in a
comment. Exits with 1 if it finds anything.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("flash_moe", "kernels", "benchmarks", "scripts", "docs", ".github")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
# Data.
LEFT_OUT = (
    "scripts/demo_model/corpus",
    "scripts/demo_model/held_out.py",
    "flash_moe/demo_model/store",
)
ALLOWED = re.compile(r"prose: ok")
MAX_DOC_LINE = 100

_PERSON = "the code is no person"
# Patterns, and the reason. The first group of words that matches is quoted.
WORDS: tuple[tuple[str, str], ...] = (
    (r"\b(some|no)body\b|\bwhoever\b", "name the component, or use the passive"),
    (r"\banew\b", "again"),
    (r"\ball told\b|\bas of the\b", "archaic"),
    (r"\bgoes on (with|without|in|from|as|where)\b|\bgo on (with|without|in|from)\b", "continue"),
    (r"\bwhat of\b|\bof which is to be\b", "name it"),
    (r"\b(is|are|was|be) told\b|\bforgets\b|\bhears\b", _PERSON),
    (r"\bmay want\b|\bis asked\b", _PERSON),
    (r"\basks for (other|its|their|the next|nearly|more|new)\b", _PERSON),
    (r"\b(is|are|be|was) held to\b|\bto be held\b|\bcannot be held\b", "constrained, enforced"),
    (r"\bwho (may|must|can|asks|waits|is)\b", "name the component"),
    (r"\bstands there\b|\bis none$|\bis none[.;,]", "duplicate; is not a ..."),
    (r"\bof shards that\b|\bwere noted\b|\bthat was noted\b", "recorded"),
    (r"\bmust show\b|\ba thought is closed\b|\brequests that wait\b", "send; reasoning; queued"),
    (r"\bin a (process|thread|session) of its own\b", "in a separate process, in its own session"),
    (r", also (if|when|after|in|for|of|from|those|with|mixed|as)\b", "even if, including"),
    (r"\bat the (true )?hub\b|\bthe true hub\b", "on the hub; the real hub"),
    (r"\band the like\b|\bin sum\b|\ball the time\b", "and others, total, constantly"),
    (r"\bthe (layer|one|pass|token|call|run|turn|store|cache) before\b(?! )", "the previous one"),
    (r"\bbeside (other|the|resident|about|a|chunks|their)\b", "next to, with, compared with"),
    (r"\breplace [^.,;]{0,60} by (an?|the|one|its|their|smaller|question)\b", "replace with"),
    (r"\bexpected (a text\b|(a list of )?(texts|tables)\b)", "string, object"),
    (r"\bhas another (type|size|form|format|shape|dtype|range)\b", "has the wrong ..."),
    (
        r"\b(experts|tokens|bytes|reads|[GMK]i?B|ms|s|us|passes|slots|records|waves) an? "
        r"(token|layer|second|step|record|expert|group|pass|wave)\b(?! of)",
        "per",
    ),
)
OPENINGS = re.compile(r"(What|Whether|Who|Whose|Where|How|Says|Tells|Also one|Which)\b")
_WORDS = [(re.compile(pattern, re.IGNORECASE), reason) for pattern, reason in WORDS]
Finding = tuple[int, str]


def words(text: str, line: int) -> Iterator[Finding]:
    """Banned words of a text that begins in a line."""
    for offset, part in enumerate(text.splitlines()):
        if ALLOWED.search(part):
            continue
        for pattern, reason in _WORDS:
            if found := pattern.search(part):
                yield line + offset, f"{found[0]!r}: {reason}"


def opening(text: str, line: int) -> Iterator[Finding]:
    """A first sentence that is neither a noun phrase nor an imperative."""
    if (found := OPENINGS.match(text.lstrip())) and not ALLOWED.search(text):
        yield line, f"begins with {found[0]!r}: begin with a noun or an imperative"


def in_python(source: str) -> Iterator[Finding]:
    """Findings in docstrings, comments, and strings that look like sentences."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                constant = node.body[0].value  # type: ignore[attr-defined]
                docstrings.add(id(constant))
                yield from opening(text, constant.lineno)
                yield from words(text, constant.lineno)
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in docstrings and text.count(" ") > 1:
            yield from words(text.replace("\n", " "), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from words(token.string, token.start[0])


def in_markdown(text: str) -> Iterator[Finding]:
    """Findings in prose, outside of code blocks; and lines that are not wrapped."""
    code = False
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith("    "):
            yield from words(line, number)
            if not before.strip():
                yield from opening(line, number)
            if len(line) > MAX_DOC_LINE and not line.startswith("|") and " " in line.strip():
                yield number, f"{len(line)} characters: wrap at {MAX_DOC_LINE}"
        before = line


def findings(file: Path) -> list[Finding]:
    text = file.read_text(encoding="utf-8")
    found = in_python(text) if file.suffix == ".py" else in_markdown(text)
    return sorted(set(found))


def files() -> list[Path]:
    """The files of the repository that have prose."""
    listed = subprocess.run(
        ["git", "ls-files", *FOLDERS, *PAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.splitlines() if name.endswith((".py", ".md"))]
    return [ROOT / name for name in names if not name.startswith(LEFT_OUT)]


def main(arguments: list[str]) -> int:
    count = 0
    for file in [Path(name) for name in arguments] or files():
        for line, problem in findings(file):
            count += 1
            print(f"{file.relative_to(ROOT) if file.is_absolute() else file}:{line}: {problem}")
    if count:
        print(f"{count} findings; docs/glossary.md has the words", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
