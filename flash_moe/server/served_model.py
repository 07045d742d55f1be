"""Model of a server: names, load options and memory of prompt caches."""

from __future__ import annotations

from pathlib import Path

from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.generation.engine import Engine
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load
from flash_moe.memory.system import usable_memory
from flash_moe.server.options import PROMPT_CACHE_SHARE, ServeOptions


class ServedModel:
    """Names and load options of the served model.

    Attributes:
        name: Model name in ``/v1/models``.
        prompt_cache_bytes: Limit of the prompt caches; taken from ``memory_gb``.

    Raises:
        ModelNotFoundError: The model does not exist.
        ConfigError: The prompt caches use up ``memory_gb``.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.name = options.model
        self._options = options
        self._load_options = dict(options.streaming)
        self.prompt_cache_bytes = self._prompt_cache_bytes()
        self._path = resolve(options.model)

    def serves(self, model: str) -> bool:
        """Return true if ``model`` names the served model."""
        names = {self.name, "default_model", str(self._path.resolve()), Path(self.name).name}
        return model in names or model in self._options.aliases

    def start_engine(self) -> Engine:
        """Return an engine that loads the model in its own thread."""
        return Engine(
            lambda: load(self._path, **self._load_options),
            concurrency=self._options.concurrency,
            cache_entries=self._options.prompt_cache_entries,
            cache_bytes=self.prompt_cache_bytes,
        )

    def _prompt_cache_bytes(self) -> int:
        limit = self._load_options.get("memory_gb")
        requested = self._options.prompt_cache_bytes
        if limit is None:
            return round(usable_memory() * PROMPT_CACHE_SHARE) if requested is None else requested
        n_bytes = round(limit * 1e9 * PROMPT_CACHE_SHARE) if requested is None else requested
        self._load_options["memory_gb"] = limit - n_bytes / 1e9
        if self._load_options["memory_gb"] <= 0:
            raise ConfigError(
                "serve",
                f"prompt caches of {format_bytes(n_bytes)}: expected less than memory_gb, {limit}",
            )
        return n_bytes
