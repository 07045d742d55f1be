"""One custom kernel on whatever GPU MLX has: Metal as it stands, CUDA through a token pass.

A kernel is a body in ``kernels/NAME.metal`` with the helpers of ``kernels/dequant.h`` before it.
``mx.fast.metal_kernel`` and ``mx.fast.cuda_kernel`` are built once a kernel and process.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from flash_moe.errors import UnsupportedModelError
from flash_moe.ops.cuda_source import cuda_body, cuda_header
from flash_moe.ops.source import read_kernel_file

Template = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Kernel:
    """A kernel by name, with the names of its arrays in order.

    Attributes:
        name: Of the operation, of the file and of the compiled function.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def source(self) -> str:
        """The body, as Metal."""
        return read_kernel_file(f"{self.name}.metal")

    @property
    def header(self) -> str:
        """What stands before the kernel, as Metal."""
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
        """Launch. ``grid`` counts threads, as on Metal."""
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
    """``"metal"``, ``"cuda"``, or ``None`` where kernels cannot run."""
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
    where = backend()
    if where == "metal":
        return mx.fast.metal_kernel(source=kernel.source, header=kernel.header, **names)
    if where == "cuda":
        return mx.fast.cuda_kernel(
            source=cuda_body(kernel.source), header=cuda_header(kernel.header), **names
        )
    raise UnsupportedModelError(
        "ops", f"{kernel.name} needs a GPU: expected Metal or CUDA, got {mx.default_device()}"
    )
