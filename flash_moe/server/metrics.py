"""Metrics of a server in the Prometheus format."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from flash_moe.generation.engine import Engine
from flash_moe.memory.system import peak_memory, resident_memory

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Buckets from a small model in memory to 397 billion parameters on a slow disk.
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_RATES = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)

# Counters of each of several machines: name, help text, attribute of RankStats.
_BY_RANK = (
    ("expert_bytes_read", "Expert bytes read from the disk of a rank.", "bytes_read"),
    ("expert_hits", "Expert lookups of a rank that hit its cache.", "hits"),
    ("expert_misses", "Expert lookups of a rank that missed its cache.", "misses"),
    ("wait_seconds", "Time that the layers of a rank waited for its reads.", "wait_s"),
    ("peer_wait_seconds", "Time that a rank waited for reads of slower ranks.", "peer_wait_s"),
)


class Metrics:
    """Metrics of one server in their own registry."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"flash_moe_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"flash_moe_{name}", text, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests by path and HTTP status.", ("path", "status"))
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens, cached or not.")
        self.cached_tokens = counter(
            "cached_prompt_tokens", "Prompt tokens taken from prompt caches."
        )
        self.generated_tokens = counter("generated_tokens", "Generated tokens.")
        self.ended = counter("ended_answers", "Answers by finish reason.", ("reason",))
        self.first_token = histogram(
            "time_to_first_token_seconds", "Time from arrival to first token.", _SECONDS
        )
        self.rate = histogram("tokens_per_second", "Decoding speed per answer.", _RATES)
        self.registry.register(_State(engine))

    def text(self) -> bytes:
        """Return the response body of ``/metrics``."""
        return generate_latest(self.registry)


class _State:
    """Collector of values that the engine and the process hold, read at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"flash_moe_{name}", text, value=value)

        def counter(name: str, text: str, value: float) -> Metric:
            return CounterMetricFamily(f"flash_moe_{name}", text, value=value)

        yield gauge("requests_running", "Running requests.", self._engine.n_running)
        yield gauge("requests_waiting", "Queued requests.", self._engine.n_queued)
        yield gauge("resident_memory_bytes", "Resident memory of this process.", resident_memory())
        yield gauge("peak_memory_bytes", "Peak memory of this process.", peak_memory())
        caches = self._engine.caches.memory
        if caches is not None:
            yield gauge("prompt_cache_bytes", "Memory of prompt caches.", caches.nbytes)
            yield gauge("prompt_cache_entries", "Prompt caches.", len(caches))
        disk = self._engine.caches.disk
        hits, tokens, n_bytes = (disk.hits, disk.hit_tokens, disk.n_bytes) if disk else (0, 0, 0)
        yield counter("prompt_cache_disk_hits", "Prompt caches loaded from disk.", hits)
        yield counter("prompt_cache_disk_tokens", "Prompt tokens taken from disk.", tokens)
        yield gauge("prompt_cache_disk_bytes", "Size of prompt caches on disk.", n_bytes)
        flash = self._engine.flash
        if flash is None:
            return
        stats = flash.stats
        yield counter("expert_bytes_read", "Expert bytes read from disk.", stats.bytes_read)
        yield counter("expert_hits", "Expert lookups that hit the cache.", stats.hits)
        yield counter("expert_misses", "Expert lookups that missed the cache.", stats.misses)
        yield counter("expert_host_hits", "Misses that the second tier served.", stats.host_hits)
        yield counter("expert_bytes_copied", "Bytes copied to a GPU.", stats.bytes_copied)
        yield counter("bank_shrinks", "Times the expert cache released memory.", stats.shrinks)
        yield gauge("expert_hit_rate", "Hits per lookup, since loading.", stats.hit_rate)
        yield gauge("bank_bytes", "Memory of the expert cache.", stats.bank_bytes)
        yield gauge("expert_bytes", "Size of all experts of the model.", stats.expert_bytes)
        for name, text, field in _BY_RANK:
            by_rank = CounterMetricFamily(f"flash_moe_rank_{name}", text, labels=["rank"])
            for rank in stats.ranks:
                by_rank.add_metric([str(rank.rank)], getattr(rank, field))
            if stats.ranks:
                yield by_rank
