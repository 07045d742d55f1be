"""Kernel files: found, read, turned into CUDA text; and refused where there is no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.ops import source
from flash_moe.ops.cuda_source import cuda_body, cuda_header
from flash_moe.ops.kernel import Kernel, backend
from flash_moe.ops.moe_experts import DOWN, GATE_UP, ExpertKernels
from flash_moe.testing.random_experts import random_experts

KERNELS = [GATE_UP, DOWN]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_the_header_block_names_every_array_and_template_argument(kernel: Kernel) -> None:
    block = "\n".join(line for line in kernel.source.splitlines() if line.startswith("//"))
    for word in (*kernel.inputs, *kernel.outputs, "Template", "Grid", "threadgroup", "Numerics"):
        assert re.search(rf"\b{word}\b", block), word


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_cuda_text(kernel: Kernel) -> None:
    text = cuda_header(kernel.header) + cuda_body(kernel.source)
    assert not re.search(r"\b(device|constant|thread|threadgroup)\s+[\w(]", text)
    assert "//" not in text.replace("://", "")
    assert ("__shared__ float xs[" in text) == ("threadgroup float xs[" in kernel.source)


def test_tokens_that_only_look_alike_stay() -> None:
    body = "const uint a = thread_index_in_simdgroup; threadgroup_barrier(mem_flags::mem_device);"
    assert body in cuda_body(body)


def test_kernels_readme_lists_every_file() -> None:
    text = (source.kernels_dir() / "README.md").read_text()
    for file in source.kernels_dir().iterdir():
        if file.suffix in (".metal", ".h"):
            assert f"| `{file.name}` |" in text, file.name


def test_a_missing_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected .*nothing\.metal"):
        source.read_kernel_file("nothing.metal")
    monkeypatch.setattr(source, "__file__", str(tmp_path / "a" / "b" / "source.py"))
    with pytest.raises(ConfigError, match="found neither"):
        source.kernels_dir()


@pytest.mark.skipif(backend() is not None, reason="there is a GPU")
def test_without_a_gpu_the_kernels_say_so() -> None:
    experts = random_experts(64, 64, 2, bits=4, group_size=64)
    kernels = ExpertKernels(experts.layout, experts.layout.record_bytes)
    slab = mx.array(experts.words)
    ids = kernels.slot_ids(np.array([[0, 1]], np.uint32), slab)
    with pytest.raises(UnsupportedModelError, match="moe_gate_up needs a GPU"):
        kernels.gate_up(mx.zeros((1, 64)), ids, slab)


def test_random_experts_agree_with_mlx() -> None:
    """The float64 reference against MLX's own quantized product in float32."""
    experts = random_experts(96, 64, 3, bits=3, group_size=32, seed=1)
    x = np.random.RandomState(0).standard_normal((2, 96))
    slots = np.array([[0, 2], [1, 0]], np.uint32)
    y = experts.reference(x, slots, np.array([[0.25, 0.75], [1.0, 0.0]]))
    w = {name: mx.array(values.astype(np.float32)) for name, values in experts.weights.items()}
    for token, expected in enumerate(y):
        total = mx.zeros((96,))
        for k, weight in enumerate(((0.25, 0.75), (1.0, 0.0))[token]):
            slot = int(slots[token, k])
            v = mx.array(x[token].astype(np.float32))
            gate, up = w["gate_proj"][slot] @ v, w["up_proj"][slot] @ v
            total = total + weight * (w["down_proj"][slot] @ (gate * mx.sigmoid(gate) * up))
        np.testing.assert_allclose(np.array(total), expected, atol=1e-5)
