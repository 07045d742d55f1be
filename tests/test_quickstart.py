"""The notebook runs from top to bottom, and what it stores is what it gives."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def executed(folder: Path) -> nbformat.NotebookNode:
    """Execute the notebook in a kernel of its own, in an empty directory."""
    node = nbformat.read(NOTEBOOK, as_version=4)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "IPYTHONDIR": str(folder / "ipython")}
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        node, timeout=300, kernel_name="python3", resources=resources, coalesce_streams=True
    )
    client.execute(env=environment)  # raises CellExecutionError with the trace of a cell
    return node


def outputs(node: nbformat.NotebookNode) -> str:
    shown = (o for cell in node.cells for o in cell.get("outputs", []))
    texts = (o.get("text") or "".join(map(str, o.get("data", {}).values())) for o in shown)
    return "\n".join(texts)


def test_every_cell_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    """One test, since a run takes long, and the workers of a parallel run share no fixture."""
    notebook = executed(tmp_path)
    text = outputs(notebook)
    for expected in ("FlashMoE(qwen3_5_moe", "demo model of flash_moe", "434", "tokens/s"):
        assert expected in text
    assert "{'city': 'Oslo', 'name': 'Anna', 'age': 31}" in text
    assert '"result": 434' in text
    assert "snow" in text.rpartition("-3")[2]
    pictures = [
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
    assert len(pictures[0]) > 5000
    stored = nbformat.read(NOTEBOOK, as_version=4)
    for cell, ran in zip(stored.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            assert [o.output_type for o in cell.outputs] == [o.output_type for o in ran.outputs]
    assert "434" in outputs(stored)
    assert "site-packages" not in outputs(stored)
