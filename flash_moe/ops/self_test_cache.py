"""Which self-tests have passed on this machine: a small JSON file in the user's cache directory.

Only passes are kept. The file is a convenience: one that cannot be read counts as empty, and one
that cannot be written is done without.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from flash_moe.files.atomic import write_json

_log = logging.getLogger(__name__)

# A machine has a few; the oldest go when kernels are edited again and again.
MAX_ENTRIES = 50


def cache_file() -> Path:
    """Where passes are remembered. It may be deleted at any time."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flash_moe")) / "self-test.json"


def has_passed(key: str) -> bool:
    """Whether the self-test with this key has passed before."""
    return key in _read()


def save_pass(key: str, about: dict[str, str]) -> None:
    """Note a pass.

    Args:
        about: What the key was made of, for people who look into the file.
    """
    passed = _read()
    passed.pop(key, None)
    passed[key] = about
    _write(dict(list(passed.items())[-MAX_ENTRIES:]))


def drop_pass(key: str) -> None:
    """Drop a pass: the same test has failed now."""
    passed = _read()
    if passed.pop(key, None) is not None:
        _write(passed)


def _read() -> dict[str, Any]:
    try:
        passed = json.loads(cache_file().read_text(encoding="utf-8"))["passed"]
        return dict(passed) if isinstance(passed, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write(passed: dict[str, Any]) -> None:
    """Replace the file in one step. Of two processes that write at once, one is forgotten."""
    file = cache_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"passed": passed}, private=True)
    except OSError as error:
        _log.info("the self-test cannot be remembered in %s: %s", file, error)
