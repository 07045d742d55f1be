"""The rooms of the package and who may import whom: imports go only to the left."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flash_moe

ROOT = Path(flash_moe.__file__).parent
ORDER = (
    *("errors", "env", "config", "top_k_notice", "memory", "pressure", "routing_model", "store"),
    "scratch",
    *("memory_plan", "mlx_lm_api", "mlx_threads", "stream", "forecast", "machine_speed", "ops"),
    *("padding", "shared_expert", "next_router", "moe", "moe_block", "expert_modules"),
    *(
        "prompt",
        "prefill",
        "model",
        "stop",
        "result",
        "new_tokens",
        "tools",
        "thinking_limit",
        "grammar",
        "reply_form",
        "generate",
        "scale_search",
        "convert",
        "hub",
    ),
    *("stores", "pull", "repair", "planner", "demo_model", "loader", "quality", "chat", "server"),
    *("testing", "cli", "__main__"),
)
MAX_LINES = 400
# The model file of the store in the package is data, as in every store.
FILES = sorted(f for f in ROOT.rglob("*.py") if ROOT / "demo_model" / "store" not in f.parents)
# What the package itself offers, and where it comes from.
FRONT = {"load": "loader", "FlashMoE": "loader", "Chunk": "result", "Generation": "result"}
FRONT |= {"FlashMoEError": "errors"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def room_of(file: Path) -> str:
    """The folder of a file, or its own name; empty for the front of the package."""
    relative = file.relative_to(ROOT)
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        return ""
    return relative.parts[0].removesuffix(".py")


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a module imports, wherever in the file, relative ones made whole.

    ``from a import b`` gives ``a.b``, because ``b`` may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = parts[: len(parts) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(file: Path) -> str:
    return ".".join(["flash_moe", *file.relative_to(ROOT).parts[:-1]])


def rooms_imported(tree: ast.AST, package: str) -> set[str]:
    found = set()
    for module in modules(tree, package):
        top, _, rest = module.partition(".")
        if top != "flash_moe" or rest == "__version__":
            continue
        room = rest.split(".")[0]
        found.add(FRONT.get(room, room))
    return found


def wrong_imports(room: str, tree: ast.AST, package: str) -> list[str]:
    allowed = ORDER[: ORDER.index(room) + 1]
    return sorted(rooms_imported(tree, package) - set(allowed))


def top_levels(tree: ast.AST, package: str) -> set[str]:
    return {module.split(".")[0] for module in modules(tree, package)}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_only_to_the_left(file: Path) -> None:
    room = room_of(file)
    if not room:  # the front may name what it offers lazily, but imports only the errors
        body = [
            node for node in tree_of(file).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert rooms_imported(ast.Module(body, []), "flash_moe") == {"errors"}
        return
    assert room in ORDER, f"{name_of(file)}: give it a place in ORDER"
    assert wrong_imports(room, tree_of(file), package_of(file)) == []


def test_every_room_exists() -> None:
    assert {room_of(file) for file in FILES} - {""} == set(ORDER)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("store", "from flash_moe.stream.slot_table import SlotTable"),
        ("store", "import flash_moe.loader"),
        ("store", "from flash_moe import load"),
        ("stream", "from flash_moe import ops"),
        ("stream", "def f():\n    from ..moe import StreamedSwitchGLU"),
        ("store", "from .. import generate"),
    ],
)
def test_an_import_to_the_right_is_found(room: str, text: str) -> None:
    assert wrong_imports(room, ast.parse(text), f"flash_moe.{room}")


@pytest.mark.parametrize(
    "text",
    [
        "from flash_moe.store.layout import align",
        "from flash_moe import __version__, errors",
        "from .plan import SlotTable",
        "from ..store import layout",
    ],
)
def test_an_import_to_the_left_is_fine(text: str) -> None:
    assert wrong_imports("stream", ast.parse(text), "flash_moe.stream") == []


@pytest.mark.parametrize("file", sorted((ROOT / "store").rglob("*.py")), ids=name_of)
def test_the_store_knows_no_mlx(file: Path) -> None:
    assert not {"mlx", "mlx_lm"} & top_levels(tree_of(file), package_of(file))


def test_importing_the_store_or_the_package_loads_no_mlx() -> None:
    stores = [f"flash_moe.store.{file.stem}" for file in (ROOT / "store").glob("[a-z]*.py")]
    code = (
        f"import sys, flash_moe, {', '.join(stores)}\n"
        "sys.exit(str([m for m in ('mlx', 'mlx.core', 'mlx_lm') if m in sys.modules] or '') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_mlx_lm_is_reached_through_one_file(file: Path) -> None:
    if room_of(file) not in ("mlx_lm_api", "testing"):
        assert "mlx_lm" not in top_levels(tree_of(file), package_of(file))


def prints(tree: ast.AST) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]


def environment_uses(tree: ast.AST) -> list[int]:
    names = ("environ", "environb", "getenv", "putenv")
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and any(a.name in names for a in node.names))
    ]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_the_command_line_prints(file: Path) -> None:
    if room_of(file) != "cli":
        assert prints(tree_of(file)) == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_one_file_reads_the_environment(file: Path) -> None:
    if room_of(file) != "env":
        assert environment_uses(tree_of(file)) == []


def test_the_finders_find() -> None:
    assert prints(ast.parse("x = 1\nprint(x)")) == [2]
    for text in ("import os\nos.environ['A']", "import os\nos.getenv('A')"):
        assert environment_uses(ast.parse(text)) == [2]
    assert environment_uses(ast.parse("from os import environ")) == [1]
    assert top_levels(ast.parse("from mlx_lm.utils import load"), "x") == {"mlx_lm"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_stay_small_and_say_what_they_are(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    assert file.stem not in ("utils", "util", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(text)), "a file begins with a docstring"
