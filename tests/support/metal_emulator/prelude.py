"""The prelude of every MLX kernel, and MLX's Metal headers, from the public macOS wheel.

Nothing of MLX lies in this repository: the wheel of the installed version is fetched by pip into
the cache, the prelude is cut out of ``libmlx.dylib``, and the headers are unpacked.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from tests.support.metal_emulator.cache import cache_dir, cached
from tests.support.metal_emulator.errors import EmulatorUnavailable

_LIBRARY = "mlx/lib/libmlx.dylib"
_FOLDER = "mlx/backend/metal/kernels/"
_HEADERS = f"mlx/include/{_FOLDER}"
_INCLUDE = re.compile(r'^\s*#include "(?P<path>mlx/[^"]*)".*$', re.M)
_START = re.compile(
    rb"\n// Copyright \xc2\xa9 \d+ Apple Inc\.\s+"
    rb"// Auto generated source for mlx/backend/metal/kernels/utils\.h"
)
_SECTION = re.compile(r'(?<!/)(?=/{70,}\n// Contents from ")')
# clang's C++ refuses complex.h, whose constructors name address spaces; nothing here needs it.
_COMPLEX = """
template <class T> struct complex_t {
  T real, imag;
  constexpr complex_t(T r = 0, T i = 0) : real(r), imag(i) {}
  constexpr operator T() const { return real; }
};
typedef complex_t<float> complex64_t;
inline complex64_t operator*(complex64_t a, complex64_t b) {
  return complex64_t(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real);
}
"""


@functools.cache
def prelude() -> str:
    """The prelude of the installed MLX version.

    Raises:
        EmulatorUnavailable: It is not in the cache and the wheel cannot be fetched.
    """
    return (_unpacked() / "prelude.metal").read_text()


@functools.cache
def header_text(*names: str) -> str:
    """MLX's own headers, with what they include of each other in its place.

    Args:
        names: As ``quantized.h``, in the order in which MLX's kernels include them.
    """
    seen: set[str] = set()

    def flatten(path: str) -> str:
        if path in seen:
            return ""
        seen.add(path)
        text = (_unpacked() / path).read_text().replace("#pragma once", "")
        return _INCLUDE.sub(lambda m: flatten(m["path"]), text)

    # What the prelude holds already.
    seen |= {f"{_FOLDER}{name}" for name in ("utils.h", "bf16.h", "bf16_math.h", "complex.h")}
    seen |= {f"{_FOLDER}{name}" for name in ("defines.h", "logging.h")}
    return "\n".join(flatten(_FOLDER + name) for name in names)


@functools.cache
def _unpacked() -> Path:
    return cached(cache_dir("mlx") / f"{version('mlx')}-1", _unpack)


def _unpack(into: Path) -> None:
    into.mkdir()
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(_fetch(Path(folder))) as wheel,
    ):
        (into / "prelude.metal").write_text(_cut_out(wheel.read(_LIBRARY)))
        for name in wheel.namelist():
            if name.startswith(_HEADERS) and name.endswith(".h"):
                target = into / name.removeprefix("mlx/include/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))


def _fetch(folder: Path) -> Path:
    wanted = f"mlx-metal=={version('mlx')}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += ["--platform", "macosx_14_0_arm64", "--timeout", "15", "--retries", "1"]
    done = subprocess.run([*command, "-d", str(folder), wanted], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise EmulatorUnavailable(
            f"MLX's Metal prelude comes from the wheel {wanted}, which pip cannot fetch: {last}"
        )
    return wheels[0]


def _cut_out(library: bytes) -> str:
    start = _START.search(library)
    if start is None:
        raise EmulatorUnavailable(f"no Metal prelude in the mlx-metal wheel {version('mlx')}")
    text = library[start.start() : library.index(b"\0", start.start())].decode()
    sections = _SECTION.split(text)
    complex_header = '"mlx/backend/metal/kernels/complex.h"'
    return "".join(_COMPLEX if complex_header in part[:200] else part for part in sections)
