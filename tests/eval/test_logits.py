"""Logits in slices, and the file that keeps those of the reference."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from flash_moe import load
from flash_moe.errors import ConfigError
from flash_moe.eval.logits import ReferenceLogits, logits_of, slice_for, slice_length
from flash_moe.eval.windows import Window, read_text, windows
from tests.support.processes import environment


@pytest.mark.parametrize(
    ("vocab", "n_bytes", "longest", "expected"),
    [
        (248_320, 64_000_000, 512, 64),
        (248_320, 512_000_000, 512, 512),
        (248_320, 512_000_000, 511, 511),
        (4096, 64_000_000, 512, 512),
        (2_000_000, 64_000_000, 512, 16),
        (2_000_000, 64_000_000, 5, 5),
    ],
)
def test_slice_length(vocab: int, n_bytes: int, longest: int, expected: int) -> None:
    assert slice_length(vocab, n_bytes, longest) == expected


def test_the_slice_of_a_model(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=0.001) as flash:
        assert slice_for(flash.model, 512, 511, memory_limited=False) == 511
        assert slice_for(flash.model, 1_000_000, 511, memory_limited=True) == 16


@pytest.mark.parametrize("size", [1, 37, 200])
def test_slices_are_the_whole(tiny_mlx: Path, tiny_store: Path, size: int) -> None:
    """Of a resident model and of a streamed one, with windows that do not see each other."""
    resident, tokenizer = mlx_lm.load(str(tiny_mlx))
    text = windows(tokenizer, read_text(), 130, 70)
    with load(tiny_store, cache_gb=0.002) as flash:
        for model in (resident, flash.model):
            found = list(logits_of(model, text, size))
            assert max(len(rows) for rows, _ in found) == min(size, 69)
            assert [t for _, part in found for t in part] == [t for w in text for t in w.targets]
            whole = [np.array(resident(mx.array([w.inputs]))[0]) for w in text]
            got = np.concatenate([rows for rows, _ in found])
            assert got.dtype == np.float32
            assert np.abs(got - np.concatenate(whole)).max() < 2e-5


def test_streamed_slices_have_the_bits_of_resident_ones(tiny_mlx: Path, tiny_store: Path) -> None:
    resident, tokenizer = mlx_lm.load(str(tiny_mlx))
    text = windows(tokenizer, read_text(), 300)
    with load(tiny_store, cache_gb=0.002) as flash:
        pairs = zip(logits_of(resident, text, 100), logits_of(flash.model, text, 100), strict=True)
        assert all(np.array_equal(a, b) for (a, _), (b, _) in pairs)


def test_half_precision_becomes_float32(tiny_mlx: Path) -> None:
    model, _ = mlx_lm.load(str(tiny_mlx))
    model.set_dtype(mx.bfloat16)
    [(rows, _)] = logits_of(model, [Window((1, 2), (2, 3))], 16)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, np.array(mx.array(rows).astype(mx.bfloat16).astype(mx.float32)))


def test_what_is_kept_comes_back() -> None:
    rows = np.random.RandomState(0).randn(50, 700).astype(np.float32)
    with ReferenceLogits(50, 700) as kept:
        for start in (0, 16, 32, 48):
            kept.append(rows[start : start + 16])
        for start, n in ((32, 18), (0, 50), (49, 1)):
            assert np.array_equal(kept.rows(start, n), rows[start : start + n])
        with pytest.raises(ConfigError, match="is truncated"):
            kept.rows(40, 11)
    with pytest.raises(ValueError):  # it is closed
        kept.rows(0, 1)


def test_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ReferenceLogits(4, 8) as kept:
        kept.append(np.zeros((4, 8), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small() -> None:
    message = r"take 3973120.0 TB in .*: [0-9.]+ .B are free"
    with pytest.raises(ConfigError, match=message):
        ReferenceLogits(4_000_000_000_000, 248_320)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A limit of the process stands for the disk that another program fills meanwhile."""
    code = (
        "import numpy as np\n"
        "from flash_moe.eval.logits import ReferenceLogits\n"
        "with ReferenceLogits(100, 100) as kept:\n"
        "    kept.append(np.zeros((20, 100), np.float32))\n"
        "    kept.append(np.zeros((80, 100), np.float32))\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(TMPDIR=str(tmp_path), PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigError: [eval] the logits of the reference take 40.0 kB" in out.stderr
    assert "File too large" in out.stderr
    assert list(tmp_path.iterdir()) == []
