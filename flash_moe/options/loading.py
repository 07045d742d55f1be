"""Options of ``load()``: memory, reads and kernels of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.options.declare import check, declared, option

KERNEL_OPTIONS = ("auto", "off", "require")
CACHE_POLICIES = ("lru", "lrfu")
DIVIDE_OPTIONS = ("all", "experts")
IO_OPTIONS = ("buffered", "direct")
IO_RENAMED = {"cached": "buffered"}  # the old value works for one release

DEFAULT_IO_THREADS = 8
MAX_IO_THREADS = 256
MAX_IO_SPLIT = 64


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of ``load()``: memory, reads and kernels of one loaded model.

    ``None`` selects the default of the library, or a value from ``flash-moe doctor --tune``.

    Raises:
        ConfigError: A value is out of range, or two exclude each other.
    """

    cache_gb: float | None = option(
        None,
        "memory of the expert cache",
        "--cache-gb",
        unit="GB (10^9 bytes)",
        positive=True,
        group="memory",
        env=True,
        default="half of the machine's memory after the resident weights, at most all experts and "
        "the memory available now",
    )
    memory_gb: float | None = option(
        None,
        "memory limit of the whole process, which sets the sizes of the expert cache and of "
        "prefill chunks; excludes cache_gb",
        "--memory-gb",
        unit="GB (10^9 bytes)",
        positive=True,
        group="memory",
        env=True,
    )
    host_cache_gb: float | None = option(
        None,
        "pinned host memory for experts that do not fit the memory of an NVIDIA GPU",
        "--host-cache-gb",
        unit="GB (10^9 bytes)",
        positive=True,
        env=True,
        default="none: the page cache of the system keeps them",
    )
    top_k: int | None = option(
        None,
        "experts per token in each layer; fewer than the model's own is faster and not exact",
        "--top-k-experts",
        env=True,
        default="the model's own",
    )
    cache_policy: str = option(
        "lru",
        "eviction policy of the expert cache: least recently used (lru), or least recently and "
        "frequently used (lrfu)",
        "--cache-policy",
        choices=CACHE_POLICIES,
        env=True,
    )
    lookahead: bool = option(
        False,
        "prefetch the experts that the next layer's router names for this layer's hidden "
        "state; exact either way, wrong predictions cost reads",
        "--lookahead",
        env=True,
    )
    preload: bool = option(
        False,
        "read all experts while loading, into an expert cache that has room for them; then no "
        "pass waits for a router",
        "--preload",
        env=True,
    )
    io: str | None = option(
        None,
        "read experts through the page cache (buffered) or past it (direct, packed stores only)",
        "--io",
        choices=IO_OPTIONS,
        renamed=IO_RENAMED,
        env=True,
        default="buffered, or as tuned for this disk",
    )
    io_threads: int | None = option(
        None,
        "reader threads",
        "--io-threads",
        minimum=1,
        maximum=MAX_IO_THREADS,
        env=True,
        default=f"{DEFAULT_IO_THREADS}, or as tuned for this disk",
    )
    io_split: int | None = option(
        None,
        "parts of one expert, read by different threads",
        "--io-split",
        minimum=1,
        maximum=MAX_IO_SPLIT,
        env=True,
        default="1; more if fewer experts are missing than there are threads",
    )
    verify_reads: bool = option(
        False,
        "verify the checksum of each record that is read (packed stores only)",
        "--verify-reads",
        env=True,
    )
    kernels: str = option(
        "auto",
        "GPU kernels of this package: if their self-test passes (auto), never (off), or an error "
        "if they cannot be used (require)",
        "--kernels",
        choices=KERNEL_OPTIONS,
        env=True,
    )
    trace: str | Path | None = option(
        None,
        "file for the routing trace of the run, for flash-moe trace show",
        "--trace",
        metavar="FILE",
    )
    trace_events: str | Path | None = option(
        None,
        "file for the timeline of the run, for a trace viewer such as ui.perfetto.dev",
        "--trace-events",
        metavar="FILE",
    )
    group: Any = option(
        None,
        "mx.distributed.init(), to run the model on several machines (docs/distributed.md)",
        default="one machine",
    )
    divide: str = option(
        "all",
        "what several machines divide: all weights, or only those of the MoE blocks; then each "
        "machine holds the others whole, and a layer has one exchange instead of two",
        "--divide",
        choices=DIVIDE_OPTIONS,
        env=True,
    )
    peer_timeout: float = option(
        60.0,
        "longest wait for another of several machines, after which the process ends",
        "--peer-timeout",
        unit="seconds",
        positive=True,
        env=True,
    )
    revision: str | None = option(None, "branch, tag or commit of a repository")
    tokenizer_config: Mapping[str, Any] = option({}, "arguments of the tokenizer")

    def __post_init__(self) -> None:
        for name in ("trace", "trace_events"):
            if (file := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(file).expanduser())
        check(self, "config")
        if self.cache_gb is not None and self.memory_gb is not None:
            raise ConfigError(
                "config",
                f"cache_gb and memory_gb: expected one of them, got {self.cache_gb} and "
                f"{self.memory_gb}",
                "memory_gb limits the whole process and sets the size of the expert cache.",
            )
        if self.trace is not None and self.trace == self.trace_events:
            raise ConfigError(
                "config", f"trace and trace_events: expected two files, got {self.trace} twice"
            )

    @classmethod
    def merged(
        cls, environment: Mapping[str, Any], arguments: Mapping[str, Any] | None = None
    ) -> LoadOptions:
        """Return options from the environment, overridden by arguments.

        ``cache_gb`` and ``memory_gb`` exclude each other: an argument for either overrides both
        variables.

        Args:
            environment: Values by option name.
            arguments: Values by option name; ``None`` counts as not given.
        """
        given = {name: value for name, value in (arguments or {}).items() if value is not None}
        chosen = {declared(cls)[name].option.group for name in given} - {""}
        left = {n: v for n, v in environment.items() if declared(cls)[n].option.group not in chosen}
        return cls(**{**left, **given})
