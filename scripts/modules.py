"""Print one line per module of the package: the first sentence of its docstring.

python scripts/modules.py [PACKAGE]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "flash_moe"


def modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and first sentence of each module, in the order of their paths."""
    for file in sorted(folder.rglob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        paragraph = " ".join(text.partition("\n\n")[0].split())
        yield str(file.relative_to(ROOT)), re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


def main(arguments: list[str]) -> int:
    folder = ROOT / arguments[0] if arguments else ROOT
    if not folder.is_dir():
        print(f"modules: no package {arguments[0]}", file=sys.stderr)
        return 2
    for name, sentence in modules(folder):
        print(f"{name:40} {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
