"""All experiments, in the order in which they run: reads, models, counts, quality, kernels."""

from __future__ import annotations

from flash_moe.lab.experiment import Experiment
from flash_moe.lab.experiments import (
    bank_or_page_cache,
    bits_or_experts,
    compressed_records,
    dequantization_forms,
    eviction_policies,
    last_token_prefetch,
    lookahead,
    overlapped_or_serial,
    page_cache_or_direct,
    pread_or_mmap,
    reader_threads,
    record_or_scattered,
    record_split,
)

EXPERIMENTS: tuple[Experiment, ...] = tuple(
    module.EXPERIMENT
    for module in (
        pread_or_mmap,
        page_cache_or_direct,
        reader_threads,
        record_split,
        record_or_scattered,
        compressed_records,
        bank_or_page_cache,
        last_token_prefetch,
        lookahead,
        overlapped_or_serial,
        eviction_policies,
        bits_or_experts,
        dequantization_forms,
    )
)
