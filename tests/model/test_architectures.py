"""Every module of mlx-lm with switch layers: tiny random weights, streamed logits equal to the bit.

A new mlx-lm shows here what it broke: a module without a tiny config fails by name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mlx.core as mx
import mlx_lm.models
import numpy as np
import pytest

from flash_moe import load
from flash_moe.config import model_config, read_config
from flash_moe.errors import UnsupportedModelError
from flash_moe.ops import cpu_streams
from flash_moe.ops.kernel import backend
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import read_manifest
from tests.support import muse_spark_on_cpu
from tests.support.architectures import write_model
from tests.support.model_configs import CONFIGS, INSTALLED
from tests.support.processes import ROOT, run
from tests.support.resident import Resident, budget_gb, prompt_ids

SWITCH_LAYERS = re.compile(r"^from \.switch_layers import", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def muse_spark() -> None:
    muse_spark_on_cpu.install()


@pytest.fixture(autouse=True)
def every_part_has_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the small products here are divided among the cores too."""
    monkeypatch.setattr(cpu_streams, "MIN_PRODUCTS", 1)


def assert_streamed_equals_resident(path: Path, tmp_path: Path) -> None:
    resident = Resident(path)
    pack(open_source(path), tmp_path / "store")
    logits = {n: resident.logits(prompt_ids(n)) for n in (1, 37)}
    tokens = resident.tokens(prompt_ids(9), 6)
    for source, share, lookahead in (
        (path, "half", False),
        (tmp_path / "store", "token", False),
        (tmp_path / "store", "half", True),
    ):
        with load(source, cache_gb=budget_gb(source, share), lookahead=lookahead) as flash:
            for n, expected in logits.items():
                got = np.array(flash.model(mx.array([prompt_ids(n)])))
                if backend() is None:
                    assert np.array_equal(got, expected)
            answer = flash.generate(prompt_ids(9), max_tokens=6)
            assert list(answer.token_ids) == tokens
            assert flash.stats.misses > 0
            if lookahead:
                assert flash.stats.recall > 0.2  # of 16 experts 4 are chosen


@pytest.mark.parametrize("model_type", INSTALLED)
def test_architecture(model_type: str, tmp_path: Path) -> None:
    write_model(tmp_path / "model", model_type)
    assert_streamed_equals_resident(tmp_path / "model", tmp_path)


def test_every_module_with_switch_layers_has_a_tiny_model() -> None:
    folder = Path(mlx_lm.models.__path__[0])
    modules = {f.stem for f in folder.glob("*.py") if SWITCH_LAYERS.search(f.read_text())}
    assert len(modules) > 30
    assert modules <= set(CONFIGS)


@pytest.mark.skipif(len(INSTALLED) < len(CONFIGS), reason="the table is of a newer mlx-lm")
def test_the_docs_have_a_row_for_each() -> None:
    done = run(sys.executable, ROOT / "scripts" / "models_table.py", "--check")
    assert done.returncode == 0, done.stderr


def test_mxfp4_experts(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "qwen3_moe", mode="mxfp4")
    assert_streamed_equals_resident(tmp_path / "model", tmp_path)


def test_other_prefixes_of_tensor_names(tmp_path: Path) -> None:
    """Some publish qwen3_5_moe with Hugging Face's prefix; mlx-lm's sanitize renames it."""
    path = tmp_path / "model"
    write_model(path, "qwen3_5_moe")
    file = path / "model.safetensors"
    prefixes = ("language_model.model.", "model.language_model.")
    renamed = {name.replace(*prefixes): w for name, w in dict(mx.load(str(file))).items()}  # type: ignore[union-attr]
    mx.eval(renamed)
    (path / "model.safetensors.index.json").unlink()
    mx.save_safetensors(str(file), renamed)
    assert_streamed_equals_resident(path, tmp_path)
    assert read_manifest(tmp_path / "store").layers[0].path.startswith(prefixes[0])


@pytest.mark.parametrize("top_k", [None, 2, 1])
def test_experts_per_token_of_each_layer(top_k: int | None, tmp_path: Path) -> None:
    """Lists in the config, as hunyuan is published: 4, 4, 2 and 4 experts."""
    write_model(tmp_path, "hunyuan")
    config = model_config(read_config(tmp_path))
    assert config.top_k == 4
    resident = Resident(tmp_path, **config.override(top_k))
    with load(tmp_path, cache_gb=budget_gb(tmp_path, "token"), top_k=top_k) as flash:
        got = np.array(flash.model(mx.array([prompt_ids(5)])))
    if backend() is None:
        assert np.array_equal(got, resident.logits(prompt_ids(5)))
    chosen = config.override(top_k).get("moe_topk", config.raw["moe_topk"])
    assert chosen == [min(k, top_k or 4) for k in (4, 4, 2, 4)]


def test_experts_outside_of_switch_layers() -> None:
    dbrx = {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}}
    with pytest.raises(UnsupportedModelError, match=r"dbrx has experts .*moe_num_experts is 16"):
        model_config(dbrx)
