"""Tokenizers, made once a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.grammar_sampling import mixed_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With the parser of Qwen3-Coder; its tokens cross the borders of what grammars say."""
    return mixed_tokenizer(tmp_path_factory.mktemp("tokenizers") / "xml")


@pytest.fixture(scope="session")
def json_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same with calls in JSON."""
    path: Path = tmp_path_factory.mktemp("tokenizers") / "json"
    return mixed_tokenizer(path, "json_tools")
