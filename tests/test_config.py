"""The fields of config.json that streaming needs, and files that are no config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_moe.config import ModelConfig, model_config, read_config
from flash_moe.errors import ConfigError, ModelNotFoundError, NotMoEError, UnsupportedModelError


def moe(**fields: Any) -> dict[str, Any]:
    return {"model_type": "m", "num_experts": 8, "num_experts_per_tok": 2, **fields}


@pytest.mark.parametrize("top_k", [0, -1, 9])
def test_top_k_is_checked_against_the_model(top_k: int) -> None:
    with pytest.raises(ConfigError, match="top_k: expected 1 to 8"):
        model_config(moe()).checked_top_k(top_k)
    assert model_config(moe()).checked_top_k(8) == 8
    assert model_config(moe()).checked_top_k(None) == 2


def test_model_configs() -> None:
    flat = model_config(moe(max_position_embeddings=99))
    assert flat == ModelConfig(flat.raw, "m", 8, 2, "num_experts_per_tok", False, 99)
    assert flat.override(2) == flat.override(None) == {}
    assert flat.override(3) == {"num_experts_per_tok": 3}
    nested = model_config({"model_type": "m", "text_config": moe(hidden_size=1)})
    assert (nested.nested, nested.n_experts, nested.max_context) == (True, 8, None)
    assert nested.override(1)["text_config"] == moe(hidden_size=1, num_experts_per_tok=1)
    with pytest.raises(NotMoEError, match="without experts"):
        model_config({"model_type": "llama", "num_experts": 0})
    with pytest.raises(UnsupportedModelError, match="no known key for experts per token"):
        model_config({"model_type": "m", "num_experts": 8})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": 3}', "\0"])
def test_a_config_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        read_config(tmp_path)
    with pytest.raises(ModelNotFoundError, match="not a directory"):
        read_config(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps(moe()))
    assert read_config(tmp_path) == moe()
