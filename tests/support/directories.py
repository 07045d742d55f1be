"""Whole directories as bytes, and differences of two stores."""

from __future__ import annotations

from pathlib import Path

from flash_moe.store.manifest import MANIFEST_FILE


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a directory: relative name to bytes."""
    files = (f for f in sorted(root.rglob("*")) if f.is_file())
    return {str(f.relative_to(root)): f.read_bytes() for f in files}


def differences(one: Path, other: Path) -> list[str]:
    """Names of the files that differ; manifests differ by their source."""
    ours, theirs = contents(one), contents(other)
    names = sorted(ours.keys() | theirs.keys())
    return [n for n in names if n != MANIFEST_FILE and ours.get(n) != theirs.get(n)]
