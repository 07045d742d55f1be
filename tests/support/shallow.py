"""The tiny model with half its layers, for folders whose tests compute: half the time.

A ``conftest.py`` that has these fixtures puts them in the place of those of the same name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.testing import PRESETS, write_hf_checkpoint, write_mlx_checkpoint

# Two delta nets and two attentions: what mixes up layers of a kind still shows.
SHALLOW = replace(PRESETS["tiny"], layers=4, full_attention_interval=2)


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shallow model in the Hugging Face format, float32. Do not change it."""
    path = tmp_path_factory.mktemp("models") / "tiny-hf"
    write_hf_checkpoint(path, SHALLOW)
    return path


@pytest.fixture(scope="session")
def tiny_mlx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shallow model in mlx format, 4-bit group 64. Do not change it."""
    path = tmp_path_factory.mktemp("models") / "tiny-mlx"
    write_mlx_checkpoint(path, SHALLOW)
    return path


@pytest.fixture(scope="session")
def tiny_store(tiny_mlx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shallow model packed. Do not change it; copy it first."""
    path = tmp_path_factory.mktemp("models") / "tiny-store"
    pack(open_source(tiny_mlx), path)
    return path
