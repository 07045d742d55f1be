"""Fewer bits per weight against fewer experts per token, at equal bytes."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from flash_moe.eval.models import no_top_k_warning
from flash_moe.lab.bench import Bench, SkippedError
from flash_moe.lab.dense_experts import (
    quantization,
    read_weights,
    requantized,
    use_weights,
    window_kls,
    window_log_probabilities,
)
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.verdict import compare
from flash_moe.loader import load
from flash_moe.store.layout import Quantization, RecordLayout

FEWER_BITS = (3, 2)
# The recurrent layers take 8 ms per token on a CPU, and there are five passes over all windows.
WINDOW = 24  # tokens


def weight_bytes(layout: RecordLayout, q: Quantization) -> float:
    """Return bytes of a record without padding, at the bits of ``q``."""
    return layout.n_weights * (q.bits + 32 / q.group_size) / 8


def run(bench: Bench) -> Outcome:
    """Compute the KL divergence from the store's own bits and experts, window by window."""
    layout = bench.experts.layers[0].layout
    own, top_k = quantization(layout), bench.streaming.top_k
    bits = [n for n in FEWER_BITS if n < own.bits]
    if not bits:
        raise SkippedError(f"the store has {own.bits} bits already")
    weights = read_weights(bench.experts)
    windows = _windows(bench)
    open_model = partial(load, bench.store, kernels="off", cache_gb=bench.budget_gb(0.0))
    with open_model() as flash:
        use_weights(flash.model, weights)
        reference = window_log_probabilities(flash.model, windows)
        kls: dict[str, list[float]] = {}
        for n in bits:
            use_weights(flash.model, requantized(weights, n, own.group_size))
            kls[f"{n} bits, K = {top_k}"] = window_kls(flash.model, windows, reference)
    comparisons = []
    for n, name in zip(bits, list(kls), strict=True):
        share = weight_bytes(layout, Quantization(n, own.group_size)) / weight_bytes(layout, own)
        k = max(int(top_k * share), 1)
        fewer = f"{own.bits} bits, K = {k}"
        with no_top_k_warning(), open_model(top_k=k) as flash:
            use_weights(flash.model, weights)
            kls[fewer] = window_kls(flash.model, windows, reference)
        comparisons.append(compare("nats", (name, kls[name]), (fewer, kls[fewer])))
    facts = {f"{name}: KL, nats per token": sum(kl) / len(kl) for name, kl in kls.items()}
    return Outcome(
        comparisons,
        facts,
        "quality, not time; reference: the store itself",
        [
            f"a round is a window of {WINDOW} tokens; fewer experts read at most as many bytes",
            f"fewer bits are rounded from the {own.bits}-bit weights, with searched scales",
        ],
    )


def _windows(bench: Bench) -> mx.array:
    """Return the ends of as many prompts as there are rounds, or pieces of the text."""
    ends = [ids[-WINDOW:] for ids in bench.prompts if len(ids) >= WINDOW]
    text = bench.text
    pieces = [text[i : i + WINDOW] for i in range(0, len(text) - WINDOW, WINDOW)]
    chosen = (ends if len(ends) >= bench.rounds else pieces)[: bench.rounds]
    return mx.array(chosen)


EXPERIMENT = Experiment(
    "bits-or-experts",
    "At equal bytes, do fewer bits or fewer experts change the model less?",
    "2 bits are 32 % faster and break JSON; 4 of 10 experts lose nothing (by eye)",
    ORIGINAL,
    run,
)
