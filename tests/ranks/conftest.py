"""The model that divides, whole and in parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rank_group import write_wide


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``mlx``, ``whole`` and ``parts``, for a group of 2. Do not change it."""
    root = tmp_path_factory.mktemp("wide")
    write_wide(root, 2)
    return root
