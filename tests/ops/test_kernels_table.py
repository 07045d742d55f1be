"""kernels/README.md says of each file what the file says of itself."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "kernels_table.py"
BLOCK = """// twice: y = 2 x | x. In words.
// Inputs
//   x [n] T
// Output
//   y [n] T
// Template: T.
// Grid: (n, 1, 1).
// Numerics: none.

y[0] = 2 * x[0];
"""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """One kernel, one header and the modules that use them."""
    kernels, ops = tmp_path / "kernels", tmp_path / "ops"
    kernels.mkdir()
    ops.mkdir()
    (kernels / "twice.metal").write_text(BLOCK)
    (kernels / "shared.h").write_text("// Shared\n// helpers.\n//\n// More.\n")
    (ops / "twice.py").write_text('TWICE = Kernel(\n    "twice", ("x",), ("y",))\n')
    (ops / "kernel.py").write_text('read_kernel_file("shared.h")\n')
    return kernels, ops


def test_the_table_is_current() -> None:
    out = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr


def test_the_table(script: dict[str, Any], places: tuple[Path, Path]) -> None:
    assert script["problems"](*places) == []
    assert script["table"](*places).splitlines()[1:-1] == [
        "| file | operation | used by |",
        "|---|---|---|",
        "| `shared.h` | Shared helpers | `flash_moe/ops/kernel.py` |",
        r"| `twice.metal` | y = 2 x \| x | `flash_moe/ops/twice.py` |",
    ]


@pytest.mark.parametrize("part", ["Inputs", "Output", "Template", "Grid", "Numerics"])
def test_a_part_that_is_missing(
    script: dict[str, Any], places: tuple[Path, Path], part: str
) -> None:
    (places[0] / "twice.metal").write_text(BLOCK.replace(f"// {part}", "// Other"))
    assert script["problems"](*places) == [f"twice.metal: the block at its head has no '// {part}'"]


def test_a_purpose_or_a_launcher_that_is_missing(
    script: dict[str, Any], places: tuple[Path, Path]
) -> None:
    kernels, ops = places
    (kernels / "twice.metal").write_text(BLOCK.replace("twice:", "thrice:"))
    (ops / "twice.py").write_text("")
    assert script["problems"](kernels, ops) == [
        "twice.metal: begins with no line '// twice: what it computes.'",
        "twice.metal: no module of flash_moe/ops uses it",
    ]


def test_only_the_table_is_replaced(script: dict[str, Any]) -> None:
    start, end = script["START"], script["END"]
    assert script["replaced"](f"a\n{start}\nold\n{end}\nb", "new") == "a\nnew\nb"
    with pytest.raises(ValueError, match="expected the markers"):
        script["replaced"]("no table", "new")
