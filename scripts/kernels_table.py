"""Write the table of kernels/README.md from the files themselves, or check that it is current.

    python scripts/kernels_table.py [--check]

The operation is the first sentence of a file, and the launcher is found in flash_moe/ops. Every
kernel must document its operation, inputs and outputs; a test runs the check.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- made by scripts/kernels_table.py -->", "<!-- end of the table -->"
# Entries of the head block of a kernel, each at the start of a line.
PARTS = {
    "Inputs": r"^Inputs\b",
    "Output": r"^Outputs?\b",
    "Template": r"^Template\b",
    "Grid": r"^Grid\b",
    "Numerics": r"^Numerics\b",
}


def head_block(text: str) -> list[str]:
    """The comment lines that a file begins with, without their slashes."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        lines.append(line.removeprefix("//").strip())
    return lines


def purpose(file: Path) -> str:
    """The first sentence of the head block, without the name of the kernel; may be empty."""
    block = head_block(file.read_text(encoding="utf-8"))
    paragraph = " ".join(block[: block.index("")] if "" in block else block)
    sentence = re.split(r"\.(?:\s|$)", paragraph, maxsplit=1)[0]
    if file.suffix == ".h":
        return sentence
    name, _, rest = sentence.partition(":")
    return rest.strip() if name == file.stem else ""


def launchers(kernels: Path, ops: Path) -> dict[str, list[str]]:
    """File name in ``kernels`` to the modules of ``ops`` that launch or include it."""
    found: dict[str, list[str]] = {}
    for file in sorted(kernels.iterdir()):
        naming = rf'Kernel\(\s*"{re.escape(file.stem)}"'
        if file.suffix == ".h":
            naming = rf'read_kernel_file\(\s*"{re.escape(file.name)}"'
        found[file.name] = [
            module.name
            for module in sorted(ops.glob("*.py"))
            if re.search(naming, module.read_text(encoding="utf-8"))
        ]
    return found


def sources(kernels: Path) -> list[Path]:
    """Headers, then kernels, by name."""
    files = [f for f in kernels.iterdir() if f.suffix in (".metal", ".h")]
    return sorted(files, key=lambda f: (f.suffix != ".h", f.name))


def problems(kernels: Path, ops: Path) -> list[str]:
    """Missing parts of the head blocks."""
    used = launchers(kernels, ops)
    found = []
    for file in sources(kernels):
        block = "\n".join(head_block(file.read_text(encoding="utf-8")))
        if not purpose(file):
            found.append(f"{file.name}: begins with no line '// {file.stem}: what it computes.'")
        if not used[file.name]:
            found.append(f"{file.name}: no module of flash_moe/ops uses it")
        if file.suffix == ".metal":
            missing = [p for p, start in PARTS.items() if not re.search(start, block, re.MULTILINE)]
            found += [f"{file.name}: the block at its head has no '// {part}'" for part in missing]
    return found


def table(kernels: Path, ops: Path) -> str:
    """The table, markers included."""
    used = launchers(kernels, ops)
    rows = ["| file | operation | used by |", "|---|---|---|"]
    for file in sources(kernels):
        what = purpose(file).replace("|", r"\|")
        where = ", ".join(f"`flash_moe/ops/{module}`" for module in used[file.name])
        rows.append(f"| `{file.name}` | {what} | {where} |")
    return "\n".join([START, *rows, END])


def replaced(readme: str, new: str) -> str:
    """The text of the README with another table."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"kernels/README.md: expected the markers {START} and {END}")
    return before + new + after


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    args = parser.parse_args()
    kernels, ops = ROOT / "kernels", ROOT / "flash_moe" / "ops"
    found = problems(kernels, ops)
    readme = kernels / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = replaced(old, table(kernels, ops))
    if args.check and new != old:
        found.append(f"{readme}: stale. Run: python scripts/kernels_table.py")
    elif new != old:
        readme.write_text(new, encoding="utf-8")
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
