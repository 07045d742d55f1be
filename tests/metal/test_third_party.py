"""Kernels that others wrote and that run on Macs: the emulator takes them and finds nothing wrong.

mlx-lm's come with the installed mlx-lm, MLX's own with the wheel of the prelude. They check the
emulator: a false alarm, or a refusal, would show here.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from tests.metal.emulator import KernelFault, emulated_metal
from tests.metal.emulator.buffers import Buffer, bits, numpy_dtype
from tests.metal.emulator.compile import BUILDS, compile_kernel
from tests.metal.emulator.launch import launch
from tests.metal.emulator.prelude import header_text
from tests.metal.emulator.source import describe
from tests.metal.sample_kernels import as_float64

TOLERANCE = {mx.float32: 3e-6, mx.float16: 2e-3, mx.bfloat16: 1.6e-2}


def emulated_copy(path: Path, name: str) -> ModuleType:
    """A module of mlx-lm loaded anew, under another name, with all its kernels emulated."""
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with pytest.MonkeyPatch.context() as patch, emulated_metal():
        # Kernels are only made where there is Metal.
        patch.setattr(mx.metal, "is_available", lambda: True)
        spec.loader.exec_module(module)
    return module


def installed(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"the installed mlx-lm has no {name}")
    return Path(spec.origin)


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    yield emulated_copy(installed("mlx_lm.kernels"), "emulated_mlx_lm_kernels")
    for name in [n for n in sys.modules if n.startswith("emulated_mlx_lm")]:
        del sys.modules[name]


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated_metal(build=request.param):
        yield request.param


def random(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def wide(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def close(got: mx.array, exact: np.ndarray) -> None:
    error = np.abs(wide(got).reshape(exact.shape) - exact).max()
    assert error <= TOLERANCE[got.dtype] * np.abs(exact).max()


def rms(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_qk_norm(kernels: ModuleType, build: str, dtype: mx.Dtype) -> None:
    heads, kv_heads, dim = 3, 2, 40
    x = random(5, 2 * (heads + kv_heads) * dim, dtype=dtype)
    q, k = kernels.qk_norm(
        x, n_heads=heads, n_kv_heads=kv_heads, head_dim=dim, eps=1e-5, query_scale=0.5
    )
    rows = wide(x)[:, : (heads + kv_heads) * dim].reshape(5, heads + kv_heads, dim)
    close(q, rms(rows[:, :heads], 1e-5) * 0.5)
    close(k, rms(rows[:, heads:], 1e-5))


def test_expert_routing(kernels: ModuleType, build: str) -> None:
    logits, bias = random(6, 50), random(50, seed=1) * 0.1
    inds, weights = kernels.expert_routing(
        logits, bias, top_k=4, multiplier=1.5, score_eps=1e-9, route_scale=2.0
    )
    scores = 1 / (1 + np.exp(-1.5 * wide(logits)))
    chosen = np.argsort(-(scores + wide(bias)), axis=-1)[:, :4]
    assert (np.array(inds) == chosen).all()
    picked = np.take_along_axis(scores, chosen, -1)
    close(weights, picked / (picked.sum(-1, keepdims=True) + 1e-9) * 2)


def test_norm_and_gate_with_strides(kernels: ModuleType, build: str) -> None:
    # Not contiguous, and its shape and strides are read by the kernel.
    x = random(2, 5, 3, 48).transpose(0, 2, 1, 3)
    gate = random(2, 5, 3 * 48 * 2, seed=1)[..., ::2]
    out = kernels.rms_norm_sigmoid_gate(x, gate, eps=1e-5)
    normed = rms(wide(x), 1e-5).transpose(0, 2, 1, 3).reshape(2, 5, -1)
    close(out, normed / (1 + np.exp(-wide(gate))))


def test_post_expert_norm_combine(kernels: ModuleType, build: str) -> None:
    experts, weights, norm = random(3, 4, 700), random(3, 4, seed=1), random(700, seed=2)
    out = kernels.post_expert_norm_combine(experts, weights, norm_weight=norm, eps=1e-5)
    scaled = rms(wide(experts) * wide(norm), 1e-5)
    close(out, (scaled * wide(weights)[..., None]).sum(-2))


def test_norm_add_norm(kernels: ModuleType, build: str) -> None:
    from mlx import nn

    size = 800
    branch, stream = random(3, size), random(3, size, seed=1)
    alpha, beta, post = (random(size, seed=s) for s in (2, 3, 4))
    norm = nn.RMSNorm(size, eps=1e-6)
    norm.weight = random(size, seed=5)
    summed, normed = kernels.norm_add_norm(
        branch, stream, alpha=alpha, beta=beta, post_weight=post, post_eps=1e-5, next_norm=norm
    )
    exact = wide(alpha) * wide(stream) + wide(beta) * rms(wide(branch) * wide(post), 1e-5)
    close(summed, exact)
    close(normed, rms(exact, 1e-6) * wide(norm.weight))


@pytest.mark.parametrize("kernel", ["generic", "packed"])
def test_gated_delta(build: str, kernel: str) -> None:
    module = emulated_copy(installed("mlx_lm.models.gated_delta"), "emulated_mlx_lm_gated_delta")
    keys, values, key_dim, value_dim, tokens = 2, 4, 128, 16, 3
    q, k = (random(1, tokens, keys, key_dim, seed=s) * 0.1 for s in (1, 2))
    v = random(1, tokens, values, value_dim, seed=3)
    g, beta = (mx.sigmoid(random(1, tokens, values, seed=s)) for s in (4, 5))
    state = random(1, values, value_dim, key_dim, seed=6)
    name = "_gated_delta_kernel" if kernel == "generic" else "_gated_delta_kernel_packed"
    made = getattr(module, name, None)
    if made is None:
        pytest.skip(f"this mlx-lm has no {name}")
    packed = 8 if kernel == "packed" else 1
    y, new_state = made(
        inputs=[q, k, v, g, beta, state, tokens],
        template=[
            ("InT", mx.float32),
            ("StT", mx.float32),
            ("Dk", key_dim),
            ("Dv", value_dim),
            ("Hk", keys),
            ("Hv", values),
        ],
        grid=(32, value_dim // packed, values),
        threadgroup=(32, 4, 1),
        output_shapes=[(1, tokens, values, value_dim), state.shape],
        output_dtypes=[mx.float32, mx.float32],
    )
    now, exact = wide(state)[0], []
    for t in range(tokens):
        qt, kt = (np.repeat(wide(a)[0, t], values // keys, 0) for a in (q, k))
        now = now * wide(g)[0, t][:, None, None]
        memory = (now * kt[:, None]).sum(-1)
        delta = (wide(v)[0, t] - memory) * wide(beta)[0, t][:, None]
        now = now + delta[..., None] * kt[:, None]
        exact.append((now * qt[:, None]).sum(-1))
    close(y, np.array(exact)[None])
    close(new_state, now[None])


def mlx_matvec(
    build: str, kernel: str, rows: int, columns: int, width: int, group: int, dtype: mx.Dtype
) -> None:
    """One of MLX's own quantized matvecs, launched as MLX does, against float64."""
    dense = random(rows, columns, dtype=dtype)
    x = random(columns, dtype=dtype, seed=1)
    w, scales, biases = mx.quantize(dense, group_size=group, bits=width)
    y = np.full(rows, -1).astype(numpy_dtype(dtype))
    buffers = [Buffer("w", bits(w)), Buffer("scales", bits(scales)), Buffer("biases", bits(biases))]
    buffers += [Buffer("x", bits(x)), Buffer("y", y, output=True, filled=False)]
    buffers += [Buffer(n, np.array([s], np.int32)) for n, s in (("K", columns), ("N", rows))]
    # Shapes and strides of a batch, which there is none of.
    buffers += [Buffer(str(i), np.zeros(2, np.int64)) for i in range(7, 15)]
    text = header_text("steel/gemm/gemm.h", "quantized_utils.h", "quantized.h")
    name = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}[dtype]
    binary = compile_kernel(describe(kernel, text, f"<{name}, {group}, {width}, false>"), build)
    # Eight rows a threadgroup, two SIMD groups.
    grid, threadgroup = (32, (rows + 7) // 8 * 2, 1), (32, 2, 1)
    launch(binary, buffers, grid, threadgroup, text=text)
    full = [a.astype(mx.float32) for a in (scales, biases)]
    exact = wide(mx.dequantize(w, *full, group_size=group, bits=width)) @ wide(x)
    error = np.abs(as_float64(y, dtype) - exact).max()
    assert error <= TOLERANCE[dtype] * np.abs(exact).max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [2, 3, 4, 6, 8])
def test_mlx_quantized_matvec(width: int, dtype: mx.Dtype) -> None:
    mlx_matvec("plain", "affine_qmv_fast", 64, 1024, width, 64, dtype)
    mlx_matvec("plain", "affine_qmv", 70, 576, width, 32, dtype)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("width", [3, 4])
def test_mlx_quantized_matvec_checked(build: str, width: int, dtype: mx.Dtype) -> None:
    mlx_matvec(build, "affine_qmv_fast", 64, 1024, width, 64, dtype)
    mlx_matvec(build, "affine_qmv", 72, 576, width, 64, dtype)


def test_mlx_writes_the_last_rows_twice() -> None:
    # Rows that are no multiple of eight: the last two SIMD groups overlap and both write, the same
    # values. The checker cannot know that they are the same, and a race it is.
    with pytest.raises(KernelFault, match=r"RACE on device memory: write .* write"):
        mlx_matvec("tsan", "affine_qmv", 70, 576, 4, 64, mx.float32)
