"""The one seam, SwitchGLU, on other architectures of mlx-lm: tiny random weights, equal tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_moe import load
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from tests.support.architectures import CONFIGS, write_model
from tests.support.resident import Resident, budget_gb, prompt_ids


def assert_streamed_equals_resident(path: Path, tmp_path: Path) -> None:
    resident = Resident(path)
    pack(open_source(path), tmp_path / "store")
    expected = {n: resident.tokens(prompt_ids(n), 8) for n in (1, 37)}
    for source, share in ((path, "half"), (tmp_path / "store", "token")):
        with load(source, cache_gb=budget_gb(source, share)) as flash:
            for n, tokens in expected.items():
                answer = flash.generate(prompt_ids(n), max_tokens=8)
                assert list(answer.token_ids) == tokens
            assert answer.stats.stream.misses > 0


@pytest.mark.parametrize("model_type", CONFIGS)
def test_architecture(model_type: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model", model_type)
    assert_streamed_equals_resident(tmp_path / "model", tmp_path)


def test_mxfp4_experts(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "qwen3_moe", mode="mxfp4")
    assert_streamed_equals_resident(tmp_path / "model", tmp_path)
