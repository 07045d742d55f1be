"""Setup of huggingface_hub for a fake hub: in this process, and in a separate one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from flash_moe.hub import retry
from tests.support.processes import environment


def go_online(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Allow this process to use hubs, without the user's token, cache and telemetry.

    The environment is read when huggingface_hub is imported, and the tests import it offline.
    """
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))


def talk_to(url: str, patch: pytest.MonkeyPatch, home: Path) -> None:
    """Restrict this process to the hub at ``url``, with retries without a wait."""
    go_online(patch, home)
    patch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(retry, "WAITS", (0.0,) * 5)


def small_chunks(patch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """Have huggingface_hub write and resume in chunks of so many bytes, not 10 MiB.

    A chunk that the connection's end leaves unfinished is lost.
    """
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", n_bytes)


def no_waiting(patch: pytest.MonkeyPatch) -> list[float]:
    """Make huggingface_hub retry without a wait. It has no setting for that.

    Returns:
        A list that takes the seconds it would have waited.
    """
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, time=time.time)
    patch.setattr("huggingface_hub.file_download.time", clock)
    patch.setattr("huggingface_hub.utils._http.time", clock)
    return waits


def hub_environment(url: str, home: Path, **extra: str) -> dict[str, str]:
    """The environment of a process that uses only the hub at ``url``."""
    kept = {n: value for n, value in environment().items() if not n.startswith("HF_")}
    return {
        **kept,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **extra,
    }


def start_python(code: str, url: str, home: Path, **extra: str) -> subprocess.Popen[str]:
    """Python code in a separate process, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=hub_environment(url, home, **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
