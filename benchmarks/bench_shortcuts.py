"""KL divergence against bytes read per token: plain options and two shortcuts, on the demo model.

    python benchmarks/bench_shortcuts.py [--tokens 512] [--plot DIR] [--json FILE]
    python benchmarks/bench_shortcuts.py --draw FILE --plot DIR

The reference is the store itself: 4 bits, all its experts per token. Plain options: fewer experts
per token, and 3 and 2 bits for all experts. Shortcuts:

* prefer: the router adds a bias (in units of its logits) to cached experts before it chooses; the
  weights are those of the unbiased router.
* cold: the experts of each layer that other text uses least have 3 bits, the others 4.

Bytes read per token follow from a replay of each run's own routing through one LRU cache per layer,
of 10, 25 and 50 % of the bytes of all 4-bit experts; records have no padding. Text: held-out
dialogues of the demo model (scripts/demo_model), decoded as one sequence; the windows of the
comparison are 32 tokens. A shortcut wins if it is closer than the line of fewer experts at equal
bytes, by the rule of flash_moe/lab/verdict.py. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from flash_moe import load
from flash_moe.compat.mlx_lm import Qwen3NextSparseMoeBlock, make_prompt_cache
from flash_moe.demo_model import STORE
from flash_moe.eval.plot import COLORS
from flash_moe.eval.token_scores import divergence, log_probabilities
from flash_moe.lab.dense_experts import quantization, read_weights, requantized, use_weights
from flash_moe.lab.experiments.bits_or_experts import weight_bytes
from flash_moe.lab.predictors import in_order
from flash_moe.lab.verdict import compare
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.store.layout import Quantization
from scripts.demo_model.quality_stores import dialogues

BANKS = (0.1, 0.25, 0.5)
TOP_KS = (9, 8, 7, 6, 5, 4, 3, 2)
FEWER_BITS = (3, 2)
BIASES = (0.25, 0.5, 1.0, 2.0, 4.0)
COLD_SHARES = (0.25, 0.5, 0.75)
WINDOW = 32


class Bank:
    """LRU cache of one layer, by bytes."""

    def __init__(self, n_bytes: float, record_bytes: np.ndarray) -> None:
        self.n_bytes, self._record_bytes = n_bytes, record_bytes
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._used = 0.0

    def read(self, experts: np.ndarray) -> float:
        """Bytes read for the experts of a token, lowest router weight first."""
        missing = [e for e in experts.tolist() if e not in self._cached]
        for expert in experts.tolist():
            if expert in missing:
                self._used += self._record_bytes[expert]
            self._cached[expert] = None
            self._cached.move_to_end(expert)
        while self._used > self.n_bytes:
            self._used -= self._record_bytes[self._cached.popitem(last=False)[0]]
        return float(self._record_bytes[missing].sum())

    def mask(self, n_experts: int) -> np.ndarray:
        held = np.zeros(n_experts, np.float32)
        held[list(self._cached)] = 1
        return held


class Routed(Qwen3NextSparseMoeBlock):
    """Block that records the chosen experts, and can prefer cached ones."""

    record: list[np.ndarray]
    bank: Bank | None
    bias: float

    def __call__(self, x: mx.array) -> mx.array:
        logits = self.gate(x)
        probabilities = mx.softmax(logits, axis=-1, precise=True)
        if self.bank is not None:
            logits = logits + self.bias * mx.array(self.bank.mask(logits.shape[-1]))
        ids = mx.argpartition(logits, kth=-self.top_k, axis=-1)[..., -self.top_k :]
        weights = mx.take_along_axis(probabilities, ids, axis=-1)
        order = mx.argsort(weights, axis=-1)
        ids, weights = (mx.take_along_axis(a, order, axis=-1) for a in (ids, weights))
        if self.norm_topk_prob:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        chosen = np.array(ids).reshape(-1, self.top_k)
        self.record.append(chosen)
        if self.bank is not None:
            for token in chosen:
                self.bank.read(token)
        y = (self.switch_mlp(x, ids) * weights[..., None]).sum(axis=-2)
        return y + mx.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x)


@dataclass
class Subject:
    """The demo model with experts that can be replaced."""

    model: Any
    blocks: list[Any]
    n_experts: int
    own_k: int
    tokens: list[int]
    reference: np.ndarray | None = None
    runs: list[Run] = field(default_factory=list)

    def pass_over(self, tokens: list[int], bank_bytes: np.ndarray | None = None) -> np.ndarray:
        """Log probabilities [tokens, vocabulary]; token by token if routing depends on a bank."""
        for block in self.blocks:
            block.record = []
            block.bank = None if bank_bytes is None else Bank(float(bank_bytes[0]), bank_bytes[1:])
        cache = make_prompt_cache(self.model)
        pieces = [tokens] if bank_bytes is None else [[token] for token in tokens]
        logits = []
        for piece in pieces:
            out = self.model(mx.array([piece]), cache=cache)
            logits.append(np.array(out[0].astype(mx.float32)))
        return log_probabilities(np.concatenate(logits))

    def routing(self) -> list[np.ndarray]:
        """Chosen experts of each layer, [tokens, k]."""
        return [np.concatenate(block.record) for block in self.blocks]

    def use_top_k(self, k: int) -> None:
        for block in self.blocks:
            block.top_k = k

    def measure(
        self, knob: str, value: float, record_bytes: list[np.ndarray], total: float
    ) -> None:
        """Add a run whose routing does not depend on a bank."""
        log_q = self.pass_over(self.tokens)
        bytes_read = {share: replay(self.routing(), record_bytes, share * total) for share in BANKS}
        self.add(knob, value, log_q, bytes_read)

    def add(self, knob: str, value: float, log_q: np.ndarray, read: dict[float, float]) -> None:
        kl = np.zeros(len(self.tokens))
        if self.reference is None:
            self.reference = log_q
        else:
            kl = divergence(self.reference, log_q)
        n = len(kl) // WINDOW * WINDOW
        windows = kl[:n].reshape(-1, WINDOW).mean(-1)
        self.runs.append(Run(knob, value, float(kl.mean()), windows.tolist(), read))
        megabytes = ", ".join(f"{share:.0%}: {n / 1e6:.2f} MB" for share, n in read.items())
        print(f"{knob:8} {value:5g}  KL {kl.mean():.4f}  read per token at {megabytes}", flush=True)


@dataclass(frozen=True)
class Run:
    """One setting of one knob; bytes read per token by share of the bank."""

    knob: str
    value: float
    kl: float
    windows: list[float]
    bytes_read: dict[float, float]


def replay(routing: list[np.ndarray], record_bytes: list[np.ndarray], n_bytes: float) -> float:
    """Bytes read per token with a bank that the layers share equally."""
    total = 0.0
    for chosen, sizes in zip(routing, record_bytes, strict=True):
        bank = Bank(n_bytes / len(routing), sizes)
        total += sum(bank.read(token) for token in chosen)
    return total / len(routing[0])


def measure(n_tokens: int) -> list[Run]:
    experts = open_streaming(STORE, LoadOptions()).experts
    layout = experts.layers[0].layout
    own = quantization(layout)
    size = {
        bits: weight_bytes(layout, Quantization(bits, own.group_size))
        for bits in (own.bits, *FEWER_BITS)
    }
    weights = {own.bits: read_weights(experts)}
    weights |= {bits: requantized(weights[own.bits], bits, own.group_size) for bits in FEWER_BITS}
    with load(STORE, kernels="off") as flash:
        blocks = [m for _, m in in_order(flash.model) if isinstance(m, Qwen3NextSparseMoeBlock)]
        for block in blocks:
            block.__class__ = Routed
            block.bias = 0.0
        text = flash.tokenizer.encode(dialogues(), add_special_tokens=False)
        calibration, tokens = text[:n_tokens], text[n_tokens : 2 * n_tokens]
        n, n_layers = experts.layers[0].n_experts, len(blocks)
        subject = Subject(flash.model, blocks, n, blocks[0].top_k, tokens)

        def sizes(bits: int) -> list[np.ndarray]:
            return [np.full(n, size[bits])] * n_layers

        total = n * n_layers * size[own.bits]
        use_weights(flash.model, weights[own.bits])
        subject.pass_over(calibration)
        uses = [np.bincount(chosen.reshape(-1), minlength=n) for chosen in subject.routing()]
        subject.measure("experts", subject.own_k, sizes(own.bits), total)
        for k in TOP_KS:
            subject.use_top_k(k)
            subject.measure("experts", k, sizes(own.bits), total)
        subject.use_top_k(subject.own_k)
        for bits in FEWER_BITS:
            use_weights(flash.model, weights[bits])
            subject.measure("bits", bits, sizes(bits), total)
        for share in COLD_SHARES:
            mixed, mixed_sizes = [], []
            for layer, used in enumerate(uses):
                cold = np.zeros(n, bool)
                cold[np.argsort(used, kind="stable")[: round(share * n)]] = True
                where = mx.array(cold)[:, None, None]
                hot, small = weights[own.bits][layer], weights[3][layer]
                mixed.append({name: mx.where(where, small[name], hot[name]) for name in hot})
                mixed_sizes.append(np.where(cold, size[3], size[own.bits]))
            use_weights(flash.model, mixed)
            subject.measure("cold", share, mixed_sizes, total)
        use_weights(flash.model, weights[own.bits])
        for share in BANKS:
            for bias in BIASES:
                for block in blocks:
                    block.bias = bias
                bank = np.concatenate([[share * total / n_layers], np.full(n, size[own.bits])])
                log_q = subject.pass_over(tokens, bank)
                read = replay(subject.routing(), sizes(own.bits), share * total)
                subject.add("prefer", bias, log_q, {share: read})
    return subject.runs


def at_equal_bytes(runs: list[Run], share: float, n_bytes: float) -> list[float] | None:
    """KL by window of fewer experts at these bytes, interpolated; ``None`` outside of the line."""
    line = sorted((run.bytes_read[share], run.windows) for run in runs if run.knob == "experts")
    for (low, fewer), (high, more) in pairwise(line):
        if low <= n_bytes <= high:
            part = (n_bytes - low) / (high - low) if high > low else 1.0
            return [(1 - part) * a + part * b for a, b in zip(fewer, more, strict=True)]
    return None


def verdicts(runs: list[Run]) -> list[dict[str, Any]]:
    """Each bits, cold and prefer run against fewer experts at equal bytes."""
    rows = []
    for run in runs:
        for share, n_bytes in run.bytes_read.items():
            plain = at_equal_bytes(runs, share, n_bytes)
            if run.knob == "experts" or plain is None:
                continue
            found = compare("nats", ("fewer experts", plain), (run.knob, run.windows))
            rows.append(
                {
                    "bank": share,
                    "knob": run.knob,
                    "value": run.value,
                    "mb": n_bytes / 1e6,
                    "kl": run.kl,
                    "kl_fewer_experts": sum(plain) / len(plain),
                    "ratio": found.ratio,
                    "interval": found.interval,
                    "verdict": found.verdict,
                }
            )
    return rows


NAMES = {
    "experts": ("fewer experts: K = 10 to 2", "o-"),
    "bits": ("fewer bits: 4, 3, 2", "s-"),
    "cold": ("3 bits for the least used experts", "D-"),
    "prefer": ("router prefers cached experts", "^-"),
}


def draw(runs: list[Run], file: Path, dark: bool) -> None:
    """Draw a panel per bank; the reference, with a KL of 0, is at the bottom edge."""
    matplotlib, figure_module = import_module("matplotlib"), import_module("matplotlib.figure")
    page, ink, colors = COLORS[dark]
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    style |= {"figure.facecolor": page, "axes.facecolor": page, "axes.edgecolor": ink}
    floor = 0.6 * min(run.kl for run in runs if run.kl > 0)
    with matplotlib.rc_context(style):
        figure = figure_module.Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(BANKS), sharey=True)
        for axes, share in zip(panels, BANKS, strict=True):
            for (knob, (label, mark)), color in zip(NAMES.items(), colors, strict=False):
                points = [
                    (run.bytes_read[share] / 1e6, max(run.kl, floor), run)
                    for run in runs
                    if share in run.bytes_read and run.knob in (knob, "experts")
                    if run.knob == knob or run.kl == 0  # every line begins at the reference
                ]
                points.sort(key=lambda point: point[1])
                xs, ys = [p[0] for p in points], [p[1] for p in points]
                axes.plot(xs, ys, mark, color=color, label=label, markersize=4.5, linewidth=1.4)
            axes.set_yscale("log")
            axes.set_title(f"bank of {share:.0%} of the experts", loc="left", fontsize=10)
            axes.set_xlabel("read per token (MB)")
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        ticks = [
            tick for tick in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if tick > floor
        ]
        panels[0].set_yticks([floor, *ticks], labels=["0", *(f"{tick:g}" for tick in ticks)])
        panels[0].minorticks_off()
        panels[0].set_ylabel("KL from the model as it is (nats per token)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write knobs-{light,dark}.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs to a file")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw runs of an earlier --json")
    args = parser.parse_args()
    if args.draw:
        rows = json.loads(args.draw.read_text())
        for row in rows:
            row["bytes_read"] = {float(share): n for share, n in row["bytes_read"].items()}
        runs = [Run(**row) for row in rows]
    else:
        runs = measure(args.tokens)
    if args.json:
        args.json.write_text(json.dumps([vars(run) for run in runs]))
    if args.plot:
        for theme in ("light", "dark"):
            draw(runs, args.plot / f"knobs-{theme}.png", theme == "dark")
    table = verdicts(runs)
    for row in table:
        print(
            f"bank {row['bank']:4.0%}  {row['knob']:7} {row['value']:5g}  {row['mb']:.3f} MB  "
            f"KL {row['kl']:.4f}, fewer experts {row['kl_fewer_experts']:.4f}: "
            f"{row['ratio']:.2f} {row['verdict']}"
        )
    print(json.dumps({"device": str(mx.default_device()), "tokens": args.tokens, "rows": table}))


if __name__ == "__main__":
    main()
