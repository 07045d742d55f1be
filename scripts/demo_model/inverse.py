"""Inverses of many small unit lower triangular matrices, as one torch operation.

Forward substitution, row by row, in float32: stable. Squaring, ``(I - A)(I + A^2)(I + A^4)...``,
needs only matrix products, but its terms grow as binomial coefficients before they cancel: with
similar keys, float32 leaves two digits for 64 rows. On a GPU it is a Triton kernel with one program
per matrix; elsewhere, or if that kernel fails, torch's triangular solver.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch without GPU support does not include it
    triton = None

WARPS = 2
# Set to False to solve with torch on a GPU too; read at every call.
use_kernel = True

if triton is not None:

    @triton.jit  # type: ignore[misc]
    def _substitute(a, out, n: tl.constexpr):  # type: ignore[no-untyped-def]
        start = tl.program_id(0).to(tl.int64) * n * n
        rows, columns = tl.arange(0, n), tl.arange(0, n)
        solved = (rows[:, None] == columns[None, :]).to(tl.float32)
        for i in range(1, n):
            row = tl.load(a + start + i * n + rows)
            row = tl.where(rows < i, row, 0.0)
            known = tl.sum(row[:, None] * solved, 0)
            solved = tl.where(rows[:, None] == i, solved - known[None, :], solved)
        tl.store(out + start + rows[:, None] * n + columns[None, :], solved)


@torch.library.custom_op("demo_model::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(a: Tensor) -> Tensor:
    """Return ``(I + L)^-1`` with L the strictly lower part of each of ``a`` ``[n, c, c]``."""
    if triton is not None and use_kernel and a.is_cuda and a.dtype == torch.float32:
        return by_kernel(a)
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    return torch.linalg.solve_triangular(
        a.contiguous(), eye, upper=False, unitriangular=True
    ).contiguous()


def by_kernel(a: Tensor) -> Tensor:
    a = a.contiguous()
    out = torch.empty_like(a)
    _substitute[(a.shape[0],)](a, out, a.shape[-1], num_warps=WARPS)
    return out


@unit_lower_inverse.register_fake
def _(a: Tensor) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    (inverse,) = ctx.saved_tensors
    return -torch.bmm(inverse.mT, torch.bmm(grad, inverse.mT)).tril(-1)


unit_lower_inverse.register_autograd(_gradient, setup_context=_keep)
