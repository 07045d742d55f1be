"""Searched scales: the format, never worse than mx.quantize, near the optimum, odd groups."""

from __future__ import annotations

import itertools
import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flash_moe.compat.dtypes import FLOAT_DTYPES
from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.pack.convert import scale_search
from flash_moe.pack.convert.scale_search import (
    Quantized,
    quantize_searched,
    relative_error,
)
from flash_moe.store.quantization import EXPERT_BITS, GROUP_SIZES
from tests.support.effort import first, repetitions

SCALE_DTYPES = tuple(FLOAT_DTYPES.values())
ALL = list(itertools.product(EXPERT_BITS, GROUP_SIZES, SCALE_DTYPES))
IDS = [f"{bits}-{group}-{str(dtype).split('.')[-1]}" for bits, group, dtype in ALL]
KINDS = ("gaussian", "laplace", "uniform", "outliers", "offset")
# Each format with one kind of weights, the kinds taking turns; then with the others.
OF_KINDS = [
    (KINDS[(number + turn) % len(KINDS)], *form)
    for turn in range(len(KINDS))
    for number, form in enumerate(ALL)
]


def draw(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    w = {
        "gaussian": random.normal(size=shape),
        "laplace": random.laplace(size=shape),
        "uniform": random.uniform(-1, 1, size=shape),
        "outliers": random.normal(size=shape) * np.where(random.rand(*shape) < 0.02, 30, 1),
        "offset": random.normal(size=shape) + 5 * random.normal(size=(*shape[:-1], 1)),
    }[kind]
    return (0.02 * w).astype(np.float32)


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """Codes of packed words, bit by bit, the least significant first."""
    stream = np.unpackbits(words.astype("<u4").view(np.uint8), axis=-1, bitorder="little")
    codes = stream.reshape(*words.shape[:-1], -1, bits)
    return (codes * (1 << np.arange(bits))).sum(-1)


def host(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def decode(quantized: Quantized, bits: int, group_size: int) -> np.ndarray:
    """float64 [..., rows, n_in]: the format as store-format.md has it, without mlx."""
    codes = unpack(np.array(quantized.weight), bits).astype(np.float64)
    scales, biases = (np.repeat(host(p), group_size, axis=-1) for p in quantized[1:])
    return codes * scales + biases


def group_errors(w: np.ndarray, quantized: Quantized, bits: int, group_size: int) -> np.ndarray:
    off = w.astype(np.float64) - decode(quantized, bits, group_size)
    return np.square(off).reshape(-1, group_size).sum(-1)


@pytest.mark.parametrize(("bits", "group_size", "dtype"), ALL, ids=IDS)
def test_mlx_reads_the_format(bits: int, group_size: int, dtype: mx.Dtype) -> None:
    w = draw("gaussian", (3, 4, 256))
    found = quantize_searched(mx.array(w), bits=bits, group_size=group_size, dtype=dtype)
    plain = mx.quantize(mx.array(w), bits=bits, group_size=group_size)
    assert [p.shape for p in found] == [p.shape for p in plain]
    assert [p.dtype for p in found] == [mx.uint32, dtype, dtype]
    as_float32 = (found.weight, *(p.astype(mx.float32) for p in found[1:]))
    ours = decode(found, bits, group_size)
    theirs = host(mx.dequantize(*as_float32, bits=bits, group_size=group_size))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7 * np.abs(w).max())
    x = mx.array(draw("gaussian", (3, 2, 256), seed=1))
    y = mx.quantized_matmul(x, *as_float32, bits=bits, group_size=group_size)
    np.testing.assert_allclose(host(y), host(x) @ ours.swapaxes(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", EXPERT_BITS)
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    # A ramp through all codes: mx.quantize gives it back as it is, so both pack the same codes.
    ramp = np.arange(512).reshape(2, 256) % (1 << bits)
    ramp[:, ::32], ramp[:, 1::32] = 0, (1 << bits) - 1  # every group has both ends
    weight, scales, biases = mx.quantize(-mx.array(ramp, mx.float32), bits=bits, group_size=32)
    codes = np.round((-ramp - np.repeat(host(biases), 32, -1)) / np.repeat(host(scales), 32, -1))
    words = scale_search._pack(mx.array(codes.reshape(-1, 32).T, mx.uint32), bits)
    np.testing.assert_array_equal(np.array(words), np.array(weight).reshape(words.shape))
    np.testing.assert_array_equal(unpack(np.array(words), bits), codes.reshape(-1, 32))


@pytest.mark.parametrize(("kind", "bits", "group_size", "dtype"), first(len(ALL), OF_KINDS))
def test_no_group_is_worse_than_plain(
    kind: str, bits: int, group_size: int, dtype: mx.Dtype
) -> None:
    w = draw(kind, (24, 512), seed=bits)
    # What plain min-max may mean: scales rounded at the end, or weights rounded first; and the
    # same for weights that are 16-bit ones to begin with.
    for source in {mx.float32, dtype}:
        weight = mx.array(w).astype(source)
        exact = host(weight)
        found = quantize_searched(weight, bits=bits, group_size=group_size, dtype=dtype)
        ours = group_errors(exact, found, bits, group_size)
        for before in {source, dtype}:
            plain = mx.quantize(weight.astype(before), bits=bits, group_size=group_size)
            plain = Quantized(plain[0], *(p.astype(dtype) for p in plain[1:]))
            theirs = group_errors(exact, plain, bits, group_size)
            # Errors are compared in float32. That is 1e-7 of the weights, which beside an error
            # of 1/510 of their range, and with an offset of many ranges, can be 1e-4.
            assert (ours <= theirs * (1 + 1e-4)).all(), (ours / theirs).max()
            if bits <= 4:
                assert ours.sum() < 0.97 * theirs.sum()


def optimum(group: np.ndarray, bits: int, steps: int) -> float:
    """The least squared error of ``group`` over a fine grid of both ends, each then fitted."""
    n_codes = (1 << bits) - 1
    middle, half = (group.max() + group.min()) / 2, (group.max() - group.min()) / 2
    ends = half * np.linspace(0.15, 1.15, steps)
    low, high = (middle - ends)[:, None, None], (middle + ends)[None, :, None]
    scale, least = (high - low) / n_codes, np.inf
    for _ in range(3):
        q = np.clip(np.round((group - low) / scale), 0, n_codes)
        least = min(least, np.square(group - q * scale - low).sum(-1).min())
        mean_q, mean_w = q.mean(-1, keepdims=True), group.mean()
        spread = np.maximum(np.square(q).mean(-1, keepdims=True) - mean_q**2, 1e-12)
        scale = ((q * group).mean(-1, keepdims=True) - mean_q * mean_w) / spread
        scale = np.maximum(scale, 1e-9)
        low = mean_w - scale * mean_q
    return float(least)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform", "outliers"])
@pytest.mark.parametrize(("bits", "within"), [(2, 1.03), (3, 1.04), (4, 1.06)])
def test_near_the_optimum(kind: str, bits: int, within: float) -> None:
    w = draw(kind, (24, 32), seed=3)
    found = quantize_searched(mx.array(w), bits=bits, group_size=32, dtype=mx.float32)
    best = [optimum(group.astype(np.float64), bits, 70) for group in w]
    assert group_errors(w, found, bits, 32).sum() <= within * sum(best)


@pytest.mark.parametrize(
    ("bits", "below"), [(2, 0.66), (3, 0.744), (4, 0.796), (6, 0.805), (8, 0.56)]
)
def test_what_is_gained(bits: int, below: float) -> None:
    """0.654, 0.741, 0.793, 0.798 and 0.542 of min-max: a search that lost a start has more."""
    weight = mx.array(draw("gaussian", (128, 1024))).astype(mx.bfloat16)
    ours, _ = relative_error(weight, quantize_searched(weight, bits=bits), bits, 64)
    plain = Quantized(*mx.quantize(weight, bits=bits, group_size=64))
    assert ours < below * relative_error(weight, plain, bits, 64)[0]


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", EXPERT_BITS)
def test_what_was_quantized_is_found_again(bits: int, group_size: int, dtype: mx.Dtype) -> None:
    weight = mx.array(draw("gaussian", (64, 512))).astype(dtype)
    source = mx.quantize(weight, bits=bits, group_size=group_size)
    as_float32 = (source[0], *(p.astype(mx.float32) for p in source[1:]))
    decoded = mx.dequantize(*as_float32, bits=bits, group_size=group_size)
    found = quantize_searched(decoded, bits=bits, group_size=group_size, dtype=dtype)
    squared_error, squares = relative_error(decoded, found, bits, group_size)
    assert math.sqrt(squared_error / squares) < 1e-7
    # mx.quantize itself does not find it again if the last code is not used.
    if bits == 4:
        plain = Quantized(*mx.quantize(decoded.astype(dtype), bits=bits, group_size=group_size))
        squared_error, squares = relative_error(decoded, plain, bits, group_size)
        assert math.sqrt(squared_error / squares) > 1e-2


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_a_source_rounded_to_bfloat16_loses_no_more_than_its_rounding(group_size: int) -> None:
    weight = mx.array(draw("gaussian", (64, 512))).astype(mx.bfloat16)
    source = Quantized(*mx.quantize(weight, bits=4, group_size=group_size))
    rounded = mx.dequantize(*source, bits=4, group_size=group_size)
    assert rounded.dtype == mx.bfloat16
    found = quantize_searched(rounded, bits=4, group_size=group_size)
    ours = group_errors(host(rounded), found, 4, group_size)
    theirs = group_errors(host(rounded), source, 4, group_size)
    assert ours.sum() <= theirs.sum()


def test_the_original_recipe_is_found_again() -> None:
    """Scale (max - min) / 15 and bias min, never from the other end: all scales positive."""
    random = np.random.RandomState(0)
    codes = random.randint(0, 16, size=(64, 64))
    codes[:, 0], codes[:, 1] = 0, 15
    scale, bias = (
        host(mx.array(random.uniform(low, high, size=(64, 1))).astype(mx.bfloat16))
        for low, high in ((0.002, 0.004), (-0.03, -0.01))
    )
    w = (codes * scale + bias).astype(np.float32)
    found = quantize_searched(mx.array(w), bits=4)
    assert group_errors(w, found, 4, 64).sum() < 1e-12 * np.square(w).sum()


def numbers(limit: float) -> st.SearchStrategy[np.ndarray]:
    value = st.floats(-limit, limit, width=32, allow_subnormal=False)
    fill = st.one_of(st.just(0.0), value)
    return hnp.arrays(np.float32, (2, 64), elements=value, fill=fill)


@settings(max_examples=repetitions(25, full=150), deadline=None)
@given(
    w=st.one_of(numbers(1.0), numbers(2.0**15), numbers(2.0**-13), numbers(2.0**-60)),
    bits=st.sampled_from(EXPERT_BITS),
    dtype=st.sampled_from(SCALE_DTYPES),
)
def test_odd_groups(w: np.ndarray, bits: int, dtype: mx.Dtype) -> None:
    found = quantize_searched(mx.array(w), bits=bits, group_size=64, dtype=dtype)
    ours = group_errors(w, found, bits, 64)
    assert np.isfinite(ours).all()
    plain = mx.quantize(mx.array(w), bits=bits, group_size=64)
    plain = Quantized(plain[0], *(p.astype(dtype) for p in plain[1:]))
    theirs = group_errors(w, plain, bits, 64)
    # float32 arithmetic knows no error below 1e-7 of the greatest weight.
    floor = 64 * (2e-7 * np.abs(w).max(-1)) ** 2
    worse = ours > theirs * (1 + 1e-4) + floor
    assert not worse[np.isfinite(theirs)].any()


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("bits", EXPERT_BITS)
def test_a_constant_group_is_exact(bits: int, dtype: mx.Dtype) -> None:
    for value in (0.0, 1.0, -0.5, 3.0, -1024.0):
        w = np.full((1, 64), value, np.float32)
        found = quantize_searched(mx.array(w), bits=bits, dtype=dtype)
        np.testing.assert_array_equal(decode(found, bits, 64), w)


@pytest.mark.parametrize("bits", EXPERT_BITS)
def test_one_outlier_among_zeros_is_exact(bits: int) -> None:
    w = np.zeros((1, 64), np.float32)
    w[0, 17] = -8.0
    found = quantize_searched(mx.array(w), bits=bits)
    assert group_errors(w, found, bits, 64).sum() < 1e-4 * 64
    assert decode(found, bits, 64)[0, 17] == pytest.approx(-8.0, abs=0.02)


@pytest.mark.parametrize("power", [-100, -60, -10, 60, 120, 127])
def test_the_unit_does_not_matter(power: int) -> None:
    w = draw("gaussian", (8, 512)) * np.float32(10)
    one = quantize_searched(mx.array(w), bits=4)
    other = quantize_searched(mx.array(w) * 2.0**power, bits=4)
    back = [np.ldexp(host(part), -power) for part in other[1:]]
    if power > -30:
        assert mx.array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(host(one.scales), back[0])
        np.testing.assert_array_equal(host(one.biases), back[1])
    else:  # mx.quantize's scale is 1e-7 or more, so the search has one start less that is any good
        codes = unpack(np.array(other.weight), 4).astype(np.float64)
        scales, biases = (np.repeat(part, 64, axis=-1) for part in back)
        ours = np.square(w - codes * scales - biases).sum()
        assert ours == pytest.approx(group_errors(w, one, 4, 64).sum(), rel=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", SCALE_DTYPES)
def test_what_is_not_finite_is_refused(bad: float, dtype: mx.Dtype) -> None:
    w = draw("gaussian", (4, 128))
    w[2, 77] = bad
    with pytest.raises(UnsupportedModelError, match="finite numbers, got inf or nan"):
        quantize_searched(mx.array(w).astype(dtype), bits=4)


def test_what_float16_cannot_hold_is_refused() -> None:
    w = mx.array(draw("gaussian", (4, 128))) * 1e8
    with pytest.raises(
        UnsupportedModelError, match=r"range of .*float16.*up to 5.55e.*another dtype"
    ):
        quantize_searched(w, bits=4, dtype=mx.float16)
    assert quantize_searched(w, bits=4).scales.shape == (4, 2)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"bits": 5}, "bits: expected one of 2, 3, 4, 6, 8, got 5"),
        ({"group_size": 16}, "group_size: expected one of 32, 64, 128, got 16"),
        ({"dtype": mx.uint8}, "dtype: expected one of .*got mlx.core.uint8"),
    ],
)
def test_unknown_settings(changed: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        quantize_searched(mx.zeros((4, 128)), **{"bits": 4, **changed})


@pytest.mark.parametrize(
    "weight", [mx.zeros((4, 96)), mx.zeros((64,)), mx.zeros((4, 64), mx.uint32)]
)
def test_what_cannot_be_quantized(weight: mx.array) -> None:
    with pytest.raises(UnsupportedModelError, match="weight: expected"):
        quantize_searched(weight, bits=4)


def same(a: Quantized, b: Quantized) -> bool:
    return all(mx.array_equal(x, y).item() for x, y in zip(a, b, strict=True))


def test_twice_is_the_same_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = mx.array(draw("laplace", (3, 5, 320))).astype(mx.bfloat16)
    whole = quantize_searched(weight, bits=3)
    assert same(whole, quantize_searched(weight, bits=3))
    error = relative_error(weight, whole, 3, 64)
    for block in (200, 640, 3000):  # less than a row, than a matrix, and more
        monkeypatch.setattr(scale_search, "CPU_BLOCK", block)
        monkeypatch.setattr(scale_search, "GPU_BLOCK", block)
        assert same(whole, quantize_searched(weight, bits=3))
        assert relative_error(weight, whole, 3, 64) == pytest.approx(error, rel=1e-12)


def test_a_view_is_as_good_as_a_copy() -> None:
    weight = mx.array(draw("gaussian", (3, 128, 64))).swapaxes(1, 2)
    copy = mx.array(np.ascontiguousarray(np.array(weight)))
    assert same(quantize_searched(weight, bits=2), quantize_searched(copy, bits=2))


def test_the_compiled_step_does_the_same() -> None:
    """What a GPU runs, on whatever device this is."""
    w = mx.array(draw("gaussian", (64, 512)))  # [group_size, groups]
    power, zeros = mx.full((1, 512), 0.5), mx.zeros((1, 512))
    best = (zeros + 0.0022, zeros, zeros)
    arguments = (w, power, (zeros + 0.02, zeros - 0.03), best, mx.array(1.2))
    plain, compiled = (
        scale_search._step(3, mx.bfloat16, True, on)(*arguments) for on in (False, True)
    )
    assert 0 < (plain[0][1] != 0).sum().item() < 512  # some were better, others not
    for a, b in zip((*plain[0], *plain[1]), (*compiled[0], *compiled[1]), strict=True):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-5, atol=1e-7)


def test_memory_is_bounded() -> None:
    weight = mx.random.normal((2, 2048, 1024)).astype(mx.bfloat16)
    mx.eval(weight)
    found = quantize_searched(weight[:, :64], bits=4)  # whatever is kept for good
    mx.eval(found)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    found = quantize_searched(weight, bits=4)
    kept = sum(part.nbytes for part in found)
    assert mx.get_peak_memory() - before - kept < 200e6
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    relative_error(weight, found, 4, 64)
    assert mx.get_peak_memory() - before < 200e6


def test_relative_error_is_the_sum_of_squares() -> None:
    w = draw("outliers", (3, 8, 256))
    for bits in EXPERT_BITS:
        found = quantize_searched(mx.array(w), bits=bits, group_size=32)
        squared_error, squares = relative_error(mx.array(w), found, bits, 32)
        exact = group_errors(w, found, bits, 32).sum()
        assert squared_error == pytest.approx(exact, rel=1e-4 if bits == 8 else 1e-5)
        assert squares == pytest.approx(np.square(w.astype(np.float64)).sum(), rel=1e-6)
    parts = [
        relative_error(mx.array(w[e]), Quantized(*(p[e] for p in found)), 8, 32) for e in range(3)
    ]
    assert sum(part[0] for part in parts) == pytest.approx(squared_error, rel=1e-9)


def test_nothing_is_quantized_to_nothing() -> None:
    found = quantize_searched(mx.zeros((0, 128)), bits=4)
    assert [part.shape for part in found] == [(0, 16), (0, 2), (0, 2)]
    assert relative_error(mx.zeros((0, 128)), found, 4, 64) == (0.0, 0.0)
