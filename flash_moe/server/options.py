"""Options of a server, checked."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.options.sampling import SamplingParams

# Prompt caches of conversations that may go on, as a share of memory: on Qwen3.5-397B each takes
# 192 MB and 30 KB a token.
PROMPT_CACHE_SHARE = 1 / 16


@dataclass(frozen=True)
class ServeOptions:
    """How a server runs.

    Attributes:
        model: Path or repository, as ``load()`` takes it.
        streaming: Other arguments of ``load()``.
        aliases: More names of models that requests may ask for.
        api_key: What clients must show; ``None``: nothing.
        origins: Web pages that may call, as ``Origin`` headers name them; ``*`` for all.
        max_request_bytes: Of a request's body.
        max_queue: Requests that may wait while others are answered.
        timeout_s: Most seconds from a request's arrival to its answer's end.
        client_timeout_s: Most seconds that a client may take to send a request, or to take in what
            it was sent.
        shutdown_timeout_s: Seconds that answers have to end when the server is told to.
        sampling: Options of requests that leave them out.
        concurrency: Answers generated at once.
        prompt_cache_bytes: For prompts that may go on; ``None``: from memory.
        prompt_cache_entries: The same, counted.
        template_args: For the chat template, where a request does not say otherwise.
        strict_tools: Hold all tool calls to their schemas, not only where a request asks for it.
        ignore_unknown: Ignore fields of requests that are not known, instead of refusing.
    """

    model: str
    streaming: Mapping[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8080
    aliases: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
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
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
