"""Conversion recipe of one tensor: cast, then optionally quantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.dtypes import LOADED_AS, SAVED_AS
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.scale_search import quantize_searched, relative_error
from flash_moe.store.layout import Quantization


@dataclass(frozen=True)
class Recipe:
    """Conversion of one tensor.

    Attributes:
        dtype: Target dtype of floating values, or ``None`` to keep theirs.
        quantization: ``None`` keeps the tensor unquantized.
        searched: Search for the scales of least error, and return that error.
    """

    dtype: mx.Dtype | None
    quantization: Quantization | None = None
    searched: bool = False

    @property
    def is_copy(self) -> bool:
        return self.dtype is None and self.quantization is None

    def output(self, dtype: mx.Dtype) -> mx.Dtype:
        """Return the dtype of scales and biases, or of the tensor, for an input of ``dtype``."""
        if self.dtype is None or not mx.issubdtype(dtype, mx.floating):
            return dtype
        return self.dtype

    def shapes(
        self, name: str, dtype: mx.Dtype, shape: tuple[int, ...]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the safetensors dtype and shape of each of the :meth:`parts` of an array.

        Args:
            name: Name of the tensor, for the error message.
            shape: ``[..., rows, inputs]``.

        Raises:
            UnsupportedModelError: ``inputs`` is not a multiple of the group size.
        """
        kind, q = SAVED_AS[self.output(dtype)], self.quantization
        if q is None:
            return {"weight": (kind, shape)}
        *rows, width = shape
        if width % q.group_size:
            raise UnsupportedModelError(
                "pack",
                f"{name}: expected inputs in groups of {q.group_size}, got {width} inputs",
                "Choose a smaller --group-size.",
            )
        groups = kind, (*rows, width // q.group_size)
        packed = "U32", (*rows, width * q.bits // 32)
        return {"weight": packed, "scales": groups, "biases": groups}

    def parts(self, array: mx.array) -> tuple[dict[str, mx.array], tuple[float, float] | None]:
        """Return ``weight`` only, or ``weight``, ``scales``, ``biases``; all evaluated.

        Args:
            array: ``[..., rows, inputs]``; each row is quantized independently.

        Returns:
            The parts, and (sum of squared errors, sum of squares) of a search.
        """
        scale_dtype = self.output(array.dtype)
        q = self.quantization
        if q is None:
            parts, lost = {"weight": array.astype(scale_dtype)}, None
        elif self.searched:
            # On the original values: casting first would lose precision.
            best = quantize_searched(array, bits=q.bits, group_size=q.group_size, dtype=scale_dtype)
            parts = {"weight": best.weight, "scales": best.scales, "biases": best.biases}
            lost = relative_error(array, best, q.bits, q.group_size)
        else:
            w, scales, biases = mx.quantize(array.astype(scale_dtype), q.group_size, q.bits)
            parts, lost = {"weight": w, "scales": scales, "biases": biases}, None
        mx.eval(parts)
        return parts, lost


def part_name(weight: str, part: str) -> str:
    """Return the name of a part of a tensor: ``a.weight`` has ``a.scales``."""
    return weight if part == "weight" else f"{weight.removesuffix('.weight')}.{part}"


def bytes_of(array: mx.array) -> npt.NDArray[np.uint8]:
    """Return the bytes of an evaluated array, flat; bf16 has no numpy dtype."""
    flat: npt.NDArray[np.uint8] = np.array(array.reshape(-1).view(mx.uint8))
    return flat


def array_from(data: npt.NDArray[Any], dtype: str, shape: tuple[int, ...]) -> mx.array:
    """Convert bytes of a safetensors dtype to an array.

    Args:
        data: uint8, exactly the bytes of ``shape``.
    """
    return mx.array(data).view(LOADED_AS[dtype]).reshape(shape)
