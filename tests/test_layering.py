"""The shape of the package: a ground, two wings that never import each other, and a roof."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import flash_moe

ROOT = Path(flash_moe.__file__).parent
# Each group in its order: a room imports from its own group to the left, and from the groups that
# its own stands on. The wings stand on the ground and never on each other; the roof on everything.
GROUND = (
    *("version", "errors", "options", "env", "config", "files", "store", "compat", "memory"),
    # Passes, engine and command line all agree with the other machines.
    *("ranks", "demo_model"),
)
WINGS = {
    "make": ("pack", "hub"),
    "run": ("stream", "ops", "model", "tools", "grammar", "generation"),
}
ROOF = ("loader", "plan", "eval", "lab", "chat", "server", "testing", "cli", "__main__")
MAX_TOP_MODULES = 8
MAX_LINES = 400
# The model file of the store in the package is data, as in every store.
FILES = sorted(f for f in ROOT.rglob("*.py") if ROOT / "demo_model" / "store" not in f.parents)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def room_of(file: Path) -> str:
    """The folder of a file, or its own name; empty for the front of the package."""
    relative = file.relative_to(ROOT)
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        return ""
    return relative.parts[0].removesuffix(".py")


@cache
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


def allowed(room: str) -> set[str]:
    """Rooms that a room may import."""
    for group, below in (
        (GROUND, ()),
        *((wing, GROUND) for wing in WINGS.values()),
        (ROOF, (*GROUND, *WINGS["make"], *WINGS["run"])),
    ):
        if room in group:
            return {*below, *group[: group.index(room) + 1]}
    raise AssertionError(f"{room}: give it a place in GROUND, WINGS or ROOF")


def rooms_imported(tree: ast.AST, package: str) -> set[str]:
    found = set()
    for module in modules(tree, package):
        top, _, rest = module.partition(".")
        if top == "flash_moe":
            room = rest.split(".")[0]
            # The front of the package is for users: what it offers is imported from its own file.
            found.add("version" if room == "__version__" else room)
    return found


def wrong_imports(room: str, tree: ast.AST, package: str) -> list[str]:
    return sorted(rooms_imported(tree, package) - allowed(room))


def top_levels(tree: ast.AST, package: str) -> set[str]:
    return {module.split(".")[0] for module in modules(tree, package)}


def test_imports_keep_to_the_shape() -> None:
    wrong = {
        name_of(file): wrong_imports(room_of(file), tree_of(file), package_of(file))
        for file in FILES
        if room_of(file)
    }
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_the_front_imports_only_the_errors_and_the_version() -> None:
    """The first use of another name imports it."""
    tree = tree_of(ROOT / "__init__.py")
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert rooms_imported(ast.Module(body, []), "flash_moe") == {"errors", "version"}


def test_every_room_exists_and_few_are_loose_modules() -> None:
    groups = (GROUND, *WINGS.values(), ROOF)
    assert {room_of(file) for file in FILES} - {""} == {room for group in groups for room in group}
    assert len(list(ROOT.glob("*.py"))) <= MAX_TOP_MODULES


def imports_of(file: Path) -> set[str]:
    """Modules of the package that a file imports, each by its dotted name."""
    return {
        whole if whole in BY_NAME else whole.rpartition(".")[0]
        for whole in modules(tree_of(file), package_of(file))
    } & BY_NAME.keys()


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


BY_NAME = {dotted(file): file for file in FILES}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that are left when leaves are taken away again and again: none without a circle."""
    left = dict(graph)
    while leaves := [node for node, below in left.items() if not below & left.keys()]:
        for node in leaves:
            del left[node]
    return sorted(left)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    graph = {name: imports_of(file) - {name} for name, file in BY_NAME.items()}
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("pack", "from flash_moe.stream.slot_table import SlotTable"),  # the other wing
        ("stream", "from flash_moe.pack import packer"),
        ("hub", "from flash_moe.model.open import open_streaming"),
        ("model", "from flash_moe.server import run"),  # the roof
        ("store", "import flash_moe.loader"),
        ("store", "from flash_moe import load"),
        ("stream", "from flash_moe import ops"),  # the same wing, further up
        ("tools", "def f():\n    from ..generation.conversation import Conversation"),
        ("server", "from .. import cli"),
        ("files", "from flash_moe.store import manifest"),  # the ground has an order too
    ],
)
def test_an_import_against_the_shape_is_found(room: str, text: str) -> None:
    assert wrong_imports(room, ast.parse(text), f"flash_moe.{room}")


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("stream", "from flash_moe.store.layout import align"),
        ("stream", "from flash_moe import __version__, errors"),
        ("stream", "from .slot_table import SlotTable"),
        ("hub", "from ..pack import packer"),
        ("loader", "from flash_moe.hub.resolve import resolve\nfrom flash_moe.model import open"),
    ],
)
def test_an_import_with_the_shape_is_fine(room: str, text: str) -> None:
    assert wrong_imports(room, ast.parse(text), f"flash_moe.{room}") == []


def files_importing(*names: str) -> set[str]:
    return {
        name_of(file) for file in FILES if set(names) & top_levels(tree_of(file), package_of(file))
    }


def test_the_store_knows_no_mlx() -> None:
    assert not {name for name in files_importing("mlx", "mlx_lm") if name.startswith("store/")}


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


def test_mlx_lm_is_reached_through_one_file() -> None:
    others = {name for name in files_importing("mlx_lm") if not name.startswith("testing/")}
    assert others <= {"compat/mlx_lm.py"}


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


def test_only_the_command_line_prints() -> None:
    assert {room_of(file) for file in FILES if prints(tree_of(file))} == {"cli"}


def test_only_one_file_reads_the_environment() -> None:
    assert {name_of(file) for file in FILES if environment_uses(tree_of(file))} == {"env.py"}


def test_the_finders_find() -> None:
    assert prints(ast.parse("x = 1\nprint(x)")) == [2]
    for text in ("import os\nos.environ['A']", "import os\nos.getenv('A')"):
        assert environment_uses(ast.parse(text)) == [2]
    assert environment_uses(ast.parse("from os import environ")) == [1]
    assert top_levels(ast.parse("from mlx_lm.utils import load"), "x") == {"mlx_lm"}


def test_files_stay_small_and_say_what_they_are() -> None:
    texts = {name_of(file): file.read_text(encoding="utf-8") for file in FILES}
    assert [name for name, text in texts.items() if text.count("\n") > MAX_LINES] == []
    assert [name for name, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []
    vague = {"utils", "util", "helpers", "common", "misc"}
    assert [name_of(file) for file in FILES if file.stem in vague] == []
