"""Options of a server, validated."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.options.prompt_cache import PromptCacheOptions
from flash_moe.options.sampling import SamplingParams

# Prompt caches, as a share of memory: on Qwen3.5-397B each takes 192 MB and 30 KB per token.
PROMPT_CACHE_SHARE = 1 / 16


@dataclass(frozen=True)
class ServeOptions:
    """Options of a server.

    Attributes:
        model: Path or repository, as ``load()`` takes it.
        streaming: Other arguments of ``load()``.
        aliases: Further model names that requests may use.
        api_key: Key that clients must send; ``None``: no authentication.
        hosts: Further names of this machine that ``Host`` headers may have, if only this machine
            can reach the server.
        origins: Web origins that may call, as in ``Origin`` headers; ``*`` for all.
        max_request_bytes: Maximum size of a request body.
        max_queue: Maximum number of queued requests.
        timeout_s: Maximum time from the arrival of a request to the end of its answer.
        client_timeout_s: Maximum time for a client to send a request, or to accept response data.
        shutdown_timeout_s: Time for running requests to finish at a shutdown.
        sampling: Defaults for options that a request omits.
        concurrency: Requests decoded at once.
        prompt_cache_bytes: Memory for prompt caches; ``None``: a share of memory.
        prompt_cache_entries: Maximum number of prompt caches.
        prompt_caches_on_disk: Directory of prompt caches and its limit.
        template_args: Default chat template arguments; a request overrides them.
        strict_tools: Constrain the calls of every tool to its schema.
        ignore_unknown: Ignore unknown request fields instead of rejecting the request.
    """

    model: str
    streaming: Mapping[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8080
    aliases: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_request_bytes: int = 8_000_000
    max_queue: int = 16
    timeout_s: float = 1800.0
    client_timeout_s: float = 30.0
    shutdown_timeout_s: float = 10.0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    concurrency: int = 2
    prompt_cache_bytes: int | None = None
    prompt_cache_entries: int = 16
    prompt_caches_on_disk: PromptCacheOptions = field(default_factory=PromptCacheOptions)
    template_args: Mapping[str, Any] = field(default_factory=dict)
    strict_tools: bool = False
    ignore_unknown: bool = False

    def __post_init__(self) -> None:
        def expect(fits: bool, name: str, expected: str) -> None:
            if not fits:
                value = getattr(self, name)
                raise ConfigError("serve", f"{name}: expected {expected}, got {value!r}")

        expect(0 <= self.port <= 65535, "port", "0 to 65535")
        for name in ("max_request_bytes", "concurrency", "prompt_cache_entries"):
            expect(getattr(self, name) >= 1, name, "at least 1")
        for name in ("timeout_s", "client_timeout_s"):
            expect(getattr(self, name) > 0, name, "more than 0")
        for name in ("max_queue", "shutdown_timeout_s"):
            expect(getattr(self, name) >= 0, name, "0 or more")
        if self.prompt_cache_bytes is not None:
            expect(self.prompt_cache_bytes >= 0, "prompt_cache_bytes", "0 or more")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("serve", "api_key: expected printable ASCII characters")

    @property
    def local(self) -> bool:
        """True if only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
