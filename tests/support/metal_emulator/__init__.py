"""Runs the bodies of ``mx.fast.metal_kernel`` on a Linux CPU. See ``tests/metal/README.md``."""

from tests.support.metal_emulator.errors import CompileError, EmulatorUnavailable, KernelFault
from tests.support.metal_emulator.kernel import emulated_metal, metal_kernel, run_kernel

__all__ = [
    "CompileError",
    "EmulatorUnavailable",
    "KernelFault",
    "emulated_metal",
    "metal_kernel",
    "run_kernel",
]
