"""Lets mlx-lm run this store, with --trust-remote-code."""

from pathlib import Path
from typing import Any

from flash_moe.loader import store_classes

Model, ModelArgs = store_classes(Path(__file__).parent)
