"""The entries: ``run_kernel``, and an object that stands in for ``mx.fast.metal_kernel``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tests.support.metal_emulator.buffers import from_bits, lay_out
from tests.support.metal_emulator.compile import compile_kernel
from tests.support.metal_emulator.eager import uncompiled
from tests.support.metal_emulator.launch import Grid, launch
from tests.support.metal_emulator.source import KernelSource, trace

# Kept, because `emulated_metal` puts another in its place.
_mlx_metal_kernel = mx.fast.metal_kernel

Scalar = bool | int | float
Template = Sequence[tuple[str, bool | int | mx.Dtype]]


@dataclass
class How:
    """Settings of kernels that are called through `metal_kernel`: see `emulated_metal`."""

    build: str = "plain"
    schedule: str = "ascending"
    seed: int = 0
    contract: bool = False


_how = How()


class metal_kernel:
    """Takes what ``mx.fast.metal_kernel`` takes; what it returns is called as MLX's is.

    The kernel runs at the call, not lazily, and answers with evaluated arrays.
    """

    def __init__(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: object | None = None,
    ) -> None:
        self.input_names = list(input_names)
        self.output_names = list(output_names)
        self.row_contiguous = ensure_row_contiguous
        self._traced: dict[Any, KernelSource] = {}
        self._mlx = _mlx_metal_kernel(
            name=name,
            input_names=self.input_names,
            output_names=self.output_names,
            source=source,
            header=header,
            ensure_row_contiguous=ensure_row_contiguous,
            atomic_outputs=atomic_outputs,
        )

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array | np.ndarray | Scalar],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Grid,
        threadgroup: Grid,
        template: Template | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: object | None = None,
    ) -> list[mx.array]:
        outputs = self.run(
            inputs,
            template or [],
            grid,
            threadgroup,
            output_shapes,
            output_dtypes,
            init_value,
            _how,
            verbose=verbose,
        )
        return [from_bits(out, dtype) for out, dtype in zip(outputs, output_dtypes, strict=True)]

    def source_for(
        self,
        inputs: Sequence[mx.array],
        template: Template,
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
    ) -> KernelSource:
        """The text that MLX would compile for such a call."""
        # What the text depends on: eight elements are where MLX changes the address space.
        key = (
            tuple((a.dtype, min(a.size, 8), a.ndim) for a in inputs),
            tuple(template),
            tuple(output_dtypes),
        )
        if key not in self._traced:
            self._traced[key] = trace(
                self._mlx,
                list(inputs),
                template=list(template),
                grid=(1, 1, 1),
                threadgroup=(1, 1, 1),
                output_shapes=[tuple(shape) for shape in output_shapes],
                output_dtypes=list(output_dtypes),
            )
        return self._traced[key]

    def run(
        self,
        inputs: Sequence[mx.array | np.ndarray | Scalar],
        template: Template,
        grid: Grid,
        threadgroup: Grid,
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        init_value: float | None,
        how: How,
        verbose: bool = False,
    ) -> list[np.ndarray]:
        """One launch; bfloat16 outputs as their bits."""
        arrays = [a if isinstance(a, mx.array) else mx.array(a) for a in inputs]
        try:
            mx.eval(arrays)
        except ValueError as error:
            raise RuntimeError(
                f"the inputs of an emulated kernel have no values ({error}); "
                "inside emulated_metal() mx.compile is off"
            ) from error
        source = self.source_for(arrays, template, output_shapes, output_dtypes)
        if verbose:
            print(source.text)
        binary = compile_kernel(source, how.build, how.contract)
        described = list(zip(output_shapes, output_dtypes, strict=True))
        buffers = lay_out(
            source,
            dict(zip(self.input_names, arrays, strict=True)),
            dict(zip(self.output_names, described, strict=True)),
            row_contiguous=self.row_contiguous,
            init_value=init_value,
        )
        launch(
            binary,
            buffers,
            grid,
            threadgroup,
            schedule=how.schedule,
            seed=how.seed,
            text=source.text,
        )
        by_name = {b.name: b.data for b in buffers}
        return [by_name[name] for name in self.output_names]


def run_kernel(
    *,
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    inputs: Sequence[mx.array | np.ndarray | Scalar],
    grid: Grid,
    threadgroup: Grid,
    output_shapes: Sequence[Sequence[int]],
    output_dtypes: Sequence[mx.Dtype],
    template: Template = (),
    init_value: float | None = None,
    build: str = "plain",
    schedule: str = "ascending",
    seed: int = 0,
    contract: bool = False,
) -> list[np.ndarray]:
    """Compiles and runs a kernel once.

    Args:
        build: ``plain``; ``asan`` (memory errors and undefined behaviour); ``tsan`` (races);
            ``msan`` (uninitialised memory).
        schedule: The order of threads and threadgroups: ascending, reverse, or random by ``seed``.
        contract: Round ``a * b + c`` of floats once, wherever clang can, instead of twice. Metal
            may do either: what both give bounds what is left open.

    Returns:
        The outputs; bfloat16 as its bits in uint16.

    Raises:
        CompileError: The text is not accepted.
        KernelFault: The run broke a rule; what the report says depends on ``build``.
        EmulatorUnavailable: The emulator cannot run on this machine.
    """
    kernel = metal_kernel(
        name, input_names, output_names, source, header, ensure_row_contiguous, atomic_outputs
    )
    how = How(build, schedule, seed, contract)
    return kernel.run(
        inputs, template, grid, threadgroup, output_shapes, output_dtypes, init_value, how
    )


@contextlib.contextmanager
def emulated_metal(
    build: str = "plain", schedule: str = "ascending", seed: int = 0, contract: bool = False
) -> Iterator[None]:
    """Inside, ``mx.fast.metal_kernel`` makes emulated kernels, and they run as `run_kernel` says.

    ``mx.compile`` is off inside: functions that it made call what they were made of.

    Kernels made before stay what they are; emulated ones that outlive the block run plainly, and
    not in a function that is being compiled.
    """
    global _how
    before, before_how = mx.fast.metal_kernel, _how
    with uncompiled():
        mx.fast.metal_kernel, _how = metal_kernel, How(build, schedule, seed, contract)
        try:
            yield
        finally:
            mx.fast.metal_kernel, _how = before, before_how
