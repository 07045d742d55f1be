"""The wheel: it carries the kernels and the chat template, and nothing that is no library."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import flash_moe
from flash_moe.ops.source import kernels_dir

REPOSITORY = Path(flash_moe.__file__).parents[1]
BUILD = "import sys\nfrom hatchling.build import build_wheel\nprint(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with hatchling itself, in a process of its own and without a network."""
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(target)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_every_file_of_the_package(names: set[str]) -> None:
    package = REPOSITORY / "flash_moe"
    expected = {
        str(file.relative_to(REPOSITORY))
        for file in package.rglob("*")
        if file.suffix in (".py", ".jinja", ".typed")
        or (package / "server" / "page" in file.parents and file.is_file())
    }
    assert "flash_moe/py.typed" in expected
    assert "flash_moe/testing/chat_template.jinja" in expected
    assert "flash_moe/server/page/vendor/marked/LICENSE" in expected
    assert expected <= names


def test_the_wheel_carries_the_kernels(names: set[str]) -> None:
    kernels = {f"flash_moe/kernels/{file.name}" for file in (REPOSITORY / "kernels").iterdir()}
    assert "flash_moe/kernels/README.md" in kernels
    assert kernels <= names


def test_the_wheel_carries_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert tops == {"flash_moe", f"flash_moe-{flash_moe.__version__}.dist-info"}
    assert not [n for n in names if "__pycache__" in n or Path(n).name.startswith("test_")]


def test_metadata_and_command(wheel: Path, names: set[str]) -> None:
    info = f"flash_moe-{flash_moe.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        commands = archive.read(f"{info}/entry_points.txt").decode()
    assert metadata["Name"] == "flash-moe"
    assert metadata["Version"] == flash_moe.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert re.search(r"^flash-moe = flash_moe\.cli:main$", commands, re.MULTILINE)


def test_an_unpacked_wheel_works_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import flash_moe, flash_moe.pack.packer\n"
        "from flash_moe.ops.source import kernels_dir\n"
        "print(flash_moe.__version__, kernels_dir())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kernels = tmp_path / "site" / "flash_moe" / "kernels"
    assert done.stdout.split() == [flash_moe.__version__, str(kernels)]


def test_an_editable_install_finds_the_kernels_of_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kernels_dir() == REPOSITORY / "kernels"
