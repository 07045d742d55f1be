"""Environment variables, parsed strictly. No other module reads ``os.environ``.

Variables for options of ``load()`` serve unmodified mlx-lm scripts, which run a packed store
without calling ``load()``. An argument always wins over its variable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.options.declare import declared, option
from flash_moe.options.loading import LoadOptions
from flash_moe.options.prompt_cache import PromptCacheOptions


@dataclass(frozen=True)
class Environment:
    """Values of the environment variables; ``None``, or absent from ``load``, if unset.

    Attributes:
        load: Options of ``load()``, by name.
        prompt_caches: Options of the prompt caches on disk, by name.
    """

    load: Mapping[str, Any] = field(default_factory=dict)
    prompt_caches: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = option(
        None, "API key that clients of flash-moe serve must send", env=True, repr=False
    )
    stores: Path | None = option(
        None, "directory of pulled stores", env=True, default="in the user's cache directory"
    )
    sessions: Path | None = option(
        None, "directory of chat sessions", env=True, default="in the user's state directory"
    )
    kernel_dir: Path | None = option(
        None, "directory of edited kernels, with all kernel files", env=True, default="shipped"
    )


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Read the ``FLASH_MOE_*`` variables.

    Raises:
        ConfigError: A value does not parse; names the variable.
    """
    source = os.environ if environ is None else environ
    return Environment(
        _values(LoadOptions, source),
        _values(PromptCacheOptions, source),
        **_values(Environment, source),
    )


def launched_rank(environ: Mapping[str, str] | None = None) -> int | None:
    """Return the rank that ``mlx.launch`` or ``mpirun`` has given this process, or ``None``."""
    source = os.environ if environ is None else environ
    ranks = (source.get(name, "") for name in ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"))
    return next((int(rank) for rank in ranks if rank.isdigit()), None)


def load_options(**arguments: Any) -> LoadOptions:
    """Return the options of ``load()`` from arguments, then from the environment."""
    return LoadOptions.merged(read_environment().load, arguments)


def prompt_cache_options(**arguments: Any) -> PromptCacheOptions:
    """Return the options of prompt caches on disk from arguments, then from the environment."""
    return PromptCacheOptions(**{**read_environment().prompt_caches, **arguments})


def _values(options: type, environ: Mapping[str, str]) -> dict[str, Any]:
    parsed = {}
    for name, each in declared(options).items():
        text = environ.get(each.variable, "").strip() if each.option.env else ""
        if not text:
            continue
        try:
            parsed[name] = each.parse(text)
        except ValueError as error:
            raise ConfigError(
                "env",
                f"{each.variable}: expected {error}, got {environ[each.variable]!r}",
                "Correct it or unset it.",
            ) from None
    return parsed
