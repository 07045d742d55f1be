"""Requests experts from a bank and compares them with the checkpoint, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.reading import Wave

RECORD, PAYLOAD, TOP_K = 16384, 15360, 4
TOKEN = 8 * TOP_K * RECORD  # bytes of one token's experts: four slots a layer
Tensors = dict[str, np.ndarray]


def fetch_and_compare(
    bank: ExpertBank, tensors: Tensors, layer: int, experts: Sequence[int]
) -> int:
    """Bring experts into slots and compare each of their bytes; return the number of waves."""
    seen: list[int] = []
    n_waves = 0
    for wave in bank.waves(layer, experts):
        n_waves += 1
        seen.extend(wave.experts)
        compare_wave(bank, wave, tensors, layer)
    assert sorted(seen) == sorted(experts)
    return n_waves


def compare_wave(bank: ExpertBank, wave: Wave, tensors: Tensors, layer: int) -> None:
    assert len(set(wave.slots)) == len(wave.experts)
    for name, view in wave.views.items():
        got = np.array(view)[list(wave.slots)]
        whole = tensors[f"{bank.layers[layer].path}.{name}"]
        assert got.tobytes() == whole[list(wave.experts)].tobytes()


def counts(bank: ExpertBank, layer: int) -> tuple[int, int, int]:
    stats = bank.stats().layers[layer]
    return stats.hits, stats.misses, stats.bytes_read
