"""Tokenizers with mlx-lm's parsers, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from flash_moe.testing import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, 512)
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Any:
    """The toy tokenizer: thinking, and calls in the format of Qwen3.5."""
    return load_tokenizer(tokenizer_path, {})
