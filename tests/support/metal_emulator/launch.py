"""Runs a compiled kernel over a grid, in this process or (sanitizers) in a separate one."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
import threading
from pathlib import Path

from tests.support.metal_emulator.buffers import Buffer
from tests.support.metal_emulator.errors import KernelFault
from tests.support.metal_emulator.toolchain import symbolizer

SCHEDULES = ("ascending", "reverse", "random")
Grid = tuple[int, int, int]

_SECONDS = 120
_OPTIONS = {
    # Stacks of fibers are ours; their leftovers at the end are no leaks.
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:color=never",
    "UBSAN_OPTIONS": "print_stacktrace=0:color=never",
    "MSAN_OPTIONS": "color=never",
}
# Lines of a sanitizer's report that say something; the rest are stacks and shadow bytes. Of those,
# what is between the finding and the place: addresses, and the mangled names of MLX's kernels.
_FINDING = re.compile(r"ERROR: AddressSanitizer|runtime error|#\d+ .*kernel\.metal|SUMMARY: Mem")
_NOISE = re.compile(
    r"==\d+==\s*|on (?:unknown )?address 0x.*|0x[0-9a-f]+ |in void .*\) (?=/)|/\S*/(?=kernel)"
)
_RUNTIME_LOCK = threading.Lock()  # the fibers of a library are global to it


class _Arguments(ctypes.Structure):
    """``msl_launch_args`` of the runtime's scheduler.h."""

    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_size_t)),
        ("out", ctypes.POINTER(ctypes.c_ubyte)),
        ("n_buffers", ctypes.c_uint),
        ("grid", ctypes.c_uint * 3),
        ("group", ctypes.c_uint * 3),
        ("schedule", ctypes.c_uint),
        ("seed", ctypes.c_ulonglong),
        ("report", ctypes.c_char_p),
        ("report_size", ctypes.c_size_t),
    ]


def launch(
    binary: Path,
    buffers: list[Buffer],
    grid: Grid,
    threadgroup: Grid,
    *,
    schedule: str = "ascending",
    seed: int = 0,
    text: str = "",
) -> None:
    """Runs the kernel; the outputs are changed in place.

    Args:
        text: The kernel's text, to quote the lines that a report names.

    Raises:
        KernelFault: A rule of Metal was broken, or a sanitizer found something.
    """
    order = SCHEDULES.index(schedule)
    run = _run_here if binary.suffix == ".so" else _run_apart
    report = run(binary, buffers, grid, threadgroup, order, seed)
    if report:
        raise KernelFault(_quote(report, text))


def _run_here(
    binary: Path, buffers: list[Buffer], grid: Grid, group: Grid, order: int, seed: int
) -> str:
    library = ctypes.CDLL(str(binary))
    library.msl_kernel_entry.restype = ctypes.c_void_p
    n = len(buffers)
    report = ctypes.create_string_buffer(64 << 10)
    arguments = _Arguments(
        entry=library.msl_kernel_entry(),
        buffers=(ctypes.c_void_p * n)(*(b.data.ctypes.data + b.start for b in buffers)),
        sizes=(ctypes.c_size_t * n)(*(b.data.nbytes for b in buffers)),
        out=(ctypes.c_ubyte * n)(*(b.output for b in buffers)),
        n_buffers=n,
        grid=(ctypes.c_uint * 3)(*grid),
        group=(ctypes.c_uint * 3)(*group),
        schedule=order,
        seed=seed,
        report=ctypes.cast(report, ctypes.c_char_p),
        report_size=len(report),
    )
    with _RUNTIME_LOCK:
        library.msl_launch(ctypes.byref(arguments))
    found = re.sub(r"@([0-9a-f]+)@", lambda m: _place(binary, m[1]), report.value.decode())
    beside = [f"the kernel wrote beside its output {b.name}\n" for b in buffers if b.overrun()]
    return found + "".join(beside)


def _run_apart(
    binary: Path, buffers: list[Buffer], grid: Grid, group: Grid, order: int, seed: int
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        lines = [" ".join(map(str, (len(buffers), *grid, *group, order, seed)))]
        paths = [Path(folder) / str(i) for i in range(len(buffers))]
        for path, buffer in zip(paths, buffers, strict=True):
            role = "i" if not buffer.output else "u" if buffer.filled else "o"
            if role != "o":
                buffer.data.tofile(path)
            lines.append(f"{role} {buffer.data.nbytes} {buffer.start} {path}")
        spec = Path(folder) / "launch"
        spec.write_text("\n".join(lines) + "\n")
        # Without address randomisation: the shadow memory of sanitizers wants its place.
        command = ["setarch", "-R", str(binary), str(spec)]
        environment = {**os.environ, **_OPTIONS}
        if found := symbolizer():
            environment |= {f"{s}_SYMBOLIZER_PATH": found for s in ("ASAN", "UBSAN", "MSAN")}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=_SECONDS
        )
        if done.returncode == 0:
            for path, buffer in zip(paths, buffers, strict=True):
                if buffer.output:
                    buffer.data.reshape(-1).view("u1")[:] = memoryview(path.read_bytes())
            return ""
    found = [_NOISE.sub("", s).strip() for s in done.stderr.splitlines() if _FINDING.search(s)]
    kept = list(dict.fromkeys(found)) or done.stderr.splitlines()[-5:]
    own = re.sub(r"output buffer (\d+)", lambda m: f"output {buffers[int(m[1])].name}", done.stdout)
    return "\n".join([*own.splitlines(), *kept]) or f"exit status {done.returncode}"


def _place(binary: Path, offset: str) -> str:
    """``kernel.metal:line:column`` of an offset into a library."""
    program = symbolizer()
    if program is None:
        return f"offset {offset}"
    command = [program, "--obj", str(binary), "--no-inlines", "--output-style=GNU", f"0x{offset}"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return Path(lines[1]).name if len(lines) > 1 else f"offset {offset}"


def _quote(report: str, text: str) -> str:
    source = text.splitlines()
    named = {int(n) for n in re.findall(r"(?:kernel\.metal:|lines? | and )(\d+)", report)}
    quoted = [f"{n:5d} | {source[n - 1]}" for n in sorted(named) if 0 < n <= len(source)]
    return "\n".join([report.rstrip(), *quoted])
