"""Custom kernel on MLX's GPU: Metal source as it is, for CUDA translated token by token.

A kernel is a body in ``kernels/NAME.metal``, preceded by the helpers of ``kernels/dequant.h``.
``mx.fast.metal_kernel`` and ``mx.fast.cuda_kernel`` are built once per kernel and process.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from flash_moe.errors import UnsupportedModelError
from flash_moe.ops.cuda_source import cuda_body, cuda_header
from flash_moe.ops.source import read_kernel_file

_log = logging.getLogger(__name__)

Template = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Kernel:
    """Kernel with the names of its arrays, in order.

    Attributes:
        name: Name of the operation, of the file and of the compiled function.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def source(self) -> str:
        """Metal source of the body."""
        return read_kernel_file(f"{self.name}.metal")

    @property
    def header(self) -> str:
        """Metal source that precedes the body."""
        return read_kernel_file("dequant.h")

    def __call__(
        self,
        *arrays: mx.array,
        template: Template,
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[mx.Dtype],
    ) -> list[mx.array]:
        """Launch the kernel. ``grid`` counts threads, as on Metal."""
        return list(
            _build(self)(
                inputs=list(arrays),
                template=list(template),
                grid=grid,
                threadgroup=threadgroup,
                output_shapes=list(output_shapes),
                output_dtypes=list(output_dtypes),
            )
        )


def backend() -> str | None:
    """Return ``"metal"``, ``"cuda"``, or ``None`` if kernels cannot run."""
    if mx.default_device().type != mx.gpu:
        return None
    return "metal" if mx.metal.is_available() else "cuda"


@functools.cache
def _build(kernel: Kernel) -> Any:
    names: dict[str, Any] = {
        "name": kernel.name,
        "input_names": list(kernel.inputs),
        "output_names": list(kernel.outputs),
    }
    gpu = backend()
    if gpu == "metal":
        return mx.fast.metal_kernel(source=kernel.source, header=kernel.header, **names)
    if gpu == "cuda":
        _announce_compiling()
        return mx.fast.cuda_kernel(
            source=cuda_body(kernel.source), header=cuda_header(kernel.header), **names
        )
    raise UnsupportedModelError(
        "ops", f"{kernel.name} needs a GPU: expected Metal or CUDA, got {mx.default_device()}"
    )


@functools.cache
def _announce_compiling() -> None:
    # Measured on an H200 with MLX 0.32.4: 35 to 60 s in each process, minutes in the first one of
    # a machine.
    _log.warning(
        "CUDA kernels are compiled in the first passes of this process, which takes about a minute"
    )
