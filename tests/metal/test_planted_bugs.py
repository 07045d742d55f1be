"""Wrong kernels: a bug of each kind, planted in a right one, is found by the build that is for it.

The right one is silent in all builds (`test_emulator.py::test_quantized_matvec`). What a build does
not find is tested too where it is the lesson: results can be right and the kernel wrong.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import CompileError, KernelFault, run_kernel
from tests.support.metal_emulator.launch import SCHEDULES
from tests.support.sample_kernels import QMV, matvec

BARRIER = "  threadgroup_barrier(mem_flags::mem_threadgroup);\n"
SUM = "float v = simd_sum(acc[r]);"
START = "const int packs = K / 8;"

# Name: what to replace, by what, the build that finds it, and a word of its report.
FOUND = {
    "missing barrier": (BARRIER, "", "tsan", "RACE on threadgroup memory"),
    "barrier for the other memory": (
        "mem_flags::mem_threadgroup",
        "mem_flags::mem_device",
        "tsan",
        "RACE on threadgroup memory",
    ),
    "barrier for no memory": ("mem_threadgroup", "mem_none", "tsan", "RACE on threadgroup memory"),
    "racing threadgroups": ("y[row0 + lane]", "y[(row0 + lane) % 60]", "tsan", "RACE on device"),
    "misaligned vector": (
        "load8<T>(x + p * 8, xv);",
        "load8<T>(x + p * 8, xv); xv[0] += 0 * (*(const device float4*)(x + 1)).x;",
        "tsan",
        "MISALIGNED: 16 bytes",
    ),
    "device read too far": ("if (row0 + r < N) {", "{", "asan", "use-after-poison"),
    "device write too far": (" && row0 + int(lane) < N", "", "asan", "use-after-poison"),
    "threadgroup index too large": ("partial[sg][r] =", "partial[sg + 1][r] =", "asan", "index 2"),
    "threadgroup write too far": (
        "partial[sg][r] =",
        "(&partial[0][0])[(sg + 1) * 4 + r] =",
        "asan",
        "use-after-poison",
    ),
    "thread array read too far": (
        SUM,
        "thread float* a = acc; float v = simd_sum(a[r + int(lane / 16)]);",
        "asan",
        "stack-buffer-overflow",
    ),
    "shift by 32": ("q >>= 4;", "q >>= 4; q |= (q << (28 + i)) & 0u;", "asan", "shift exponent 32"),
    "float too large for an integer": (
        START,
        START + " if (int(x[lane] * 1e20f) == 7) return;",
        "asan",
        "outside the range",
    ),
    "uninitialised threadgroup memory": (
        "if (lane == 0) partial",
        "if (lane == 0 && sg == 0) partial",
        "msan",
        "UNINITIALISED: output y",
    ),
    "uninitialised variable": (
        "float acc[ROWS] = {0};",
        "float acc[ROWS];",
        "msan",
        "UNINITIALISED",
    ),
    "output not written": ("lane < ROWS &&", "lane < ROWS - 1 &&", "msan", "UNINITIALISED"),
    "branch on what is not initialised": (
        START,
        START + " float u[2]; u[sg] = 0; if (u[1 - sg] > 0) return;",
        "msan",
        "use-of-uninitialized-value",
    ),
}

# Found in every build and order, because the threads cannot go on.
STUCK = {
    "barrier in a branch": (BARRIER, "if (lane < 16) " + BARRIER, "threadgroup_barrier at line"),
    "two barriers in two branches": (
        BARRIER,
        "if (sg == 0) " + BARRIER + " else " + BARRIER,
        "wait at different barriers",
    ),
    "collective in a branch": (
        SUM,
        "float v = 0; if (lane < 16) v = simd_sum(acc[r]);",
        "simd_sum",
    ),
    "return before a collective": (START, START + " if (lane >= 30) return;", "simd_sum"),
    "return before a barrier": (BARRIER, "  if (sg == 1) return;\n" + BARRIER, "32 of 64 threads"),
    "lane that does not exist": (SUM, SUM + " v += simd_shuffle(v, lane + 1);", "reads lane 32"),
    "division by zero": (START, START + " if (K / (N - 70 + int(sg)) == 3) return;", "division"),
    "wild read": (START, START + " if (x[1 << 30] == 3) return;", "memory that is not its own"),
}

# Found by the front end.
REFUSED = {
    "threadgroup pointer for device": (
        BARRIER,
        "float t[8]; load8<float>(&partial[0][0], t);" + BARRIER,
        "address space",
    ),
    "device pointer without space": (START, START + " const T* p = x;", "cannot initialize"),
    "write to an input": (START, START + " x[0] = 1;", "read-only"),
    "write to constant memory": (START, START + " constant int* p = 0; p[0] = 1;", "read-only"),
    "function constant that nobody sets": (
        START,
        START + " constant bool flag [[function_constant(0)]]; if (flag) return;",
        "undefined reference to `flag'",
    ),
    "double": (START, START + " double d = 1;", "poisoned"),
    "int and uint in min": (START, START + " if (min(row0, lane) > 100) return;", "ambiguous"),
}


def planted(old: str, new: str) -> str:
    assert old in QMV
    return QMV.replace(old, new)


@pytest.mark.parametrize("bug", FOUND)
def test_found_by_its_build(bug: str) -> None:
    old, new, build, word = FOUND[bug]
    with pytest.raises(KernelFault) as fault:
        matvec().run(planted(old, new), build=build)
    assert word in fault.value.report


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("bug", STUCK)
def test_found_in_every_order(bug: str, schedule: str) -> None:
    old, new, word = STUCK[bug]
    with pytest.raises(KernelFault) as fault:
        matvec().run(planted(old, new), schedule=schedule)
    assert word in fault.value.report


@pytest.mark.parametrize("bug", REFUSED)
def test_found_by_the_front_end(bug: str) -> None:
    old, new, word = REFUSED[bug]
    with pytest.raises(CompileError, match=word):
        matvec().run(planted(old, new))


def test_bfloat_is_not_converted_silently() -> None:
    product = matvec(dtype=mx.bfloat16)
    wrong = planted("static_cast<T>(partial[0][lane] + partial[1][lane])", "partial[0][lane]")
    with pytest.raises(CompileError, match="does not convert to bfloat"):
        product.run(wrong)


def test_the_report_quotes_the_line() -> None:
    old, new, build, _ = FOUND["missing barrier"]
    with pytest.raises(KernelFault, match=r"\| .*partial\[sg\]\[r\] = v;"):
        matvec().run(planted(old, new), build=build)


def test_values_can_be_right_and_the_kernel_wrong() -> None:
    for bug in ("barrier for the other memory", "device read too far", "shift by 32"):
        product = matvec()
        y = product.run(planted(*FOUND[bug][:2]))
        assert np.abs(y - product.exact).max() < 1e-3


def test_a_write_beside_an_output_spoils_nothing_here() -> None:
    with pytest.raises(KernelFault, match="wrote beside its output y"):
        matvec().run(planted(*FOUND["device write too far"][:2]))


def test_races_are_found_between_many_threadgroups() -> None:
    # More threads than clang's own ThreadSanitizer can tell apart.
    source = "uint i = thread_position_in_grid.x; y[i % 4095] = x[0];"
    with pytest.raises(KernelFault, match="RACE on device memory"):
        run_kernel(
            name="race",
            input_names=["x"],
            output_names=["y"],
            source=source,
            inputs=[mx.ones((8,))],
            output_shapes=[(4095,)],
            output_dtypes=[mx.float32],
            grid=(4096, 1, 1),
            threadgroup=(64, 1, 1),
            build="tsan",
        )


@pytest.mark.parametrize(
    ("grid", "floats", "word"),
    [((2048, 1, 1), 8, "2048 threads"), ((32, 1, 1), 9000, "36000 bytes")],
)
def test_limits(grid: tuple[int, int, int], floats: int, word: str) -> None:
    source = f"threadgroup float t[{floats}]; t[0] = x[0]; y[thread_position_in_grid.x] = x[0];"
    with pytest.raises(KernelFault, match=word):
        run_kernel(
            name="limits",
            input_names=["x"],
            output_names=["y"],
            source=source,
            inputs=[mx.ones((8,))],
            output_shapes=[grid[:1]],
            output_dtypes=[mx.float32],
            grid=grid,
            threadgroup=grid,
        )
