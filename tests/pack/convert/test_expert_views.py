"""Experts as views of source tensors: found where they are, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.compat.array_graph import sources_of
from flash_moe.compat.lazy_loading import Experts
from flash_moe.compat.view_finder import ViewFinder
from flash_moe.store.safetensors_header import TensorEntry

N_EXPERTS, ROWS, COLUMNS = 5, 6, 4
Weights = dict[str, mx.array]


class Sanitize:
    """A sanitizer with a function of its own, in the place of an architecture's."""

    def __init__(self, tensors: dict[str, TensorEntry], function: Callable[[Weights], Weights]):
        self.function = function
        self.zeros = {name: mx.zeros(entry.shape) for name, entry in tensors.items()}
        self.outputs = self.run({})
        self.sources_of = sources_of(self.zeros, self.outputs)
        paths = [name.partition(".")[0] for name in self.outputs]
        self.experts = [Experts(path, None, ("gate_proj.weight",)) for path in paths]

    def run(self, given: Weights) -> Weights:
        return self.function({**self.zeros, **given})


def entry(name: str, *shape: int) -> TensorEntry:
    return TensorEntry(Path("x"), name, "F32", shape, 100, 4 * int(np.prod(shape)))


STACKED = {"fused": entry("fused", N_EXPERTS, 2 * ROWS, COLUMNS)}
SINGLE = {f"e{i}": entry(f"e{i}", ROWS, COLUMNS) for i in range(N_EXPERTS)}

VIEWS: dict[str, tuple[dict[str, TensorEntry], Callable[[Weights], mx.array]]] = {
    "as it is": (STACKED, lambda w: w["fused"]),
    "first half": (STACKED, lambda w: mx.split(w["fused"], 2, axis=1)[0]),
    "second half": (STACKED, lambda w: w["fused"][:, ROWS:]),
    "every second row": (STACKED, lambda w: w["fused"][:, 1::2]),
    "transposed": (STACKED, lambda w: w["fused"].swapaxes(1, 2)),
    "half of the transposed": (STACKED, lambda w: w["fused"].swapaxes(1, 2)[:, :, :ROWS]),
    "one row": (STACKED, lambda w: w["fused"][:, 3]),
    "two rows as one": (STACKED, lambda w: w["fused"].reshape(-1, ROWS, 2 * COLUMNS)),
    "copied": (STACKED, lambda w: mx.contiguous(w["fused"])),
    "stacked": (SINGLE, lambda w: mx.stack([w[f"e{i}"] for i in range(N_EXPERTS)])),
    "negative multiples": (STACKED, lambda w: -8 * w["fused"][:, ::2]),
    "multiples by a float": (STACKED, lambda w: w["fused"] * 24.0),
    "multiples, stacked": (SINGLE, lambda w: mx.stack([w[f"e{i}"] * 3 for i in range(N_EXPERTS)])),
    "stacked backwards": (SINGLE, lambda w: mx.stack([w[f"e{i}"] for i in (4, 3, 2, 1, 0)])),
}


@pytest.mark.parametrize(("tensors", "function"), VIEWS.values(), ids=VIEWS.keys())
def test_a_view_gives_the_same_experts(
    tensors: dict[str, TensorEntry], function: Callable[[Weights], mx.array]
) -> None:
    sanitizer = Sanitize(tensors, lambda w: {"p.gate_proj.weight": function(w)})
    finder = ViewFinder(sanitizer, tensors)  # type: ignore[arg-type]
    views = finder.find(Experts("p", None, ("gate_proj.weight",)))
    viewed = views["gate_proj.weight"]
    rng = np.random.default_rng(0)
    data = {n: rng.standard_normal(e.shape).astype(np.float32) for n, e in tensors.items()}
    expected = np.array(function({n: mx.array(a) for n, a in data.items()}))
    assert [s.expert for s in viewed.slices] == list(range(N_EXPERTS))
    for s in viewed.slices:
        flat = data[s.entry.name].reshape(-1)
        start = s.start + viewed.view.first
        got = viewed.view.take(flat[start : start + viewed.view.count]) * viewed.factor
        np.testing.assert_array_equal(got, expected[s.expert])


NO_VIEWS: dict[str, tuple[dict[str, TensorEntry], Callable[[Weights], mx.array]]] = {
    "computed": (STACKED, lambda w: mx.square(w["fused"])),
    "multiples of whole numbers only": (STACKED, lambda w: mx.round(w["fused"]) * 2),
    "multiples of both signs": (STACKED, lambda w: w["fused"] * mx.array([-1.0, 2, 1, 1])),
    "halves": (STACKED, lambda w: w["fused"] * 0.5),
    "shifted": (STACKED, lambda w: w["fused"] + 1.0),
    "reversed rows": (STACKED, lambda w: w["fused"][:, ::-1]),
    "experts in another order": (STACKED, lambda w: w["fused"][::-1]),
    "fewer experts": (STACKED, lambda w: w["fused"][:3]),
    "experts mixed": (STACKED, lambda w: w["fused"].swapaxes(0, 1).reshape(w["fused"].shape)),
    "divided": (STACKED, lambda w: w["fused"] // 2),
    "irregular rows": (STACKED, lambda w: mx.take(w["fused"], mx.array([0, 1, 3]), axis=1)),
    "each transposed": (SINGLE, lambda w: mx.stack([w[f"e{i}"].T for i in range(N_EXPERTS)])),
    "the same one": (SINGLE, lambda w: mx.stack([w["e0"]] * N_EXPERTS)),
    "joined": (SINGLE, lambda w: mx.concatenate([w[f"e{i}"] for i in range(N_EXPERTS)])),
    "a sum": (SINGLE, lambda w: mx.stack([w[f"e{i}"] + w["e0"] for i in range(N_EXPERTS)])),
}


@pytest.mark.parametrize(("tensors", "function"), NO_VIEWS.values(), ids=NO_VIEWS.keys())
def test_what_is_no_view_is_not_taken_for_one(
    tensors: dict[str, TensorEntry], function: Callable[[Weights], mx.array]
) -> None:
    sanitizer = Sanitize(tensors, lambda w: {"p.gate_proj.weight": function(w)})
    layer = Experts("p", None, ("gate_proj.weight",))
    assert ViewFinder(sanitizer, tensors).find(layer) == {}  # type: ignore[arg-type]


def test_what_a_result_is_made_of() -> None:
    a, b, c = (mx.zeros((4, 4)) for _ in range(3))
    outputs = {
        "same": a,
        "sum": a + b,
        "deep": mx.concatenate([(c * 2).T, a])[1:3].astype(mx.float16),
        "none": mx.ones((3,)),
        "again": a,
    }
    assert sources_of({"a": a, "b": b, "c": c}, outputs) == {
        "same": ("a",), "sum": ("a", "b"), "deep": ("c", "a"), "none": (), "again": ("a",),
    }  # fmt: skip


def test_a_layer_that_only_looks_like_the_one_before() -> None:
    """Equal names and shapes, and other rows: seen at the samples, then looked at as a whole."""
    tensors = {f"l{n}": entry(f"l{n}", N_EXPERTS, 2 * ROWS, COLUMNS) for n in range(4)}

    def function(w: Weights) -> Weights:
        return {
            "p0.gate_proj.weight": w["l0"][:, :ROWS],
            "p1.gate_proj.weight": w["l1"][:, :ROWS],
            "p2.gate_proj.weight": w["l2"][:, ROWS:],
            "p3.gate_proj.weight": mx.square(w["l3"][:, :ROWS]),
        }

    finder = ViewFinder(Sanitize(tensors, function), tensors)  # type: ignore[arg-type]
    found = [finder.find(Experts(f"p{n}", None, ("gate_proj.weight",))) for n in range(4)]
    firsts = [v["gate_proj.weight"].view.first if v else None for v in found]
    assert firsts == [0, 0, ROWS * COLUMNS, None]
