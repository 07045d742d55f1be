"""The picture: it is one, and its points are those of the runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from flash_moe.errors import ConfigError
from flash_moe.eval.evaluation import PromptScores, Run
from flash_moe.eval.models import Candidate
from flash_moe.eval.plot import check_plot, save_plot
from flash_moe.eval.token_scores import TextScores
from tests.support.processes import environment


def run(name: str, k: int, kl: float | None, tool: float | None = None) -> Run:
    bits = 4.5 if "four" in name else 2.5
    candidate = Candidate(
        name, Path(name), False, k, 10, int(k * bits * 8e4), bits, 512, 4096
    )  # fmt: skip
    text = TextScores(1022, 2.0 + (kl or 0), kl, kl, None if kl is None else 1 - kl / 5)
    prompts = None if tool is None else PromptScores({"tool": 9}, {"tool": tool, "json": tool})
    return Run(candidate, kl is None, text, prompts)


RUNS = [
    run("stores/four", 10, None, 0.95),
    run("stores/four", 8, 0.004, 0.95),
    run("stores/four", 4, 0.08, 0.8),
    run("stores/four", 2, 0.6, 0.3),
    run("stores/two", 10, 0.09, 0.8),
    run("stores/two", 4, 0.3, 0.5),
]


def texts(file: Path) -> list[str]:
    """The texts of an SVG file; matplotlib writes each as a comment above its outlines."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    tree = ET.parse(file, parser)
    return [(e.text or "").strip() for e in tree.iter() if not isinstance(e.tag, str)]


def test_a_picture_of_everything(tmp_path: Path) -> None:
    file = tmp_path / "quality.png"
    check_plot(file)
    save_plot(RUNS, file)
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1125, 1800)
    save_plot(RUNS, tmp_path / "dark.svg", dark=True)
    save_plot(RUNS, tmp_path / "light.svg")
    page = "fill: #0d1117"
    assert page in (tmp_path / "dark.svg").read_text()
    assert page not in (tmp_path / "light.svg").read_text()


def test_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "quality.svg"
    save_plot(RUNS, file)
    found = texts(file)
    # The reference has a tool-call and a JSON value, but no KL and no agreement.
    assert found.count("K=10 (reference)") == 2
    # Only the ends of lines are labelled.
    assert found.count("K=8") == 2
    assert found.count("K=2") == found.count("K=4") == found.count("K=10") == 4
    assert "experts per token, all layers (MB)" in found
    assert "Mean KL from the reference (nats per token; lower is better)" in found
    assert sum("% of prompts" in text for text in found) == 2
    assert found.count("four") == found.count("two") == 1


def test_only_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "quality.svg"
    save_plot([run("a", 4, None), run("a", 3, 0.0), run("a", 2, 0.0)], file)
    found = texts(file)
    assert any("nats per token" in text for text in found)
    assert not any("prompts" in text for text in found)
    resident = dataclasses.replace(RUNS[0].candidate, bytes_per_token=None)
    nowhere = [Run(resident, True, RUNS[0].text, RUNS[0].prompts)]
    for nothing in ([], [run("a", 4, None)], nowhere):
        with pytest.raises(
            ConfigError, match="expected a run other than the reference, or prompts"
        ):
            save_plot(nothing, file)


def test_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        check_plot(tmp_path / "quality.txt")
    with pytest.raises(ConfigError, match="no such directory"):
        check_plot(tmp_path / "none" / "quality.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        save_plot(RUNS, tmp_path / "taken.png")


def test_without_matplotlib(tmp_path: Path) -> None:
    """A package of that name that cannot be imported stands for one that is not installed."""
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('not installed')")
    code = "from pathlib import Path; from flash_moe.eval.plot import check_plot; "
    variables = environment()
    variables["PYTHONPATH"] = f"{tmp_path}:{variables['PYTHONPATH']}"
    out = subprocess.run(
        [sys.executable, "-c", code + "check_plot(Path('a.png'))"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigError: [eval] --plot needs matplotlib" in out.stderr
    assert "pip install 'flash-moe[plot]'" in out.stderr
