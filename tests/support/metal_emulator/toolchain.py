"""Finds the compiler, or describes in one sentence why the emulator cannot run here."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.metal_emulator.errors import EmulatorUnavailable

ENV = "FLASH_MOE_EMULATOR_CXX"
SHIM = Path(__file__).parent / "shim"
INSTALL = "apt-get install clang-19 libclang-rt-19-dev llvm-19"


@functools.cache
def compiler() -> str:
    """The path of clang++-19.

    Raises:
        EmulatorUnavailable: It is not there, or this is not a machine the runtime is written for.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        raise EmulatorUnavailable("the Metal emulator is written for Linux on x86-64")
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        raise EmulatorUnavailable("the Metal emulator needs a processor with AVX2")
    wanted = os.environ.get(ENV, "clang++-19")
    found = shutil.which(wanted)
    if found is None:
        raise EmulatorUnavailable(f"the Metal emulator needs {wanted} ({INSTALL})")
    return found


@functools.cache
def compiler_version() -> str:
    """Part of the name of everything compiled."""
    done = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True)
    return done.stdout


def symbolizer() -> str | None:
    """llvm-symbolizer next to the compiler; reports of races have no line numbers without it."""
    return shutil.which("llvm-symbolizer-19") or shutil.which("llvm-symbolizer")
