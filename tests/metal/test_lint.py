"""The lint: each rule finds its case, and a clean kernel passes. Needs no compiler."""

from __future__ import annotations

import pytest

from tests.support.metal_emulator.lint import lint
from tests.support.sample_kernels import HEADER, QMV


@pytest.fixture(scope="session", autouse=True)
def emulator() -> None:
    """Nothing here needs it."""


IN_BODY = {
    "double d = 1;": "no double",
    "goto end;": "no goto",
    "try { y[0] = 1; } catch (int) {}": "no exceptions",
    "float v = std::max(1, 2);": "metal::",
    "long long big = 1;": "no long long",
    "half h = 1.0h;": "clang cannot read it",
    "bfloat b = 2bf;": "clang cannot read it",
    "float f = 1.5L;": "no long double",
    "static int count = 0;": "static local",
    "float (*op)(float) = f;": "function pointers",
    "auto f = [&](float v) { return v; };": "lambdas",
    "float* p = 0;": "address space",
    "const T* p = x;": "address space",
    "auto q = reinterpret_cast<const uint*>(w);": "address space",
    "uint3 grid_size = 1;": "declared by MLX's signature already",
    "int my_grid_size = 1;": "contains grid_size",
    "int data_w_shape = 1;": "contains w_shape",
    "y[0] = w_shape[0];": "closes the signature too early",
}
IN_HEADER = {
    "float f(float v) { return v > 1 ? f(v / 2) : v; }": "f: recursion",
    "int b(int v);\nint a(int v) { return b(v); }\nint b(int v) { return a(v); }": "a: recursion",
    "struct S { virtual float f(); };": "no virtual",
    "float f(float* p) { return p[0]; }": "address space",
    "float f(thread float& a, float& b) { return a; }": "float&: a pointer or reference",
    "float f() { static float c = 0; return c; }": "static local",
    "float f() { threadgroup float t[4]; return t[0]; }": "outside the kernel",
    "constexpr int N = 3;": "has to be `constant`",
    "template <typename T> T ceildiv(T a, T b) { return a; }": "MLX's prelude",
    "#define MTL_CONST const": "MLX's prelude",
    "#include <cmath>": "Metal's own headers",
}


@pytest.mark.parametrize("text", IN_BODY)
def test_body(text: str) -> None:
    found = lint(f"\n{text}\n", input_names=["w", "x"], output_names=["y", "z"], template=["T"])
    assert any(IN_BODY[text] in f.text and f.line == 2 for f in found) or (
        found and found[0].line == 1 and IN_BODY[text] in found[0].text
    )


@pytest.mark.parametrize("text", IN_HEADER)
def test_header(text: str) -> None:
    assert any(IN_HEADER[text] in f.text for f in lint("", f"// a comment\n{text}\n"))


def test_clean() -> None:
    names = ["w", "scales", "biases", "x"]
    assert lint(QMV, HEADER, input_names=names, output_names=["y"], template=["T", "N", "K"]) == []


@pytest.mark.parametrize(
    "text",
    [
        "// double, goto and 1.0h in a comment",
        "const device T* p = x; thread float& r = v; y[0] = a * b;",
        "auto p = (const device uint4*)w; float f = 1.0f; int i = 0xbf;",
        "float v[4] = {0}; v[i * 2] = T(x[0]) * s;",
        "uint n = w_shape[0] + grid_size.x + thread_position_in_grid.x;",
        "threadgroup float t[2][4]; y[0] = metal::precise::exp(x[0]);",
    ],
)
def test_not_too_strict(text: str) -> None:
    assert lint(text, input_names=["w", "x"], output_names=["y"], template=["T"]) == []


@pytest.mark.parametrize(
    "text",
    [
        "template <int N> struct Loop { static METAL_FUNC void run(thread float* v) {} };",
        "template <int N> METAL_FUNC int f() { return f<N - 1>(); }",
        "constant constexpr int N = 3;\nstatic constant constexpr float table[2] = {1, 2};",
        "struct Pair { float a; float b; };\nMETAL_FUNC float sum(Pair p) { return p.a + p.b; }",
        "template <typename P> METAL_FUNC float first(P p) { return float(p[0]); }",
    ],
)
def test_not_too_strict_with_headers(text: str) -> None:
    assert lint("", text) == []
