"""Non-weight files of a store: tokenizer, templates, config, and our model file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flash_moe.files.atomic import atomic_file, sync_directory, write_json
from flash_moe.files.json_file import read_json
from flash_moe.pack.sources.base import PackSource
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE

MODEL_FILE = "flash_moe_model.py"
MODEL_FILE_TEXT = '''"""Lets mlx-lm run this store, with --trust-remote-code."""

from pathlib import Path
from typing import Any

from flash_moe.loader import store_classes

Model, ModelArgs = store_classes(Path(__file__).parent)
'''
AUXILIARY_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "README.md")
_NOT_COPIED = {"config.json", "model.safetensors.index.json", MANIFEST_FILE, PARTIAL_FILE}


def auxiliary_paths(root: Path) -> set[Path]:
    """Return the auxiliary files of a directory."""
    return {file for each in AUXILIARY_FILES for file in root.glob(each) if file.is_file()}


def write_auxiliary_files(
    source: PackSource, dst: Path, only: frozenset[str] | None = None
) -> list[str]:
    """Copy the auxiliary files and write the config of the store, atomically and synced.

    Args:
        only: Names of the files to write; ``None`` writes all.

    Returns:
        The names of all non-weight files, in order.
    """
    files = auxiliary_paths(source.root)
    copied = {file.name: file for file in files if file.name not in _NOT_COPIED}
    names = sorted({*copied, "config.json", MODEL_FILE})
    for name in names:
        if only is not None and name not in only:
            continue
        if name == MODEL_FILE:
            with atomic_file(dst / name) as out:
                out.write(MODEL_FILE_TEXT.encode())
        elif name == "config.json":
            write_json(dst / name, {**_without_code(source.config), "model_file": MODEL_FILE})
        else:
            _copy(copied[name], dst / name)
    sync_directory(dst)
    return names


def _copy(file: Path, to: Path) -> None:
    """Copy a file; drop references to code from JSON, because trusting the store would run it."""
    if file.suffix == ".json":
        try:
            table = read_json(file)
        except ValueError:  # too large, or a list
            table = {}
        if "auto_map" in table:
            write_json(to, _without_code(table))
            return
    with open(file, "rb") as stream, atomic_file(to) as out:
        shutil.copyfileobj(stream, out)


def _without_code(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "auto_map"}
