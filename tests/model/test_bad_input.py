"""load() on things that are no model, and options that do not fit: one clear sentence each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flash_moe import load
from flash_moe.errors import (
    BudgetError,
    ConfigError,
    CorruptFileError,
    ManifestError,
    ModelNotFoundError,
    NotMoEError,
    UnsupportedModelError,
)
from flash_moe.files.sizes import format_least_gb


def edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    config = json.loads(file.read_text())
    config.update(changes)
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such directory"):
        load(tmp_path / "nothing" / "here")


def test_no_such_repository() -> None:
    with pytest.raises(ModelNotFoundError, match="flash-moe pull nobody/nothing"):
        load("nobody/nothing")


def test_a_repository_in_the_local_cache(
    tiny_mlx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the hub's cache, as huggingface_hub writes it."""
    from huggingface_hub import constants

    repo = tmp_path / "models--somebody--tiny"
    shutil.copytree(tiny_mlx, repo / "snapshots" / "0123abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with load("somebody/tiny", cache_gb=0.1) as flash:
        assert flash.generate("abc", max_tokens=1).token_ids
    with pytest.raises(ModelNotFoundError):
        load("somebody/tiny", revision="other")


def test_empty_directory_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        load(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ModelNotFoundError, match="not a directory"):
        load(file)


def test_config_is_not_json(mlx_copy: Path) -> None:
    (mlx_copy / "config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="not valid JSON"):
        load(mlx_copy)


def test_model_without_experts(mlx_copy: Path) -> None:
    (mlx_copy / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    with pytest.raises(NotMoEError, match=r"llama model without experts.*mlx-lm"):
        load(mlx_copy)


def test_unknown_architecture(mlx_copy: Path) -> None:
    edit_config(mlx_copy, model_type="no_such_model")
    with pytest.raises(UnsupportedModelError, match="no_such_model"):
        load(mlx_copy)


def test_architecture_without_switch_glu(mlx_copy: Path) -> None:
    edit_config(
        mlx_copy,
        model_type="llama",
        num_experts=32,
        num_experts_per_tok=4,
        hidden_size=64,
        num_hidden_layers=1,
        intermediate_size=64,
        num_attention_heads=2,
        rms_norm_eps=1e-6,
        vocab_size=64,
    )
    with pytest.raises(UnsupportedModelError, match="switch layers"):
        load(mlx_copy)


def test_experts_a_token_unknown(mlx_copy: Path) -> None:
    config = json.loads((mlx_copy / "config.json").read_text())
    del config["text_config"]["num_experts_per_tok"]
    (mlx_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="experts per token"):
        load(mlx_copy)


def test_original_format(tiny_hf: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Hugging Face format.*flash-moe pack"):
        load(tiny_hf)


def test_missing_shard(mlx_copy: Path) -> None:
    shards = sorted(mlx_copy.glob("model-*.safetensors"))
    shards[1].unlink()
    with pytest.raises(ModelNotFoundError, match=rf"1 of {len(shards)} shards.*{shards[1].name}"):
        load(mlx_copy)


def test_truncated_shard(mlx_copy: Path) -> None:
    shard = sorted(mlx_copy.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=shard.name):
        load(mlx_copy)


def test_no_weights(mlx_copy: Path) -> None:
    for file in [*mlx_copy.glob("model*")]:
        file.unlink()
    with pytest.raises(ModelNotFoundError, match=r"no model\*\.safetensors"):
        load(mlx_copy)


def test_record_file_short_by_one_byte(store_copy: Path) -> None:
    file = store_copy / "experts" / "layer_002.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ManifestError, match=r"layer_002\.bin: expected 524288 bytes, got 524287"):
        load(store_copy)


def test_newer_format(store_copy: Path) -> None:
    file = store_copy / "flash_moe.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(ManifestError, match="expected format 1, got 2"):
        load(store_copy)


def test_store_of_another_model(store_copy: Path) -> None:
    file = store_copy / "flash_moe.json"
    table = json.loads(file.read_text())
    for row in table["layers"]:
        row["path"] = row["path"].replace("switch_mlp", "other_mlp")
    file.write_text(json.dumps(table))
    with pytest.raises(UnsupportedModelError, match=r"other_mlp.*found 0"):
        load(store_copy)


def test_store_that_lost_a_layer(store_copy: Path) -> None:
    file = store_copy / "flash_moe.json"
    table = json.loads(file.read_text())
    del table["layers"][3]
    file.write_text(json.dumps(table))
    with pytest.raises(UnsupportedModelError, match=r"no experts on disk for .*layers\.3\."):
        load(store_copy)


def test_budget_below_one_layer_of_one_token(tiny_store: Path) -> None:
    minimum = 4 * 16384
    with pytest.raises(BudgetError, match=f"at least {format_least_gb(minimum)}"):
        load(tiny_store, cache_gb=(minimum - 1) / 1e9)
    load(tiny_store, cache_gb=minimum / 1e9).close()
    load(tiny_store, cache_gb=minimum / 2e9, top_k=2).close()


@pytest.mark.parametrize("top_k", [0, -1, 33])
def test_top_k_out_of_range(tiny_store: Path, top_k: int) -> None:
    with pytest.raises(ConfigError, match=f"expected 1 to 32.*got {top_k}"):
        load(tiny_store, top_k=top_k)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_gb": 0},
        {"cache_gb": float("nan")},
        {"io_threads": 0},
        {"io_threads": 1000},
        {"kernels": "on"},
        {"io": "mmap"},
        {"io_split": 0},
    ],
    ids=str,
)
def test_bad_options(tiny_store: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        load(tiny_store, **options)


def test_environment(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_MOE_TOP_K", "2")
    monkeypatch.setenv("FLASH_MOE_CACHE_GB", "0.0005")
    with load(tiny_store) as flash:
        assert flash.model.top_k == 2
        assert flash.stats.bank_bytes <= 500_000
    with load(tiny_store, top_k=3, cache_gb=0.1) as flash:
        assert flash.model.top_k == 3
        assert flash.stats.bank_bytes == flash.stats.expert_bytes
    monkeypatch.setenv("FLASH_MOE_TOP_K", "two")
    with pytest.raises(ConfigError, match="FLASH_MOE_TOP_K: expected a whole number, got 'two'"):
        load(tiny_store)
