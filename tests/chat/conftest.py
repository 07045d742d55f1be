"""Places for sessions and tools, and a model that is quick where its words are prepared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flash_moe.demo_model import STORE
from tests.support.architectures import write_model


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the tokenizer and the chat template of the demo model.

    Without recurrent layers, which take most of the time of the demo model on a CPU.
    """
    path = tmp_path_factory.mktemp("models") / "scripted"
    of_demo = json.loads((STORE / "config.json").read_text())["text_config"]
    kept = ("vocab_size", "max_position_embeddings")
    write_model(path, "qwen3_moe", **{name: of_demo[name] for name in kept})
    tokenizer = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for name in (*tokenizer, "generation_config.json"):
        shutil.copy(STORE / name, path / name)
    return path


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sessions"
    monkeypatch.setenv("FLASH_MOE_SESSIONS", str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that tools may see."""
    path = tmp_path / "folder"
    (path / "docs").mkdir(parents=True)
    (path / "docs" / "guide.md").write_text("# Guide\n")
    (path / "docs" / "notes.txt").write_text("one\ntwo\n")
    return path
