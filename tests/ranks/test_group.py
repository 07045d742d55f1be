"""The start of a group, without other processes."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from flash_moe.compat.dtypes import on_cpu
from flash_moe.errors import ConfigError
from flash_moe.ranks.group import Ranks
from flash_moe.ranks.host import share_host


class _Group:
    def rank(self) -> int:
        return 1

    def size(self) -> int:
        return 2


@pytest.mark.parametrize(("n_gpus", "refused"), [(2, True), (1, False)])
def test_a_rank_of_nccl_sees_one_gpu(
    n_gpus: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    initialized = mx.distributed.init

    def init(strict: bool = False, backend: str = "any") -> Any:
        return _Group() if backend == "nccl" else initialized(strict, backend)

    monkeypatch.setattr(mx.distributed, "init", init)
    monkeypatch.setattr(mx, "device_count", lambda device: n_gpus)
    if refused:
        with pytest.raises(ConfigError, match="visible GPUs of a rank: expected 1, got 2"):
            Ranks(_Group(), 1.0)
    else:
        assert Ranks(_Group(), 1.0).size == 2


def test_a_rank_of_another_backend_may_see_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_count", lambda device: 2)
    assert Ranks(_Group(), 1.0).rank == 1


@pytest.mark.skipif(
    sys.platform != "linux" or not on_cpu(), reason="only on a CPU of Linux cores are divided"
)
def test_ranks_that_a_launcher_has_bound_keep_their_cores() -> None:
    before = os.sched_getaffinity(0)
    ranks: Any = SimpleNamespace(rank=0, n_on_machine=1, ring_threads=())
    ranks.texts = lambda own: [own, f"{own.split()[0]} 0", "another-machine 1"]
    share_host(ranks)
    assert os.sched_getaffinity(0) == before
    assert ranks.n_on_machine == 2
