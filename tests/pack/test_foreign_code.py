"""No code that lies in a model directory or in a store runs, whatever the files beside it ask for.

The first test shows that the traps work, by mlx-lm and transformers that are told to trust.
"""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

from flash_moe.cli import main
from flash_moe.compat import mlx_lm as compat
from flash_moe.loader import load
from flash_moe.store.manifest import MANIFEST_FILE
from tests.support.processes import environment

# Has whatever its callers look for, so that only the mark tells that it ran.
TRAP = """
from pathlib import Path
Path({marks!r}, Path(__file__).stem).touch()
from transformers import PretrainedConfig as Config
from transformers import PreTrainedTokenizerFast as Tokenizer
if (Path(__file__).parent / "config.json").exists():
    from flash_moe.loader import store_classes
    Model, ModelArgs = store_classes(Path(__file__).parent)
"""
TRAPS = ("model_trap", "config_trap", "tokenizer_trap", "flash_moe_model")
SetTraps = Callable[[Path], None]


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Where each trap that runs leaves its name."""
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture
def set_traps(marks: Path, monkeypatch: pytest.MonkeyPatch) -> SetTraps:
    """Has a model directory ask in every way for its own code to be run."""
    # transformers copies what it runs to this place, and puts that first in the path.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(marks / "copy"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def edit(file: Path, **changes: Any) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def set_them(root: Path) -> None:
        for name in TRAPS:
            (root / f"{name}.py").write_text(TRAP.format(marks=str(marks)))
        edit(
            root / "config.json",
            model_file="model_trap.py",
            auto_map={"AutoConfig": "config_trap.Config"},
        )
        auto_map = {"AutoTokenizer": ["tokenizer_trap.Tokenizer", "tokenizer_trap.Tokenizer"]}
        edit(root / "tokenizer_config.json", auto_map=auto_map)

    return set_them


@pytest.fixture
def nothing_runs(marks: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No trap runs in this test, and nobody is asked whether it may."""
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail("somebody was asked"))
    yield
    assert list(marks.iterdir()) == []


@pytest.fixture
def hf_copy(tiny_hf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_hf, tmp_path / "hf"))


def trusting() -> dict[str, bool]:
    """How this mlx-lm is told that it may run a ``model_file``; old ones do so untold."""
    asks = "trust_remote_code" in inspect.signature(mlx_lm.load).parameters
    return {"trust_remote_code": True} if asks else {}


TRUSTING = """
import contextlib, json, sys
import mlx_lm
from transformers import AutoTokenizer
model, _ = mlx_lm.load(sys.argv[1], **json.loads(sys.argv[2]))
model.close()
with contextlib.suppress(Exception):
    AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


def test_the_traps_work(store_copy: Path, set_traps: SetTraps, marks: Path) -> None:
    set_traps(store_copy)
    # In a process of its own: what transformers loads so, it registers for the rest of its life.
    subprocess.run(
        [sys.executable, "-c", TRUSTING, store_copy, json.dumps(trusting())],
        env=environment(HF_MODULES_CACHE=str(marks / "copy")),
        timeout=120,
        check=True,
    )
    assert (marks / "model_trap").exists()
    assert (marks / "config_trap").exists()
    assert (marks / "tokenizer_trap").exists()


@pytest.mark.usefixtures("nothing_runs")
def test_a_store_is_used_without_its_code(
    store_copy: Path, set_traps: SetTraps, capsys: pytest.CaptureFixture[str]
) -> None:
    set_traps(store_copy)
    assert main(["info", str(store_copy)]) == 0
    assert main(["info", "--json", str(store_copy)]) == 0
    assert main(["verify", str(store_copy)]) == 1  # the traps are changes
    assert "flash_moe_model.py: expected" in capsys.readouterr().err
    with load(store_copy) as model:
        assert model.generate("hello", max_tokens=2).stats.generation_tokens > 0


@pytest.mark.usefixtures("nothing_runs")
def test_an_mlx_checkpoint_is_loaded_without_its_code(mlx_copy: Path, set_traps: SetTraps) -> None:
    set_traps(mlx_copy)
    with load(mlx_copy) as model:
        assert model.generate("hello", max_tokens=2).stats.generation_tokens > 0


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("kind", ["mlx_copy", "hf_copy"])
def test_a_checkpoint_is_packed_without_its_code(
    kind: str, request: pytest.FixtureRequest, set_traps: SetTraps, tmp_path: Path
) -> None:
    root: Path = request.getfixturevalue(kind)
    set_traps(root)
    store = tmp_path / "store"
    assert main(["pack", str(root), str(store)]) == 0
    assert main(["verify", str(store)]) == 0
    # Who trusts the code of a store trusts three lines of ours.
    assert [f.name for f in store.rglob("*.py")] == ["flash_moe_model.py"]
    assert "import store_classes" in (store / "flash_moe_model.py").read_text()
    assert "marks" not in (store / "flash_moe_model.py").read_text()
    assert json.loads((store / "config.json").read_text())["model_file"] == "flash_moe_model.py"


@pytest.mark.parametrize("kind", ["mlx_copy", "hf_copy"])
def test_a_store_does_not_ask_for_the_code_of_its_source(
    kind: str, request: pytest.FixtureRequest, set_traps: SetTraps, tmp_path: Path
) -> None:
    """``auto_map`` may name another repository, whose code would then be fetched and run."""
    root: Path = request.getfixturevalue(kind)
    set_traps(root)
    assert main(["pack", str(root), str(tmp_path / "store")]) == 0
    asking = [
        file.name
        for file in (tmp_path / "store").glob("*.json")
        if file.name != MANIFEST_FILE and "auto_map" in json.loads(file.read_text())
    ]
    assert asking == []


def test_transformers_is_told_to_run_nothing_and_not_to_ask(
    store_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that it does not know it asks, and waits, unless it is told."""
    told: list[Any] = []
    real = compat.load_tokenizer

    def note(path: Path, options: dict[str, Any], **more: Any) -> Any:
        told.append(options.get("trust_remote_code"))
        return real(path, options, **more)

    monkeypatch.setattr(compat, "load_tokenizer", note)
    load(store_copy).close()
    load(store_copy, tokenizer_config={"trust_remote_code": True}).close()
    assert told == [False, True]
