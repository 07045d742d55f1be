"""The environment variables, in one table, parsed strictly.

They exist for the route where nobody calls :func:`flash_moe.load`: unmodified mlx-lm scripts that
run a packed store. An argument of ``load`` always wins. ``FLASH_MOE_KERNEL_DIR`` is for people who
edit a kernel. Nothing else in the package reads ``os.environ``.

| variable | meaning | default |
|---|---|---|
| ``FLASH_MOE_CACHE_GB`` | budget of the expert bank in GB (10^9 bytes) | from memory size |
| ``FLASH_MOE_MEMORY_GB`` | most memory of the whole process in GB; not with the one above | none |
| ``FLASH_MOE_TOP_K`` | experts a token, below or equal to the model's own | the model's own |
| ``FLASH_MOE_IO_THREADS`` | reader threads | 8, or as tuned |
| ``FLASH_MOE_IO`` | read through the page cache, ``cached``, or past it, ``direct`` | ``cached`` |
| ``FLASH_MOE_IO_SPLIT`` | parts that an expert is read in, by different threads | by need |
| ``FLASH_MOE_VERIFY_READS`` | 1: check the checksum of each record read | 0 |
| ``FLASH_MOE_CACHE_POLICY`` | which experts leave a full bank: ``lru`` or ``lrfu`` | ``lru`` |
| ``FLASH_MOE_LOOKAHEAD`` | 1: read ahead what the next layer's router names | 0 |
| ``FLASH_MOE_KERNELS`` | our GPU kernels: ``auto``, ``off`` or ``require`` | ``auto`` |
| ``FLASH_MOE_API_KEY`` | what clients of ``flash-moe serve`` must show | none |
| ``FLASH_MOE_STORES`` | directory of pulled stores | in the user's cache directory |
| ``FLASH_MOE_SESSIONS`` | directory of the chat's sessions | in the user's state directory |
| ``FLASH_MOE_KERNEL_DIR`` | directory with all kernel files, used for the shipped | the shipped |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from flash_moe.errors import ConfigError

T = TypeVar("T")

KERNEL_OPTIONS = ("auto", "off", "require")
CACHE_POLICIES = ("lru", "lrfu")
IO_OPTIONS = ("cached", "direct")


@dataclass(frozen=True)
class Environment:
    """What the environment asks for; ``None`` where it is silent."""

    cache_gb: float | None = None
    top_k: int | None = None
    io_threads: int | None = None
    verify_reads: bool | None = None
    kernels: str | None = None
    kernel_dir: Path | None = None
    io: str | None = None
    io_split: int | None = None
    cache_policy: str | None = None
    memory_gb: float | None = None
    lookahead: bool | None = None
    stores: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    sessions: Path | None = None


def _parse(
    environ: Mapping[str, str], name: str, convert: Callable[[str], T], expected: str
) -> T | None:
    text = environ.get(name)
    if text is None or text.strip() == "":
        return None
    try:
        return convert(text.strip())
    except (ValueError, KeyError):
        raise ConfigError(
            "env", f"{name}: expected {expected}, got {text!r}", "Correct it or unset it."
        ) from None


def _one_of(options: tuple[str, ...]) -> Callable[[str], str]:
    return lambda text: options[options.index(text.lower())]


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Read the ``FLASH_MOE_*`` variables.

    Raises:
        ConfigError: A value that does not parse; never silently ignored.
    """
    source = os.environ if environ is None else environ
    flags = {"0": False, "1": True, "false": False, "true": True}
    return Environment(
        cache_gb=_parse(source, "FLASH_MOE_CACHE_GB", float, "a number of GB"),
        memory_gb=_parse(source, "FLASH_MOE_MEMORY_GB", float, "a number of GB"),
        top_k=_parse(source, "FLASH_MOE_TOP_K", int, "a whole number"),
        io_threads=_parse(source, "FLASH_MOE_IO_THREADS", int, "a whole number"),
        verify_reads=_parse(
            source, "FLASH_MOE_VERIFY_READS", lambda text: flags[text.lower()], "0 or 1"
        ),
        kernels=_parse(
            source,
            "FLASH_MOE_KERNELS",
            _one_of(KERNEL_OPTIONS),
            f"one of {', '.join(KERNEL_OPTIONS)}",
        ),
        io=_parse(source, "FLASH_MOE_IO", _one_of(IO_OPTIONS), f"one of {', '.join(IO_OPTIONS)}"),
        io_split=_parse(source, "FLASH_MOE_IO_SPLIT", int, "a whole number"),
        stores=_parse(
            source, "FLASH_MOE_STORES", lambda text: Path(text).expanduser(), "a directory"
        ),
        sessions=_parse(
            source, "FLASH_MOE_SESSIONS", lambda text: Path(text).expanduser(), "a directory"
        ),
        api_key=_parse(source, "FLASH_MOE_API_KEY", str, "a text"),
        kernel_dir=_parse(source, "FLASH_MOE_KERNEL_DIR", Path, "a directory"),
        lookahead=_parse(source, "FLASH_MOE_LOOKAHEAD", lambda text: flags[text.lower()], "0 or 1"),
        cache_policy=_parse(
            source,
            "FLASH_MOE_CACHE_POLICY",
            _one_of(CACHE_POLICIES),
            f"one of {', '.join(CACHE_POLICIES)}",
        ),
    )
