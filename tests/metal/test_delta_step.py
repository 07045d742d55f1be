"""delta_step: its Metal text, run by the emulator, against mlx-lm's gated delta nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models import qwen3_5, qwen3_next
from mlx_lm.models.cache import ArraysCache
from mlx_lm.utils import load_model

from flash_moe.compat import mlx_lm as compat
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.model import delta_step as model_delta_step
from flash_moe.model.delta_step import one_position
from flash_moe.model.recorded import DELTA_NETS, record_delta_nets
from flash_moe.ops import kernel as kernel_module
from flash_moe.ops.delta_step import DELTA_STEP, delta_step
from tests.support.architectures import write_model
from tests.support.metal_emulator import emulated_metal
from tests.support.metal_emulator.lint import lint

HIDDEN = 96
NETS = {
    "qwen3_5": (qwen3_5.GatedDeltaNet, qwen3_5.TextModelArgs),
    "qwen3_next": (qwen3_next.Qwen3NextGatedDeltaNet, qwen3_next.ModelArgs),
}

pytestmark = pytest.mark.skipif(
    not compat.scales_normalized_keys(), reason="mlx-lm before 0.32 normalises keys in another way"
)


@pytest.fixture(autouse=True)
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")
    kernel_module._build.cache_clear()


def made(name: str, dtype: mx.Dtype, *, key_size: int = 32, value_size: int = 64) -> Any:
    """A net with random parameters: 2 heads of keys, 4 of values."""
    net_class, args_class = NETS[name]
    args = object.__new__(args_class)
    args.__dict__.update(
        hidden_size=HIDDEN,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=key_size,
        linear_value_head_dim=value_size,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6,
    )
    mx.random.seed(3)
    net = net_class(args)
    net.norm.weight = 1 + mx.random.normal(net.norm.weight.shape) / 4
    net.dt_bias = mx.random.normal(net.dt_bias.shape)
    net.update(tree_map(lambda a: a.astype(dtype), net.parameters()))
    return net


def states(net: Any, n_rows: int, dtype: mx.Dtype) -> tuple[mx.array, list[mx.array]]:
    """A position's input, and the states behind five positions."""
    x = mx.random.normal((n_rows, 6, HIDDEN), key=mx.random.key(n_rows)).astype(dtype)
    cache = ArraysCache(2)
    net(x[:, :5], None, cache)
    mx.eval(cache.cache)
    return x[:, 5:], cache.cache


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(mx.float32, 1e-5), (mx.bfloat16, 2e-2), (mx.float16, 4e-3)]
)
def test_matches_mlx_lm(name: str, n_rows: int, dtype: mx.Dtype, bound: float) -> None:
    net = made(name, dtype)
    x, (conv, state) = states(net, n_rows, dtype)
    cache = ArraysCache(2)
    cache.cache = [conv, state]
    expected = [net(x, None, cache), *cache.cache]
    with emulated_metal():
        outputs = one_position(net, x, conv, state)
        assert outputs is not None
        mx.eval(outputs)
    for output, reference in zip(outputs, expected, strict=True):
        assert (output.shape, output.dtype) == (reference.shape, reference.dtype)
        got, wanted = (np.array(each.astype(mx.float32)) for each in (output, reference))
        assert np.abs(got - wanted).max() <= bound * np.abs(wanted).max()


@pytest.mark.parametrize("build", ["asan", "tsan", "msan"])
def test_memory(build: str) -> None:
    net = made("qwen3_5", mx.float32)
    x, (conv, state) = states(net, 2, mx.float32)
    with emulated_metal(build=build):
        mx.eval(one_position(net, x, conv, state))


@pytest.mark.parametrize("model_type", ["qwen3_5_moe", "qwen3_next"])
def test_in_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str) -> None:
    write_model(tmp_path, model_type)
    model: Any = load_model(tmp_path)[0]
    model.set_dtype(mx.float32)
    expected = decode(model)
    launches: list[int] = []

    def counting(*arguments: Any) -> Any:
        launches.append(1)
        return delta_step(*arguments)

    monkeypatch.setattr(model_delta_step, "delta_step", counting)
    record_delta_nets(model, fused=True)
    with emulated_metal():
        outputs = decode(model)
    assert len(launches) == 4 * sum(isinstance(m, DELTA_NETS) for m in model.modules())
    assert np.abs(outputs - expected).max() <= 1e-4 * np.abs(expected).max()


def decode(model: Any) -> Any:
    """Logits of four positions behind a prompt."""
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([[3, 1, 4, 1, 5]]), cache=cache))
    out = [model(mx.array([[token]]), cache=cache) for token in range(4)]
    return np.array(mx.concatenate(out, axis=1))


@pytest.mark.parametrize("change", ["key size", "state", "bias"])
def test_other_nets_are_not_computed(change: str) -> None:
    net = made("qwen3_5", mx.float32, key_size=16 if change == "key size" else 32)
    x, (conv, state) = states(net, 1, mx.float32)
    if change == "state":
        state = state.astype(mx.float16)
    if change == "bias":
        net.conv1d.bias = mx.zeros(net.conv_dim)
    assert one_position(net, x, conv, state) is None


def test_lint() -> None:
    assert lint(DELTA_STEP.source) == []
