"""Kernels outside of the product: those of the lab and of benchmarks, on the emulator."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.lab.experiments.dequantization_forms import FORMS, product
from flash_moe.ops import kernel as kernel_module
from tests.support.metal_emulator import emulated_metal
from tests.support.processes import ROOT


@pytest.fixture(autouse=True)
def metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_forms_of_dequantization(form: int) -> None:
    weight = mx.random.normal((16, 512), key=mx.random.key(0))
    x = mx.random.normal((512,), key=mx.random.key(1))
    w, scales, biases = mx.quantize(weight, group_size=64, bits=4)
    expected = np.array(mx.dequantize(w, scales, biases, group_size=64, bits=4) @ x)
    with emulated_metal():
        y = np.array(product(form, w, scales, biases, x))
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_rans_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import rans

    draw = np.random.default_rng(0)
    n = rans.LANES * rans.STREAM_BYTES
    symbols = np.clip(draw.normal(128, 20, n), 0, 255).astype(np.uint8)
    table = rans.Table.of(symbols)
    assert table.freq.sum() == rans.SLOTS
    coded = rans.encode(symbols, table)
    assert np.array_equal(rans.decode(coded, n, table), symbols)
    assert len(coded) < 0.85 * n
    data, offsets = rans.encode_streams(symbols, table)
    with emulated_metal():
        words = rans.decode_on_gpu(*map(mx.array, (data, offsets, table.slots)))
    assert np.array_equal(np.array(words).view(np.uint8), symbols)
