"""Compiles a kernel for the CPU: plain, or with one of the sanitizers.

The sanitizers of clang skip accesses in address spaces. So the front end, which has to see the
address spaces to check them, writes IR without optimising; the address spaces are then deleted from
the IR, and only after that it is instrumented and optimised.
"""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.metal_emulator import toolchain
from tests.support.metal_emulator.cache import cache_dir, cached, digest
from tests.support.metal_emulator.errors import CompileError
from tests.support.metal_emulator.glue import entry_point
from tests.support.metal_emulator.prelude import prelude
from tests.support.metal_emulator.rewrite import to_cpp
from tests.support.metal_emulator.source import KernelSource

_LANGUAGE = [
    "-std=c++20",
    "-march=x86-64-v3",
    "-fPIC",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    # half and bfloat are rounded after every operation, literals are single precision, and vectors
    # convert only when asked, as in Metal.
    *("-Xclang", "-ffloat16-excess-precision=none"),
    *("-Xclang", "-fbfloat16-excess-precision=none"),
    *("-Xclang", "-cl-single-precision-constant"),
    "-fno-lax-vector-conversions",
    "-ftemplate-depth=2000",
    "-fno-caret-diagnostics",
    "-Wno-unknown-attributes",
    "-Wno-static-float-init",
    "-Wno-c++11-narrowing",
    "-Wno-duplicate-decl-specifier",  # `constant` says const
    "-Wimplicit-float-conversion",  # see _check
]
# Words of C++ that Metal does not have: an error where clang would take them.
_POISON = "#pragma GCC poison double goto virtual try catch throw typeid dynamic_cast new delete\n"
_TEXT = "kernel.metal"
_INCLUDE = f"-I{toolchain.SHIM}"


@dataclass(frozen=True)
class Build:
    """Flags of one kind of build. ``shared``: loaded into this process, else a program."""

    sanitize: tuple[str, ...]
    optimise: str
    runtime: tuple[str, ...]
    runtime_flags: tuple[str, ...]
    shared: bool


_RUNTIME = ("scheduler.cpp", "memory.cpp", "launch.cpp")
BUILDS = {
    "plain": Build((), "-O2", _RUNTIME, (), True),
    "asan": Build(
        ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=undefined"),
        "-O1",
        (*_RUNTIME, "driver.cpp"),
        ("-DMSL_ASAN",),
        False,
    ),
    # Only the instrumentation is clang's; the calls it makes go to race.cpp. Stores of two branches
    # stay two: merged into one, they would have no line to report.
    "tsan": Build(
        (
            "-fsanitize=thread",
            *("-mllvm", "-tsan-instrument-func-entry-exit=0"),
            *("-mllvm", "-sink-common-insts=0"),
        ),
        "-O1",
        (*_RUNTIME, "race.cpp"),
        (),
        True,
    ),
    "msan": Build(
        ("-fsanitize=memory", "-fsanitize-memory-track-origins=2"),
        "-O1",
        (*_RUNTIME, "driver.cpp"),
        ("-DMSL_MSAN", "-fsanitize=memory", "-fsanitize-memory-track-origins=2"),
        False,
    ),
}


def _contraction(contract: bool) -> str:
    """Whether ``a * b + c`` of floats becomes one operation, rounded once; Metal may do either."""
    return f"-ffp-contract={'fast' if contract else 'off'}"


@functools.cache
def compile_kernel(source: KernelSource, build: str = "plain", contract: bool = False) -> Path:
    """The shared library or program of ``source``.

    Args:
        build: One of `BUILDS`.
        contract: Fuse multiplications and additions wherever that is possible, else nowhere.

    Raises:
        CompileError: clang refuses the text, or accepts what Metal would not.
        EmulatorUnavailable: There is no compiler, or no prelude.
    """
    kind = BUILDS[build]
    text = _POISON + f'#line 1 "{_TEXT}"\n' + to_cpp(source.text) + entry_point(source)
    fusing = _contraction(contract)
    key = digest(text, build, repr(kind), fusing, _common_key(), prelude())
    name = f"{key}.so" if kind.shared else key

    def make(target: Path) -> None:
        cpp, kernel = target.with_suffix(".cpp"), target.with_suffix(".o")
        cpp.write_text(text)
        header = ["-include-pch", str(_precompiled(build, contract))]
        front = [*_LANGUAGE, fusing, _INCLUDE, *header, str(cpp)]
        if not kind.sanitize:
            _check(_run(kind.optimise, *front, "-c", "-o", str(kernel)))
        else:
            ir = target.with_suffix(".ll")
            unoptimised = [
                "-g1",
                *kind.sanitize,
                "-Xclang",
                "-disable-llvm-passes",
                "-S",
                "-emit-llvm",
            ]
            _check(_run(kind.optimise, *unoptimised, *front, "-o", str(ir)))
            ir.write_text(without_address_spaces(ir.read_text()))
            back = ["-g1", "-march=x86-64-v3", "-fPIC", fusing, "-Wno-override-module"]
            back += kind.sanitize
            _run(kind.optimise, *back, "-c", str(ir), "-o", str(kernel))
        link = ["-shared", "-Wl,-Bsymbolic,-z,defs"] if kind.shared else list(kind.sanitize)
        objects = [str(_runtime(build, part)) for part in kind.runtime]
        _run(*link, str(kernel), *objects, "-lm", "-o", str(target))

    return cached(cache_dir("kernels") / name, make)


def without_address_spaces(ir: str) -> str:
    """IR in which every pointer is a plain one."""
    ir = re.sub(r"\s*addrspace\([123]\)", "", ir)
    ir = re.sub(r"addrspacecast ptr (\S+) to ptr", r"bitcast ptr \1 to ptr", ir)
    ir = ir.replace("addrspacecast (ptr", "bitcast (ptr")
    ir = re.sub(r"(@llvm\.\w+(?:\.\w+)*?)\.p[123]\b", r"\1.p0", ir)
    return re.sub(r"(@llvm\.mem\w+(?:\.inline)?\.p0)\.p[0123]\b", r"\1.p0", ir)


@functools.cache
def _common_key() -> str:
    files = sorted(p for p in toolchain.SHIM.rglob("*") if p.is_file())
    return digest(
        toolchain.compiler_version(),
        repr(_LANGUAGE),
        *(f"{p.name}\n{p.read_text()}" for p in files),
    )


@functools.cache
def _precompiled(build: str, contract: bool) -> Path:
    """The shim and MLX's prelude, parsed once for all kernels of this kind of build."""
    kind = BUILDS[build]
    text = "#include <metal_stdlib>\n" + to_cpp(prelude())
    flags = [*_LANGUAGE, _contraction(contract), _INCLUDE, kind.optimise, *kind.sanitize]
    if kind.sanitize:
        flags.append("-g1")

    def make(target: Path) -> None:
        # The precompiled header remembers where its source was: it has to stay.
        header = cached(cache_dir("prelude") / f"{digest(text)}.hpp", lambda p: _write(p, text))
        # The key holds the content of every file; a fresh clone has other times, and is the same.
        no_times = ("-Xclang", "-fno-pch-timestamp")
        _run(*flags, *no_times, "-x", "c++-header", str(header), "-o", str(target))

    key = digest(text, repr(flags), _common_key(), "no times")
    return cached(cache_dir("prelude") / f"{key}.pch", make)


@functools.cache
def _runtime(build: str, part: str) -> Path:
    kind = BUILDS[build]
    flags = ["-std=c++20", "-O2", "-g1", "-fPIC", "-march=x86-64-v3", *kind.runtime_flags]

    def make(target: Path) -> None:
        _run(*flags, "-c", str(toolchain.SHIM / "runtime" / part), "-o", str(target))

    key = digest(part, repr(flags), _common_key())
    return cached(cache_dir("runtime") / f"{key}.o", make)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _run(*arguments: str) -> str:
    done = subprocess.run([toolchain.compiler(), *arguments], capture_output=True, text=True)
    if done.returncode:
        found = re.compile("error|note|undefined")
        lines = [line for line in done.stderr.splitlines() if found.search(line)]
        raise CompileError("\n".join((lines or done.stderr.splitlines())[:20]))
    return done.stderr


def _check(diagnostics: str) -> None:
    """Metal has no implicit conversion to bfloat; clang has, and only warns."""
    found = [
        line
        for line in diagnostics.splitlines()
        if line.startswith(_TEXT) and re.search(r"to '[^']*bfloat", line)
    ]
    if found:
        raise CompileError("Metal does not convert to bfloat by itself\n" + "\n".join(found))
