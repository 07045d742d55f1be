"""Formats that people publish: packed and loaded in place with the bits that mlx-lm loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx_lm
import pytest

from flash_moe import load
from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.reader import RecordReader
from flash_moe.store.verify import verify
from tests.support.architectures import skip_on_old_mlx_lm
from tests.support.formats import (
    DEEPSEEK,
    GLM,
    GPT_OSS,
    KIMI_K3,
    MINIMAX,
    MIXTRAL,
    OLMOE,
    QWEN,
    Weights,
    assert_same_bits,
    awq,
    per_expert,
    quantized_by,
    renamed,
    write,
)
from tests.support.hf_originals import write_original
from tests.support.resident import Resident, budget_gb, prompt_ids

LAST = "language_model.model.layers.1.block_sparse_moe"


def fused(w: Weights) -> Weights:
    """As some publish MiniMax-M3: gate and up in one stack."""
    for part in ("weight", "scales", "biases"):
        halves = [w.pop(f"{LAST}.switch_mlp.{p}.{part}") for p in ("gate_proj", "up_proj")]
        w[f"{LAST}.switch_mlp.gate_up_proj.{part}"] = mx.concatenate(halves, axis=-2)
    return w


def folded(w: Weights) -> Weights:
    """As some publish MiniMax-M3: the shared expert as one more expert."""
    for projection in ("gate_proj", "up_proj", "down_proj"):
        for part in ("weight", "scales", "biases"):
            shared = w.pop(f"{LAST}.shared_experts.{projection}.{part}")
            name = f"{LAST}.switch_mlp.{projection}.{part}"
            w[name] = mx.concatenate([w[name], shared[None]])
    return w


def gpt_oss(w: Weights) -> Weights:
    """As OpenAI publishes it: blocks of mxfp4, rows of gate and up in turn."""
    for layer in range(2):
        path = f"model.layers.{layer}.mlp.experts"
        for part, name in (("weight", "blocks"), ("scales", "scales"), ("bias", "bias")):
            gate, up, down = (w.pop(f"{path}.{p}_proj.{part}") for p in ("gate", "up", "down"))
            both = mx.stack([gate, up], axis=2).flatten(1, 2)
            for array, to in ((both, "gate_up_proj"), (down, "down_proj")):
                if part == "weight":
                    array = array.view(mx.uint8)
                    array = array.reshape(*array.shape[:-1], -1, 16)
                w[f"{path}.{to}_{name}"] = array
    return w


def int4(w: Weights) -> Weights:
    """As Moonshot publishes Kimi-K2: compressed-tensors, symmetric int4 in groups of 32."""
    out = {}
    for name, array in per_expert()(w).items():
        base, _, part = name.rpartition(".")
        if ".experts." not in name:
            out[name] = array
        elif part == "weight":
            out[f"{base}.weight_packed"] = array.view(mx.int32)
            out[f"{base}.weight_shape"] = mx.array([64, 64])
        elif part == "scales":
            out[f"{base}.weight_scale"] = array
    return out


def mxfp4(w: Weights) -> Weights:
    """As Moonshot publishes Kimi-K3."""
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    out = {}
    for name, array in renamed((r"\.mlp\.experts\.", ".block_sparse_moe.experts."))(
        per_expert(**names)(w)
    ).items():
        if ".experts." in name and name.endswith(".weight"):
            out[name.replace(".weight", ".weight_packed")] = array.view(mx.uint8)
        else:
            out[name.replace(".scales", ".weight_scale")] = array
    return out


def mxfp8(w: Weights) -> Weights:
    """As MiniMax publishes M3: bytes, which safetensors calls F8_E4M3, and their exponents."""
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    out = {}
    for name, array in per_expert(**names)(w).items():
        base, _, part = name.rpartition(".")
        if f"{base}.scales" in out or part == "scales" or array.dtype == mx.uint32:
            out[f"{base}.weight_scale_inv" if part == "scales" else name] = (
                array.view(mx.uint8) if part == "weight" else array
            )
        else:
            out[name] = array
    return out


def compressed(form: str) -> dict[str, object]:
    if form.startswith("nvfp4"):
        skip_on_old_mlx_lm(form)
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": form}}


def modelopt(path: Path) -> Path:
    skip_on_old_mlx_lm("modelopt")
    write(path, QWEN, mode="nvfp4", group_size=16, drop=("quantization", "quantization_config"))
    quantization = {"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4"}}
    (path / "hf_quant_config.json").write_text(json.dumps(quantization))
    return path


W123 = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
QUANTIZATION = ("quantization",)
# Name to (checkpoint, True if its experts can be read in place).
FORMATS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "nvfp4": (lambda p: write(p, QWEN, mode="nvfp4", group_size=16), True),
    "nvfp4 experts": (
        lambda p: write(p, GLM, mode="nvfp4", group_size=16, experts_only=True),
        True,
    ),
    "nvfp4 of modelopt": (modelopt, True),
    "nvfp4 of compressed-tensors": (
        lambda p: write(
            p,
            GLM,
            per_expert(),
            mode="nvfp4",
            group_size=16,
            changes=compressed("nvfp4-pack-quantized"),
            drop=QUANTIZATION,
        ),
        True,
    ),
    "1 bit": (lambda p: write(p, GLM, bits=1, group_size=64, experts_only=True), True),
    "mixtral, one tensor per expert": (lambda p: write(p, MIXTRAL, per_expert(**W123)), True),
    "glm4_moe, one tensor per expert": (lambda p: write(p, GLM, per_expert()), True),
    "olmoe, one tensor per expert": (lambda p: write(p, OLMOE, per_expert(), bits=8), True),
    "deepseek_v3, one tensor per expert": (lambda p: write(p, DEEPSEEK, per_expert()), True),
    "minimax_m3, fused": (lambda p: write(p, MINIMAX, fused), True),
    "minimax_m3, shared expert folded in": (lambda p: write(p, MINIMAX, folded), False),
    "qwen3_5_moe, other prefix": (
        lambda p: write(p, QWEN, renamed((r"^language_model\.model\.", "model.language_model."))),
        True,
    ),
    "gpt_oss, mxfp4": (
        lambda p: write(
            p,
            GPT_OSS,
            gpt_oss,
            mode="mxfp4",
            quant_predicate=lambda name, m: ".experts." in name,
            changes={"quantization_config": {"quant_method": "mxfp4"}},
            drop=QUANTIZATION,
        ),
        True,
    ),
    "kimi_k2, int4": (
        lambda p: write(
            p,
            {**DEEPSEEK, "model_type": "kimi_k2"},
            int4,
            experts_only=True,
            changes=compressed("pack-quantized"),
            drop=QUANTIZATION,
        ),
        True,
    ),
    "kimi_k3, mxfp4": (
        lambda p: write(
            p,
            KIMI_K3,
            mxfp4,
            mode="mxfp4",
            experts_only=True,
            changes=compressed("mxfp4-pack-quantized"),
            drop=QUANTIZATION,
        ),
        True,
    ),
    "minimax_m3, mxfp8": (
        lambda p: write(
            p,
            MINIMAX,
            mxfp8,
            bits=8,
            mode="mxfp8",
            quant_predicate=lambda name, m: not name.endswith(("embed_tokens", "gate")),
            changes={"quantization_config": {"quant_method": "mxfp8"}},
            drop=QUANTIZATION,
        ),
        True,
    ),
}


@pytest.mark.parametrize(("make", "in_place"), FORMATS.values(), ids=FORMATS.keys())
def test_the_bits_of_mlx_lm(make: Callable[[Path], Path], in_place: bool, tmp_path: Path) -> None:
    path, store = make(tmp_path / "model"), tmp_path / "store"
    pack(open_source(path), store)
    assert_same_bits(path, store)
    assert verify(store).problems == ()
    expected = Resident(path).tokens(prompt_ids(9), 4)
    sources = [(store, "token")]
    if in_place:
        sources.append((path, "half"))
    else:
        with pytest.raises(UnsupportedModelError, match="Pack it first"):
            load(path)
    for source, share in sources:
        with load(source, cache_gb=budget_gb(source, share)) as flash:
            assert list(flash.generate(prompt_ids(9), max_tokens=4).token_ids) == expected


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_attention_of_awq_is_that_of_convert(method: str, tmp_path: Path) -> None:
    path = write(
        tmp_path / "model", OLMOE, awq("q_proj"), quantize=False, changes=quantized_by("awq")
    )
    mlx_lm.convert(str(path), str(tmp_path / "mlx"), quantize=True)
    pack(open_source(path), tmp_path / "store")
    assert_same_bits(tmp_path / "mlx", tmp_path / "store")
    expected = Resident(tmp_path / "mlx").tokens(prompt_ids(9), 4)
    with load(tmp_path / "store") as flash:
        assert list(flash.generate(prompt_ids(9), max_tokens=4).token_ids) == expected


def test_quantized_originals_keep_their_bits(tmp_path: Path) -> None:
    path = write(tmp_path / "model", MIXTRAL, per_expert(**W123))
    with pytest.raises(ConfigError, match="quantized already"):
        open_source(path, QuantizationConfig(bits=4))
    assert open_source(path, QuantizationConfig(expert_bits=2)).from_bits == (4,)
    pack(open_source(path, QuantizationConfig(expert_bits=2)), tmp_path / "store")
    stacked = write(tmp_path / "stacked", MIXTRAL)
    pack(open_source(stacked, QuantizationConfig(expert_bits=2)), tmp_path / "expected")
    ours, theirs = read_manifest(tmp_path / "store"), read_manifest(tmp_path / "expected")
    assert ours.layers == theirs.layers


def test_experts_that_mlx_lm_computes_are_not_requantized_by(tmp_path: Path) -> None:
    path = FORMATS["minimax_m3, shared expert folded in"][0](tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=r"it computes.*mlx_lm\.convert"):
        open_source(path, QuantizationConfig(expert_bits=2))


def modelopt_muse(path: Path) -> Path:
    """As NVIDIA publishes Muse Spark: fused, with a global scale of each half, as ModelOpt does."""
    write_original(path, "muse_spark", n_shards=1)
    file = path / "model-00001-of-00001.safetensors"
    weights: Weights = dict(mx.load(str(file)))
    mx.eval(weights)
    for layer in (1, 2):  # the first and the last stay as they are
        base = f"model.language_model.layers.{layer}.mlp.experts"
        for number, name in enumerate(("gate_up_proj", "down_proj")):
            n, rows, width = weights[f"{base}.{name}"].shape
            key = mx.random.key(2 * layer + number)
            words, scales = (
                mx.random.randint(1, 120, (n, rows, width // k), mx.uint8, key) for k in (2, 16)
            )
            halves = (n, 2) if name == "gate_up_proj" else (n,)
            weights |= {
                f"{base}.{name}": words,
                f"{base}.{name}_weight_scale": scales,
                f"{base}.{name}_weight_scale_2": mx.random.uniform(0, 1e-4, halves, key=key),
                f"{base}.{name}_input_scale": mx.ones(halves),
            }
    mx.save_safetensors(str(file), weights)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    (path / "config.json").write_text(json.dumps(config))
    return path


def global_scale(path: Path) -> Path:
    skip_on_old_mlx_lm("global_scale")

    def with_scale(w: Weights) -> Weights:
        names = [f"model.layers.1.mlp.switch_mlp.{p}_proj" for p in ("gate", "up", "down")]
        return w | {f"{p}.global_scale": mx.random.uniform(shape=(16,)) for p in names}

    return write(path, GLM, with_scale, mode="nvfp4", group_size=16, experts_only=True)


@pytest.mark.parametrize("make", [global_scale, modelopt_muse])
def test_a_global_scale_is_a_component(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """MLX computes with it on a GPU only, so the records are compared, and not the tokens."""
    path, store = make(tmp_path / "model"), tmp_path / "store"
    pack(open_source(path), store)
    assert verify(store).problems == ()
    packed = PackedExperts(store, read_manifest(store))
    with_scales = [la for la in packed.layers if la.layout.component("up_proj", "global_scale")]
    assert len(with_scales) == (2 if make is modelopt_muse else 1)
    assert_same_bits(path, store)
    in_place = open_streaming(path, LoadOptions()).experts
    readers = RecordReader(packed), RecordReader(in_place)
    for index, layer in enumerate(packed.layers):
        records = [memoryview(bytearray(layer.layout.record_bytes)) for _ in readers]
        for reader, record in zip(readers, records, strict=True):
            reader.read(index, 5, record)
        assert bytes(records[0]) == bytes(records[1])
    for reader in readers:
        reader.close()


def test_rows_in_turn_are_read_in_parts(tmp_path: Path) -> None:
    """Gate and up of gpt-oss lie in turn, row by row; a record may be read by two threads."""
    path = FORMATS["gpt_oss, mxfp4"][0](tmp_path / "model")
    pack(open_source(path), tmp_path / "store")
    packed = PackedExperts(tmp_path / "store", read_manifest(tmp_path / "store"))
    in_place = open_streaming(path, LoadOptions()).experts
    size = packed.layers[1].layout.record_bytes
    whole, parts = (memoryview(bytearray(size)) for _ in range(2))
    readers = RecordReader(packed), RecordReader(in_place)
    readers[0].read(1, 3, whole)
    for start, stop in ((0, 2000), (2000, 4096), (4096, size)):
        readers[1].read_part(1, 3, parts, start, stop)
    assert bytes(parts) == bytes(whole)
    for reader in readers:
        reader.close()
    with pytest.raises(UnsupportedModelError, match="Pack the model"):
        RecordReader(in_place, io="direct")
