"""Make the pictures of the README: the terminal output of ``flash-moe demo``, light and dark.

    python scripts/demo_picture.py [FOLDER]        # default: docs/images

Runs the demo and writes what it prints to ``demo-light.svg`` and ``demo-dark.svg``. The figures are
those of the machine that runs it.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI, TerminalTheme
from rich.text import Text

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
COMMAND = "flash-moe demo"
# Colors of GitHub's light theme.
LIGHT = TerminalTheme(
    (246, 248, 250),
    (31, 35, 40),
    [
        *((36, 41, 47), (207, 34, 46), (17, 99, 41), (154, 103, 0)),
        *((9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129)),
    ],
)
THEMES = {"light": LIGHT, "dark": MONOKAI}


def style(line: str) -> str:
    """Style of one line of the demo's output."""
    if line.startswith("> "):
        return "bold"
    if line.startswith("["):
        return "cyan"
    return "default" if line.endswith(".") else "yellow"


def picture(output: str, theme: TerminalTheme) -> str:
    """SVG of a terminal window with the command and its output."""
    lines = output.rstrip().splitlines()
    width = max(map(len, lines)) + 1
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    console.print(Text("$ ", "green") + Text(COMMAND, "bold"))
    for line in lines:
        console.print(Text(line, style(line)))
    svg = console.export_svg(title=COMMAND, theme=theme, unique_id="demo")
    # Pages show the file as an image, where no font can be downloaded.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main(folder: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", *COMMAND.replace("-", "_").split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    for name, theme in THEMES.items():
        file = folder / f"demo-{name}.svg"
        file.write_text(picture(ran.stdout, theme), encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
