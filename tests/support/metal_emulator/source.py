"""The exact text that MLX would compile on a Mac.

MLX writes the signature around a kernel's body, and it depends on sizes, dtypes and words in the
body. None of that is imitated here: exporting a function that calls the kernel makes MLX write the
text, on any machine, and the exported file holds it.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from tests.support.metal_emulator.errors import CompileError

_TAG = b"CustomKernel"
_INSTANTIATION = re.compile(
    r"template\s*\[\[host_name\([^)]*\)\]\]\s*\[\[kernel\]\]\s*decltype\((?P<name>\w+)(?P<args><.*>)\)"
)
_PARAMETER = re.compile(
    r"^(?P<type>.*?)\s*(?P<name>\w+)\s*\[\[\s*(?P<attribute>\w+)(\((?P<index>\d+)\))?", re.S
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a buffer (``index`` is set) or a position attribute."""

    type: str
    name: str
    attribute: str
    index: int | None


@dataclass(frozen=True)
class KernelSource:
    """A kernel as MLX hands it to the Metal compiler, less the prelude."""

    name: str
    text: str
    template_arguments: str
    parameters: tuple[Parameter, ...]


def trace(kernel: Any, inputs: list[mx.array], **call: Any) -> KernelSource:
    """The text of ``kernel`` (made by ``mx.fast.metal_kernel``) for this call."""

    def calls(*arrays: mx.array) -> list[mx.array]:
        return list(kernel(inputs=list(arrays), **call))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.mlxfn"
        mx.export_function(str(path), calls, *inputs)
        name, text = _read_exported(path.read_bytes())
    return describe(name, text)


def describe(name: str, text: str, template_arguments: str | None = None) -> KernelSource:
    """Reads the signature of the kernel ``name`` in ``text``."""
    if template_arguments is None:
        found = _INSTANTIATION.search(text)
        template_arguments = found["args"] if found else ""
    return KernelSource(name, text, template_arguments, _parameters(name, text))


def _read_exported(blob: bytes) -> tuple[str, str]:
    """Name and text of the only custom kernel: after its tag, two strings with 64-bit lengths."""
    at = blob.find(_TAG)
    if at < 0:
        raise CompileError("MLX exported no custom kernel")
    at += len(_TAG)
    strings = []
    for _ in range(2):
        size = int.from_bytes(blob[at : at + 8], "little")
        strings.append(blob[at + 8 : at + 8 + size].decode())
        at += 8 + size
    name, text = strings
    if f"void {name}(" not in text:
        raise CompileError("the format of MLX's exported functions has changed")
    return name, text


def _parameters(name: str, text: str) -> tuple[Parameter, ...]:
    head = re.search(rf"\bvoid\s+{re.escape(name)}\s*\(", text)
    if head is None:
        raise CompileError(f"no kernel {name} in its own text")
    parameters, current, depth = [], "", 1
    for char in text[head.end() :]:
        depth += {"(": 1, "[": 1, "<": 1, ")": -1, "]": -1, ">": -1}.get(char, 0)
        if depth == 0 or (char == "," and depth == 1):
            parameters.append(_parameter(current.strip()))
            current = ""
        else:
            current += char
        if depth == 0:
            break
    return tuple(parameters)


def _parameter(text: str) -> Parameter:
    match = _PARAMETER.match(text)
    if match is None:
        raise CompileError(f"a kernel parameter without attribute: {text!r}")
    index = match["index"]
    return Parameter(
        match["type"], match["name"], match["attribute"], None if index is None else int(index)
    )
