"""CUDA's runtime library by ctypes: the calls that fill memory of an NVIDIA GPU without MLX.

MLX moves an array whose bytes the host has looked at to managed memory, at a new address. So the
bytes of experts reach device memory by copies of this module, and the address of an array comes
from a kernel.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe.compat.dtypes import on_cpu

_log = logging.getLogger(__name__)

_TO_DEVICE, _ON_DEVICE = 1, 3  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking: not ordered with the default stream
_DEVICE_MEMORY = 2  # cudaMemoryTypeDevice
_CONCURRENT_MANAGED_ACCESS = 89  # cudaDevAttrConcurrentManagedAccess
# Oldest runtime with these signatures that MLX has wheels for.
OLDEST = 12000


class CudaError(Exception):
    """A call of CUDA's runtime that failed.

    Attributes:
        code: The ``cudaError_t``.
    """

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: CUDA error {code}, {text}")
        self.code = code


class _Attributes(ctypes.Structure):  # cudaPointerAttributes
    _fields_ = [
        ("type", ctypes.c_int),
        ("device", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("device_pointer", "host_pointer")),
        ("reserved", ctypes.c_long * 8),
    ]


class CudaRuntime:
    """The calls that a device slab needs. Any thread may make them; each releases the GIL.

    Args:
        library: Result of ``open_library``, or an object with its functions.

    Raises:
        CudaError: The library does not work with this driver.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.memory()

    def version(self) -> int:
        """Version of the library: 13000 is 13.0."""
        number = ctypes.c_int(0)
        self._call("cudaRuntimeGetVersion", ctypes.byref(number))
        return number.value

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory that are free, and all of them."""
        free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def concurrent_managed_access(self) -> bool:
        """True if host and GPU may use managed memory at once; false on Windows, WSL and Tegra."""
        value = ctypes.c_int(0)
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), _CONCURRENT_MANAGED_ACCESS, 0)
        return bool(value.value)

    def is_device_memory(self, address: int) -> bool:
        """True for plain device memory, false for managed or unknown memory."""
        found = _Attributes()
        self._call("cudaPointerGetAttributes", ctypes.byref(found), ctypes.c_void_p(address))
        return bool(found.type == _DEVICE_MEMORY)

    def allocate_pinned(self, n_bytes: int) -> int:
        """Allocate page-locked host memory and return its address."""
        address = ctypes.c_void_p()
        self._call(
            "cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(n_bytes), ctypes.c_uint(0)
        )
        return int(address.value or 0)

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def create_stream(self) -> int:
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return int(stream.value or 0)

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def copy_to_device(self, target: int, source: int, n_bytes: int, stream: int) -> None:
        """Queue a copy from pinned memory to device memory."""
        self._copy(target, source, n_bytes, _TO_DEVICE, stream)

    def copy_on_device(self, target: int, source: int, n_bytes: int, stream: int) -> None:
        """Queue a copy within device memory."""
        self._copy(target, source, n_bytes, _ON_DEVICE, stream)

    def _copy(self, target: int, source: int, n_bytes: int, kind: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, n_bytes, kind, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until the copies of a stream are in device memory."""
        self._call("cudaStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            describe = self._library.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            text = describe(ctypes.c_int(code)) or b"unknown error"
            raise CudaError(name, code, text.decode(errors="replace"))


def on_cuda() -> bool:
    """Return whether MLX computes on an NVIDIA GPU."""
    return not on_cpu() and not mx.metal.is_available()


@functools.cache
def cuda_runtime() -> CudaRuntime | None:
    """Return the runtime that fills device memory; ``None`` without CUDA or without the library.

    A library that is missing, too old or refused by the driver is logged once.
    """
    if not on_cuda():
        return None
    problems = []
    for file in libraries():
        try:
            runtime = CudaRuntime(open_library(file))
            if (version := runtime.version()) >= OLDEST:
                return runtime
            problems.append(f"{file}: expected version {OLDEST} or newer, got {version}")
        except (OSError, AttributeError, CudaError) as error:
            problems.append(str(error))
    _log.warning(
        "experts stay in managed memory, which is several times slower: expected libcudart of CUDA "
        "12 or 13, found none that works (%s). Install it: pip install nvidia-cuda-runtime",
        "; ".join(dict.fromkeys(problems)) or "no file",
    )
    return None


def open_library(file: str) -> Any:
    """Open a libcudart.

    Raises:
        OSError, AttributeError: The file is missing, or no such library.
    """
    library = ctypes.CDLL(file)
    # Each read calls these two, and plain numbers are faster to pass than ctypes objects.
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.cudaMemcpyAsync.argtypes = [pointer, pointer, size, ctypes.c_int, pointer]
    library.cudaStreamSynchronize.argtypes = [pointer]
    return library


def libraries() -> Iterator[str]:
    """Candidates for libcudart: the loader's own, those of NVIDIA's wheels, the CUDA toolkit."""
    yield from (f"libcudart.so.{major}" for major in (13, 12))
    wheels = ("nvidia/cu*/lib", "nvidia/cuda_runtime/lib")
    folders = [f"{path}/{wheel}" for path in map(Path, sys.path) for wheel in wheels]
    for folder in (*folders, "/usr/local/cuda*/lib64"):
        yield from sorted(glob.glob(f"{folder}/libcudart.so.*"), reverse=True)


def array_address(array: mx.array) -> int:
    """Return the device address of an evaluated array, which holds as long as the array lives."""
    (out,) = _address_kernel()(
        inputs=[array],
        output_shapes=[(1,)],
        output_dtypes=[mx.uint64],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
    )
    return int(out.item())


@functools.cache
def _address_kernel() -> Any:
    return mx.fast.cuda_kernel(
        name="flash_moe_address",
        input_names=["a"],
        output_names=["out"],
        source="out[0] = (unsigned long long)a;",
    )
