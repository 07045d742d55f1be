"""The command-line tool: flags reach the geometry, a full directory is never touched."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_checkpoint.py"
SMALL = ["--layers", "4", "--experts", "8", "--top-k", "2"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return exit_info.value.code


@pytest.mark.parametrize("kind", ["mlx", "hf"])
def test_flags_reach_the_geometry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    dst = tmp_path / "new"
    flags = [*SMALL, "--bits", "none", "--scale-dtype", "bfloat16", "--seed", "7"]
    assert run(monkeypatch, "--format", kind, *flags, str(dst)) == 0
    text = json.loads((dst / "config.json").read_text())["text_config"]
    assert (text["num_hidden_layers"], text["num_experts"], text["dtype"]) == (4, 8, "bfloat16")


def test_refuses_a_full_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert run(monkeypatch, str(tmp_path)) == 1
    assert "not an empty directory" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_bad_geometry_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--top-k", "99", str(tmp_path / "new")) == 1
    assert capsys.readouterr().err == "error: [geometry] top_k: expected <= 32, got 99\n"
