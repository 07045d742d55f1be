"""The start of a group, without other processes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from flash_moe.errors import ConfigError
from flash_moe.ranks.group import Ranks


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
