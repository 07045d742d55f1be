"""The kernels against mlx-lm on a GPU, at the sizes of Qwen3.5-397B-A17B: 4-bit, group 64, bf16.

    python benchmarks/bench_kernels.py [--only experts,crossover,router,delta,layer] [--json FILE]

Everything runs in chains without host synchronisation, medians of 7 runs after 2 to warm up, taking
turns. Slots rotate through 450 MB so that no weight is in a cache; the copy rate is measured in the
same run. Prints one line per measurement and one JSON line last.

experts: moe_gate_up and moe_down with the residual, against mlx-lm's SwitchGLU, the weighted sum
    and the residual, as mlx-lm calls them and under mx.compile.
crossover: the kernels against SwitchGLU, which sorts pairs by expert, and against the waves of a
    prompt in both forms (few: mx.gather_qmm on the slab, on CUDA on a copy of the experts; many: on
    copies of 32 experts at a time, on CUDA dequantized), over the number of pairs.
router: router_topk against the operations of mlx-lm's block.
delta: a gated delta net for one position: by mlx-lm, recorded, and by delta_step; ``encode`` is the
    share of the host in it, from the call of mx.async_eval to its return, in chains of 8, because
    MLX waits for the GPU while ten command buffers are queued.
layer: a whole decoder layer, linear and full attention, its block by mlx-lm or by the kernels.
    All experts are resident and an expert's slot is its number, so nothing waits for the host.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import ArraysCache, KVCache
from mlx_lm.models.qwen3_5 import DecoderLayer, GatedDeltaNet, TextModelArgs
from mlx_lm.models.switch_layers import SwitchGLU

from flash_moe.model.recorded import record_delta_nets
from flash_moe.ops.expert_mlp import ExpertMLP
from flash_moe.ops.kernel import backend
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.ops.router_topk import router_topk
from flash_moe.stream.slab import Slab
from flash_moe.testing.random_experts import random_experts

HIDDEN, WIDTH, N_EXPERTS, N_SLOTS, DTYPE = 4096, 1024, 512, 64, mx.bfloat16
STEPS, ENCODED_STEPS = 60, 8
Step = Callable[[mx.array, int], mx.array]


def seconds_of(steps: dict[str, Step], x: mx.array, n: int = STEPS) -> dict[str, float]:
    """Median seconds of a step of each chain. They take turns, so that a busy host slows all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(9):
        for name, step in steps.items():
            mx.synchronize()
            started = time.perf_counter()
            y = x
            for i in range(n):
                y = step(y, i)
            mx.eval(y)
            times[name].append((time.perf_counter() - started) / n)
    return {name: statistics.median(taken[2:]) for name, taken in times.items()}


class Experts:
    """The same random experts in a slab, and in a SwitchGLU of other random weights."""

    def __init__(self) -> None:
        one = random_experts(HIDDEN, WIDTH, 1, bits=4, group_size=64, scale_dtype=DTYPE, seed=2)
        self.layout = one.layout
        self.slab = Slab(N_SLOTS, one.layout.record_bytes)
        for slot in range(N_SLOTS):
            self.slab.write(slot, one.words.tobytes())
        mx.eval(self.slab.array + 1)  # managed memory moves to the GPU when it is first read
        self.kernels = ExpertKernels(one.layout, one.layout.record_bytes)
        self.mlp = ExpertMLP(one.layout, lambda up, gate: nn.silu(gate) * up)
        self.switch = SwitchGLU(HIDDEN, WIDTH, N_SLOTS)
        self.switch.set_dtype(DTYPE)
        nn.quantize(self.switch, group_size=64, bits=4)
        mx.eval(self.switch.parameters())

    def draw(self, n_tokens: int, k: int) -> list[np.ndarray[Any, np.dtype[np.uint32]]]:
        """Slots of the steps of a chain."""
        random = np.random.RandomState(k)
        return [
            np.stack([random.permutation(N_SLOTS)[:k] for _ in range(n_tokens)]).astype(np.uint32)
            for _ in range(STEPS)
        ]


def copy_rate() -> float:
    """Device copy bandwidth in bytes per second, read plus written."""
    a = mx.zeros((512 * 1024 * 1024 // 4,), mx.float32) + 1
    mx.eval(a)
    return 2 * a.nbytes / seconds_of({"copy": lambda y, i: y + 1.0}, a, 10)["copy"]


def bench_experts(experts: Experts) -> list[dict[str, Any]]:
    kernels, switch, slab = experts.kernels, experts.switch, experts.slab.array
    copy = copy_rate()
    rows = []
    for n_tokens in (1, 2, 8):
        for k in (4, 10):
            ids = [kernels.slot_ids(slots, slab) for slots in experts.draw(n_tokens, k)]
            weights = mx.full((n_tokens, k), 1.0 / k)
            x = mx.random.normal((n_tokens, HIDDEN)).astype(DTYPE)
            mx.eval(weights, ids, x)

            def block(y: mx.array, ids: mx.array, w: mx.array, x: mx.array) -> mx.array:
                return (switch(y, ids) * w[..., None].astype(DTYPE)).sum(axis=-2) + x

            compiled = mx.compile(block, inputs=switch.state)
            steps: dict[str, Step] = {
                "ours": lambda y, i: kernels(y, weights, ids[i], slab, residual=x),  # noqa: B023
                "switch_glu": lambda y, i: block(y, ids[i], weights, x),  # noqa: B023
                "compiled": lambda y, i: compiled(y, ids[i], weights, x),  # noqa: B023
            }
            took = seconds_of(steps, x)
            rate = n_tokens * k * experts.layout.payload_bytes / took["ours"]
            row = {"tokens": n_tokens, "k": k}
            row |= {f"{name}_us": 1e6 * t for name, t in took.items()}
            row |= {
                "of_switch_glu": took["switch_glu"] / took["ours"],
                "of_compiled": took["compiled"] / took["ours"],
                "weights_gb_s": rate / 1e9,
                "copy_gb_s": copy / 1e9,
                "of_copy": rate / copy,
            }
            rows.append(row)
    return rows


def bench_crossover(experts: Experts) -> list[dict[str, Any]]:
    kernels, slab, switch = experts.kernels, experts.slab, experts.switch
    views = slab.views(experts.layout)
    rows = []
    for n_tokens in (1, 2, 4, 8, 16, 32, 64, 128):
        k = 10
        drawn = experts.draw(n_tokens, k)
        ids = [kernels.slot_ids(slots, slab.array) for slots in drawn]
        weights = mx.full((n_tokens, k), 1.0 / k)
        x = mx.random.normal((n_tokens, HIDDEN)).astype(DTYPE)
        mx.eval(ids, weights, x)

        def ours(y: mx.array, i: int) -> mx.array:
            return kernels(y, weights, ids[i], slab.array)  # noqa: B023

        def theirs(y: mx.array, i: int) -> mx.array:
            return (switch(y, ids[i]) * weights[..., None].astype(DTYPE)).sum(axis=-2)  # noqa: B023

        def waves(y: mx.array, i: int, many: bool) -> mx.array:
            pairs = drawn[i].reshape(-1)  # noqa: B023
            order = np.argsort(pairs, kind="stable")
            out = experts.mlp(
                y[mx.array(order // k)][:, None],  # noqa: B023
                pairs[order],
                views,
                sorted_slots=True,
                many=many,
            )
            out = out[mx.array(np.argsort(order))].reshape(-1, k, HIDDEN)  # noqa: B023
            return (out * weights[..., None].astype(DTYPE)).sum(axis=-2)  # noqa: B023

        steps: dict[str, Step] = {"kernels": ours, "switch_glu": theirs}
        steps |= {"few": partial(waves, many=False), "many": partial(waves, many=True)}
        took = seconds_of(steps, x, 20)
        row: dict[str, Any] = {"pairs": n_tokens * k}
        row |= {f"{name}_us": 1e6 * t for name, t in took.items()}
        rows.append(row | {"of_switch_glu": took["switch_glu"] / took["kernels"]})
    return rows


def bench_router() -> list[dict[str, Any]]:
    rows = []
    for n_tokens in (1, 8):
        logits = mx.random.normal((n_tokens, N_EXPERTS)).astype(DTYPE)

        def theirs(y: mx.array, i: int) -> mx.array:
            gates = mx.softmax(y, axis=-1, precise=True)
            ids = mx.argpartition(gates, kth=-10, axis=-1)[..., -10:]
            scores = mx.take_along_axis(gates, ids, axis=-1)
            return y + (scores / scores.sum(axis=-1, keepdims=True))[..., :1]

        def ours(y: mx.array, i: int) -> mx.array:
            return y + router_topk(y, 10, renormalise=True)[1][..., :1].astype(DTYPE)

        took = seconds_of({"ours": ours, "mlx": theirs}, logits)
        row: dict[str, Any] = {"tokens": n_tokens}
        row |= {f"{name}_us": 1e6 * t for name, t in took.items()}
        rows.append(row | {"of_mlx": took["mlx"] / took["ours"]})
    return rows


class ResidentBlock(nn.Module):
    """mlx-lm's block with our kernels, all experts in the slots of their numbers."""

    def __init__(self, block: Any, experts: Experts) -> None:
        super().__init__()
        self.gate, self.top_k = block.gate, block.top_k
        self.shared_expert = block.shared_expert
        self.shared_expert_gate = block.shared_expert_gate
        self._experts = experts

    def __call__(self, x: mx.array) -> mx.array:
        rows = x.reshape(-1, HIDDEN)
        ids, weights = router_topk(self.gate(rows), self.top_k, renormalise=True)
        shared = (self.shared_expert(rows), self.shared_expert_gate(rows))
        slab = self._experts.slab.array
        return self._experts.kernels(rows, weights, ids, slab, shared=shared).reshape(x.shape)


def text_args(k: int) -> TextModelArgs:
    return TextModelArgs(
        hidden_size=HIDDEN,
        num_attention_heads=32,
        num_key_value_heads=2,
        head_dim=256,
        linear_num_value_heads=64,
        linear_num_key_heads=16,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        num_experts=N_SLOTS,
        num_experts_per_tok=k,
        moe_intermediate_size=WIDTH,
        shared_expert_intermediate_size=WIDTH,
    )


def bench_delta() -> list[dict[str, Any]]:
    steps: dict[str, Step] = {}
    x = mx.random.normal((1, 1, HIDDEN)).astype(DTYPE)
    for name, fused in (("mlx_lm", None), ("recorded", False), ("delta_step", True)):
        model: Any = nn.Module()
        model.net = GatedDeltaNet(text_args(10))
        model.set_dtype(DTYPE)
        nn.quantize(model, group_size=64, bits=4)
        cache = ArraysCache(size=2)
        mx.eval(model.parameters(), model.net(mx.concatenate([x] * 4, axis=1), None, cache))
        if fused is not None:
            record_delta_nets(model, fused=fused)
        steps[name] = lambda y, i, net=model.net, cache=cache: net(y, None, cache)  # type: ignore[misc]
    row = {f"{name}_us": 1e6 * t for name, t in seconds_of(steps, x).items()}
    for name, step in steps.items():
        taken = []
        for _ in range(9):
            y = x
            for i in range(ENCODED_STEPS):
                y = step(y, i)
            started = time.perf_counter()
            mx.async_eval(y)
            taken.append((time.perf_counter() - started) / ENCODED_STEPS)
            mx.eval(y)
        row[f"{name}_encode_us"] = 1e6 * statistics.median(taken[2:])
    return [row]


def bench_layer(experts: Experts) -> list[dict[str, Any]]:
    rows = []
    for k in (4, 10):
        args = text_args(k)
        took: dict[str, float] = {}
        for kind, index in (("linear", 0), ("full", 3)):
            layer = DecoderLayer(args, index)
            layer.set_dtype(DTYPE)
            nn.quantize(layer, group_size=64, bits=4)
            mx.eval(layer.parameters())
            blocks = {"mlx_lm": layer.mlp, "ours": ResidentBlock(layer.mlp, experts)}
            caches = {n: ArraysCache(size=2) if layer.is_linear else KVCache() for n in blocks}

            def step(name: str) -> Step:
                def run(y: mx.array, i: int) -> mx.array:
                    layer.mlp = blocks[name]  # noqa: B023
                    return layer(y, None, caches[name])  # noqa: B023

                return run

            x = mx.random.normal((1, 1, HIDDEN)).astype(DTYPE)
            chains = seconds_of({name: step(name) for name in blocks}, x)
            took |= {f"{kind}_{name}": t for name, t in chains.items()}
        row: dict[str, Any] = {"k": k} | {f"{name}_us": 1e6 * t for name, t in took.items()}
        # Three of four layers are linear.
        before = 0.75 * took["linear_mlx_lm"] + 0.25 * took["full_mlx_lm"]
        after = 0.75 * took["linear_ours"] + 0.25 * took["full_ours"]
        rows.append(row | {"of_mlx_lm": before / after})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="experts,crossover,router,delta,layer")
    parser.add_argument("--json", help="also write the JSON there")
    args = parser.parse_args()
    if backend() is None:
        print("bench_kernels: no GPU that MLX can use", file=sys.stderr)
        return 1
    experts = Experts()
    benches: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "experts": lambda: bench_experts(experts),
        "crossover": lambda: bench_crossover(experts),
        "router": bench_router,
        "delta": bench_delta,
        "layer": lambda: bench_layer(experts),
    }
    report: dict[str, Any] = {
        "device": str(mx.device_info().get("device_name", "?")),
        "backend": backend(),
        "mlx": mx.__version__,
    }
    for name in args.only.split(","):
        report[name] = benches[name]()
        for row in report[name]:
            print(name, "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
