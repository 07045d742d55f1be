"""Options of the prompt caches on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flash_moe.options.declare import check, option


@dataclass(frozen=True, kw_only=True)
class PromptCacheOptions:
    """Directory of prompt caches and its size.

    Raises:
        ConfigError: A value is out of range.
    """

    prompt_cache_dir: Path | None = option(
        None,
        "directory of the prompt caches on disk",
        "--prompt-cache-dir",
        metavar="DIR",
        env=True,
        default="chat and serve: in the user's cache directory; Conversation(): none on disk",
    )
    prompt_cache_disk_gb: float = option(
        8.0,
        "maximum size of that directory; 0 keeps no prompt caches on disk",
        "--prompt-cache-disk-gb",
        unit="GB (10^9 bytes)",
        minimum=0,
        env=True,
    )

    def __post_init__(self) -> None:
        check(self, "prompt cache")
