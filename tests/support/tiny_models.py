"""Session fixtures of a small model as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flash_moe.testing import Geometry, write_hf_checkpoint, write_mlx_checkpoint


def model_fixtures(preset: Geometry) -> tuple[Any, Any, Any]:
    """Return the fixtures ``tiny_hf``, ``tiny_mlx`` and ``tiny_store`` of a model."""

    @pytest.fixture(scope="session")
    def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The model in the Hugging Face format, float32. Do not change it."""
        path = tmp_path_factory.mktemp("models") / "tiny-hf"
        write_hf_checkpoint(path, preset)
        return path

    @pytest.fixture(scope="session")
    def tiny_mlx(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The model in mlx format, 4-bit group 64. Do not change it."""
        path = tmp_path_factory.mktemp("models") / "tiny-mlx"
        write_mlx_checkpoint(path, preset)
        return path

    @pytest.fixture(scope="session")
    def tiny_store(tiny_mlx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The model packed. Do not change it; copy it first."""
        from flash_moe.pack.packer import pack
        from flash_moe.pack.sources.open_source import open_source

        path = tmp_path_factory.mktemp("models") / "tiny-store"
        pack(open_source(tiny_mlx), path)
        return path

    return tiny_hf, tiny_mlx, tiny_store
