"""Cache of passed self-tests: a small JSON file in the user's cache directory.

Only passes are saved, with the times that were measured after them. The file is optional: an
unreadable file counts as empty, and a failed write is only logged.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from flash_moe.files.atomic import write_json

_log = logging.getLogger(__name__)

# A machine has a few; repeated edits of kernels add more, and the oldest are dropped.
MAX_ENTRIES = 50


def cache_file() -> Path:
    """Path of the file with the passes. It may be deleted at any time."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flash_moe")) / "self-test.json"


def has_passed(key: str) -> bool:
    """True if the self-test with this key has passed before."""
    return key in _read()


def save_pass(key: str, about: dict[str, str]) -> None:
    """Save a pass.

    Args:
        about: Readable parts of the key, for users who inspect the file.
    """
    passed = _read()
    times = _times(passed.pop(key, None))
    passed[key] = {**about, "times": times} if times else about
    _write(dict(list(passed.items())[-MAX_ENTRIES:]))


def drop_pass(key: str) -> None:
    """Remove a saved pass, after the same test failed."""
    passed = _read()
    if passed.pop(key, None) is not None:
        _write(passed)


def saved_times(key: str, layout: str) -> dict[str, list[float]] | None:
    """Return the saved times of a layout: case to seconds by our kernels and by MLX."""
    times = _times(_read().get(key)).get(layout)
    if not isinstance(times, dict):
        return None
    complete = all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, float) for s in pair)
        for pair in times.values()
    )
    return times if complete else None


def save_times(key: str, layout: str, times: dict[str, list[float]]) -> None:
    """Add the times of a layout to a saved pass. Times that are there stay."""
    passed = _read()
    if key in passed and saved_times(key, layout) is None:
        passed[key] = {**passed[key], "times": {**_times(passed[key]), layout: times}}
        _write(passed)


def _times(about: Any) -> dict[str, Any]:
    times = about.get("times") if isinstance(about, dict) else None
    return times if isinstance(times, dict) else {}


def _read() -> dict[str, Any]:
    try:
        passed = json.loads(cache_file().read_text(encoding="utf-8"))["passed"]
        return dict(passed) if isinstance(passed, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write(passed: dict[str, Any]) -> None:
    """Replace the file atomically. If two processes write at once, one update is lost."""
    file = cache_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"passed": passed}, private=True)
    except OSError as error:
        _log.info("the result of the self-test cannot be saved in %s: %s", file, error)
