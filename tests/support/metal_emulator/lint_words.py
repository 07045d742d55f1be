"""Word lists of the lint: names that Metal lacks, and names that are reserved."""

from __future__ import annotations

from tests.support.metal_emulator.glue import SINGLES, TRIPLES

SPACES = ("device", "constant", "threadgroup", "thread")
ATTRIBUTES = frozenset({*TRIPLES, *SINGLES, "grid_origin"})

# Not in Metal at all, or excluded by its specification.
WORDS = {
    "double": "Metal has no double",
    "goto": "Metal has no goto",
    "virtual": "Metal has no virtual functions",
    **dict.fromkeys(("try", "catch", "throw", "noexcept"), "Metal has no exceptions"),
    **dict.fromkeys(("typeid", "dynamic_cast"), "Metal has no run-time types"),
    **dict.fromkeys(("new", "delete"), "Metal has no heap"),
    **dict.fromkeys(("asm", "register", "thread_local"), "not in Metal"),
    "std": "the standard library is called metal:: there",
}
_NUMBER = r"\b(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?"
PATTERNS = {
    r"\blong\s+long\b": "Metal has no long long",
    rf"{_NUMBER}(?:h|bf|H|BF)\b": "clang cannot read it: half(1.0f)",
    r"\b\d+[uU]?(?:ll|LL)[uU]?\b": "Metal has no long long",
    r"\b(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?[lL]\b": "Metal has no long double",
    r"\(\s*\*\s*\w+\s*\)\s*\([^)]*\)\s*[=;,)]": "Metal has no function pointers",
    r"[=(,;{]\s*\[(?!\[)[&=\w\s,]*\]\s*[({]": "the specification excludes lambdas",
    r"#\s*include\s*<(?!metal)": "only Metal's own headers exist there",
}

# Names that MLX's prelude defines, at the top or beside `using namespace metal`.
_PRELUDE = """
    Limits WorkPerThread LoopedElemToLoc ConditionalType ceildiv cast_to log1p elem_to_loc
    elem_to_loc_1 elem_to_loc_2 elem_to_loc_3 complex_t complex64_t float16_t bfloat16_t
    bfloat16_to_uint16 uint16_to_bfloat16 MTL_CONST METAL_FUNC REDUCE_N_READS REDUCE_N_WRITES
    SOFTMAX_N_READS RMS_N_READS RMS_LOOPED_LIMIT CROSS_ENTROPY_N_READS instantiate_kernel
    MAX_REDUCE_SPECIALIZED_DIMS os_log mlx metal
"""
PRELUDE_NAMES = frozenset(_PRELUDE.split())

_ELEMENTS = ("bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong")
_FLOATS = ("half", "bfloat", "float")
TYPES = frozenset(
    [f"{element}{n}" for element in (*_ELEMENTS, *_FLOATS) for n in ("", 2, 3, 4)]
    + [f"{sign}int{n}_t" for sign in ("", "u") for n in (8, 16, 32, 64)]
    + [f"atomic_{element}" for element in ("int", "uint", "float", "bool")]
    + ["size_t", "ptrdiff_t", "void", "unsigned", "signed", "bfloat16_t", "float16_t"]
)
