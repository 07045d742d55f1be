"""The docs are run: code blocks on the toy model, commands, links, and what they say of files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub.client import hub_environment
from tests.support.hub.fake_hub import FakeHub
from tests.support.processes import COMMAND, environment

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
HUB_NAME, STORE_PATH = "mlx-community/Qwen3.5-397B-A17B-4bit", "~/models/397b"


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{file.name}-{number}", block)
        for file in DOCS
        for number, block in enumerate(blocks(file, "python"))
    ]


def test_there_are_blocks() -> None:
    assert len(python_blocks()) >= 5


@pytest.mark.parametrize(("name", "code"), python_blocks(), ids=[n for n, _ in python_blocks()])
def test_python_block(name: str, code: str, tiny_store: Path, tmp_path: Path) -> None:
    """Each block runs by itself, with a toy store in the place of the big one."""
    code = code.replace(STORE_PATH, str(tiny_store)).replace("cache_gb=24", "cache_gb=0.01")
    script = tmp_path / "block.py"
    script.write_text(f"STORE = {str(tiny_store)!r}\n{code}", encoding="utf-8")
    out = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip()
    assert out.stderr == ""


def test_readme_commands(tiny_mlx: Path, tmp_path: Path) -> None:
    """Every flash-moe and mlx_lm line of the README, in its order, on the toy model."""
    with FakeHub(tmp_path / "blobs") as hub:
        hub.add_commit(HUB_NAME, tiny_mlx)
        run_readme_commands(tmp_path / "store", hub_environment(hub.url, tmp_path / "home"))


def run_readme_commands(store: Path, hub: dict[str, str]) -> None:
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    ours = [line for line in lines if line.startswith(("flash-moe ", "python -m mlx_lm "))]
    assert {shlex.split(line)[1] for line in ours} >= {"plan", "pull", "generate"}
    for line in ours:
        if " server " in line or " serve " in line or " chat " in line:
            continue  # tests/cli/test_mlx_lm_scripts.py, tests/server, tests/chat
        words = shlex.split(line.replace(STORE_PATH, str(store)))
        words = [*COMMAND, *words[1:]] if words[0] == "flash-moe" else [sys.executable, *words[1:]]
        if "plan" in words:
            words.append("--no-measure")
        out = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=120,
            env={**environment(), **hub},
            check=False,
        )
        assert out.returncode == 0, f"{line}\n{out.stderr}"


def test_other_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"^make (\w+)$", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for script in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("file", DOCS, ids=lambda f: f.name)
def test_links_and_paths_exist(file: Path) -> None:
    text = file.read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (file.parent / link).exists(), link
    for path in re.findall(r"`((?:tests|scripts|benchmarks|docs|kernels)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_architecture_page_names_every_package_and_stays_short() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert text.count("\n") <= 150
    index = subprocess.run(
        [sys.executable, ROOT / "scripts" / "modules.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = {line.split()[0] for line in index}
    files = (ROOT / "flash_moe").rglob("*.py")
    assert names == {str(file.relative_to(ROOT / "flash_moe")) for file in files}
    assert all(len(line.split()) > 2 for line in index)
    for name in names - {"__init__.py", "__main__.py"}:
        package = name.split("/")[0].removesuffix(".py")
        assert f"`{package}`" in text or f"`{package}/`" in text, package
    for path in set(re.findall(r"`(\w+/\w+\.py)", text)) - {"tests/test_layering.py"}:
        assert (ROOT / "flash_moe" / path).is_file(), path


def test_memory_benchmark_runs(tiny_store: Path) -> None:
    """Its last line is JSON, and the toy model stays within the bound."""
    import json

    out = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "bench_memory.py", "--model", tiny_store,
         "--prompt-tokens", "40", "-n", "4"],
        capture_output=True, text=True, timeout=120, env=environment(), check=False,
        cwd=os.path.dirname(tiny_store),
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    figures = json.loads(out.stdout.splitlines()[-1])
    assert figures["within_bound"]
    assert figures["bytes_read"] > 0
    assert figures["peak_bytes"] > figures["import_bytes"] > 0
