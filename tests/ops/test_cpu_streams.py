"""Rows in parts on several streams of the CPU: the same bits for any number of them."""

from __future__ import annotations

import threading

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.compat.threads import clear_streams_at_thread_end
from flash_moe.ops import cpu_streams
from flash_moe.ops.expert_mlp import ExpertMLP
from flash_moe.ops.kernel import backend
from flash_moe.stream.slab import Slab
from flash_moe.testing.random_experts import random_experts
from tests.support import cores

pytestmark = pytest.mark.skipif(backend() is not None, reason="streams of a CPU")
EXPERTS = random_experts(64, 64, 5, bits=4, group_size=32, scale_dtype=mx.bfloat16)


n_cores = cores.n_cores


def outputs() -> list[bytes]:
    """A token, several tokens and sorted rows."""
    slab = Slab(5, EXPERTS.layout.record_bytes)
    for slot, record in enumerate(EXPERTS.words.reshape(5, -1)):
        slab.write(slot, record.tobytes())
    mlp = ExpertMLP(EXPERTS.layout, lambda up, gate: gate * mx.sigmoid(gate) * up)
    x = mx.array(np.random.RandomState(0).standard_normal((12, 64)).astype(np.float32))
    views, found = slab.views(EXPERTS.layout), []
    for rows, slots in ((1, [[0, 3, 4]]), (2, [[1, 2], [4, 1]])):
        ids = np.array(slots, np.uint32)
        found.append(mlp(mx.expand_dims(x[:rows], (-2, -3)), ids, views))
    ids = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3, 4], np.uint32)
    found.append(mlp(x[:, None], ids, views, sorted_slots=True))
    return [np.array(y).tobytes() for y in found]


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    return outputs()  # too few products for a second stream


def test_bits(expected: list[bytes], n_cores: int) -> None:
    assert cpu_streams.n_streams(12, 64) == n_cores
    assert outputs() == expected


def test_parts(n_cores: int) -> None:
    """Every row once, in at most as many parts as cores, none of them empty."""
    parts: list[tuple[int, int]] = []

    def compute(first: int, last: int) -> mx.array:
        parts.append((first, last))
        return mx.arange(first, last)

    for n_rows in (1, 2, 9):
        parts.clear()
        y = cpu_streams.on_all_cores(compute, n_rows, 1, axis=0)
        assert y.tolist() == list(range(n_rows))
        assert len(parts) == min(n_rows, n_cores)
        assert all(first < last for first, last in parts)
    parts.clear()
    cpu_streams.on_all_cores(compute, 9, 0, axis=0)
    assert parts == [(0, 9)]


def test_each_thread_has_its_own_streams(
    expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_streams, "MIN_PRODUCTS", 1)
    found = []

    def run() -> None:
        clear_streams_at_thread_end()
        found.append(outputs())

    for _ in range(3):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert found == [expected] * 3
