"""Shared parts of the tests of third-party kernels: loading mlx-lm's, and float64 references."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import emulated_metal

# Relative to the largest value. Seen is at most 1.2e-6, 6e-4 and 6e-3: sums are in float on both
# sides, and some kernels round to the dtype in between.
TOLERANCE = {mx.float32: 2e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}


@contextlib.contextmanager
def emulated_copy(module: str) -> Iterator[ModuleType]:
    """A second copy of an mlx-lm module, with its own kernels emulated.

    Skips where the installed mlx-lm does not have it.
    """
    try:
        # What it imports of its neighbours has to be there before, or is emulated for good.
        path = Path(str(importlib.import_module(module).__file__))
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        pytest.skip(f"the installed mlx-lm has no {module}")
    parent, _, name = module.rpartition(".")
    copy = f"{parent}.emulated_{name}"
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(copy, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # Kernels are only made, and chosen, where there is Metal.
        patch.setattr(mx.metal, "is_available", lambda: True)
        patch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        sys.modules[copy] = loaded
        try:
            with emulated_metal():
                spec.loader.exec_module(loaded)
            yield loaded
        finally:
            for made in [n for n in sys.modules if n == copy or n.startswith(f"{copy}.")]:
                del sys.modules[made]


def random(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    """Normally distributed; the same for the same arguments."""
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def wide(array: mx.array) -> np.ndarray:
    """The values in float64."""
    return np.array(array.astype(mx.float32)).astype(np.float64)


def close(got: mx.array, exact: np.ndarray) -> None:
    """Within the tolerance of the dtype of ``got``."""
    values = wide(got).reshape(exact.shape)
    assert np.isfinite(values).all()
    error = np.abs(values - exact).max() / np.abs(exact).max()
    assert error <= TOLERANCE[got.dtype], error


def rms(x: np.ndarray, eps: float) -> np.ndarray:
    """RMS norm over the last axis, without weight."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
