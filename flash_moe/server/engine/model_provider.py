"""mlx-lm's provider with our loader: one model, loaded in the thread that generates."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flash_moe.compat.mlx_lm import make_prompt_cache, server_module
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.hub.resolve import resolve
from flash_moe.loader import FlashMoE, load
from flash_moe.memory.plan import MAX_CHUNK
from flash_moe.memory.system import usable_memory
from flash_moe.server.options import PROMPT_CACHE_SHARE, ServeOptions

_mlx = server_module()


class Provider(_mlx.ModelProvider):  # type: ignore[misc, name-defined]
    """Loads the model of the options, and never another.

    Attributes:
        loaded: Set when the model is there, or will not come.
        error: Why it will not.
        flash: The model.
    """

    def __init__(self, options: ServeOptions) -> None:
        super().__init__(options.for_mlx_lm())
        self.options = options
        self._streaming = dict(options.streaming)
        self.cli_args.prompt_cache_bytes = self._prompt_cache_bytes()
        self.path = resolve(options.model)
        self.loaded = threading.Event()
        self.error: Exception | None = None
        self.flash: FlashMoE | None = None

    @property
    def name(self) -> str:
        """The model as ``/v1/models`` names it."""
        return self.options.model

    def serves(self, model: str) -> bool:
        """Whether a request that names this model is for the one that is served."""
        names = {self.name, "default_model", str(self.path.resolve()), Path(self.name).name}
        return model in names or model in self.options.aliases

    def load_default(self) -> None:
        try:
            super().load_default()
        except Exception as error:
            self.error = error
            raise
        finally:
            self.loaded.set()

    def _load(
        self, model_path: str, adapter_path: str | None = None, draft_model_path: str | None = None
    ) -> None:
        flash = load(self.path, **self._streaming)
        self.flash = flash
        self.model: Any = flash.model
        self.tokenizer: Any = flash.tokenizer
        self.processor = self.draft_model = None
        self.is_batchable = all(hasattr(c, "merge") for c in make_prompt_cache(flash.model))
        self.model_key = (model_path, adapter_path, draft_model_path)
        self.cli_args.prefill_step_size = max(flash.model.chunks_of(MAX_CHUNK, ()))

    def _prompt_cache_bytes(self) -> int:
        """Bytes for prompt caches; they are taken from ``memory_gb``."""
        limit = self._streaming.get("memory_gb")
        asked = self.options.prompt_cache_bytes
        if limit is None:
            return round(usable_memory() * PROMPT_CACHE_SHARE) if asked is None else asked
        n_bytes = round(limit * 1e9 * PROMPT_CACHE_SHARE) if asked is None else asked
        self._streaming["memory_gb"] = limit - n_bytes / 1e9
        if self._streaming["memory_gb"] <= 0:
            raise ConfigError(
                "serve",
                f"prompt caches of {format_bytes(n_bytes)}: expected less than memory_gb, {limit}",
            )
        return n_bytes

    def close(self) -> None:
        """Free the model; in the thread that loaded it."""
        if self.flash is not None:
            self.flash.close()
        self.model = self.tokenizer = None
