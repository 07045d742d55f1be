"""Train the demo model for a given time on one GPU, judge it, and write weights and report.

    python -m scripts.demo_model.train --data .demo_data --out OUT --minutes 8

The learning rate follows the clock: it rises over the first 2 % of the time and falls in a line to
zero at its end, so a run always ends well, however fast the machine. Two runs on one machine see
the same windows in the same order, but not to the same number. What it writes:

    weights-N.safetensors  all weights, bfloat16, A_log in float32 (``export.py`` takes them)
    report.json            settings, loss curve, use of experts, scores
    answers.json           what the model answered to the held-out prompts
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.demo_model import evaluate, judge, loss, model, quantise
from scripts.demo_model import windows as files
from scripts.demo_model.chat import Chat
from scripts.demo_model.optim import Masters
from scripts.demo_model.step import Step

STARTED = time.monotonic()
SHARD_BYTES = 15_000_000
LOG_EVERY = 50


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(".demo_data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, after warming up")
    parser.add_argument(
        "--deadline", type=float, default=570.0, help="seconds: all must be written"
    )
    parser.add_argument("--steps", type=int, help="at most so many, for trials")
    parser.add_argument("--batch", type=int, default=32, help="windows of 1024 tokens a step")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.004)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--delta-rule", choices=("auto", "fla", "torch"), default="auto")
    parser.add_argument("--no-graph", action="store_true", help="launch kernel by kernel")
    parser.add_argument("--toy", action="store_true", help="a smaller shape, for trials on a CPU")
    parser.add_argument("--init", type=Path, help="folder of weights to start from")
    parser.add_argument("--prompts", type=int, help="judge by every n-th prompt only", default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def factor(share: float) -> float:
    """Of the learning rates, at this share of the time."""
    return min(share / 0.02, 1.0) * max(1.0 - share, 0.0)


def train(step: Step, masters: Masters, windows: Tensor, args: Any) -> list[dict[str, float]]:
    """Train until the time is over; returns the loss curve."""
    generator = torch.Generator().manual_seed(args.seed)
    device = step.device
    order = torch.randperm(len(windows), generator=generator).to(device)
    curve: list[dict[str, float]] = []
    sums = torch.zeros(5, device=device)
    began, done, place = time.monotonic(), 0, 0
    while True:
        share = (time.monotonic() - began) / (60 * args.minutes)
        if args.steps:
            share = max(share, done / args.steps)
        if share >= 1.0:
            break
        if place + args.batch > len(order):
            order, place = torch.randperm(len(windows), generator=generator).to(device), 0
        chosen = order[place : place + args.batch]
        place += args.batch
        values = step(windows[chosen].to(torch.long) & 0xFFFF)
        norm = masters.step(factor(share))
        sums += torch.cat([values, norm[None]])
        done += 1
        if done % LOG_EVERY == 0 or done in (10, 20, 30):
            n = LOG_EVERY if done % LOG_EVERY == 0 and done != LOG_EVERY else 10
            n = 20 if done == LOG_EVERY else n
            mean = (sums / n).tolist()
            sums.zero_()
            spent = time.monotonic() - began
            rate = done * args.batch * (files.WINDOW - 1) / spent
            names = ("minimised", "loss", "balance", "router", "norm")
            curve.append({"step": done, "seconds": round(spent, 1), "tokens_per_s": round(rate)})
            curve[-1] |= {k: round(v, 4) for k, v in zip(names, mean, strict=True)}
            say(" ".join(f"{k} {v}" for k, v in curve[-1].items()))
    say(f"{done} steps, {done * args.batch / len(windows):.2f} epochs")
    return curve


def save(net: Any, masters: Masters, out: Path) -> None:
    """Write the masters in bfloat16, files below the size that a run may bring back."""
    shards: list[dict[str, Tensor]] = [{}]
    n_bytes = 0
    for name, master in masters.masters.items():
        value = master if name.endswith("A_log") else master.bfloat16()
        if n_bytes + value.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            n_bytes = 0
        shards[-1][name] = value.cpu().contiguous()
        n_bytes += value.nbytes
    for i, shard in enumerate(shards):
        save_file(shard, str(out / f"weights-{i}.safetensors"))
    say(f"{sum(m.numel() for m in masters.masters.values()):,} weights in {len(shards)} files")


def score(net: Any, chat: Chat, held_out: Tensor, args: Any) -> tuple[dict[str, Any], list[Any]]:
    """Loss and scores at full precision and at 4 bits, with and without thoughts, in time."""
    asked = json.loads((args.data / "prompts.json").read_text("utf-8"))[:: args.prompts]
    scores: dict[str, Any] = {}
    records: list[Any] = [{"asked": p["messages"], "expected": p["expected"]} for p in asked]
    began = time.monotonic()
    spent = 0.0
    for name, bits, thinking in (
        *(("4 bits", 4, False), ("bfloat16", 0, False), ("4 bits, thinking", 4, True)),
        ("3 bits", 3, False),
    ):
        if time.monotonic() - STARTED + 1.3 * spent > args.deadline:
            say(f"no time for {name}")
            continue
        began = time.monotonic()
        before = quantise.quantise(net, bits) if bits else {}
        found = evaluate.answers(
            net, chat, asked, thinking, in_time=lambda: time.monotonic() - STARTED < args.deadline
        )
        scores[name] = {"held_out_loss": evaluate.held_out_loss(net, held_out)}
        quantise.restore(net, before)
        if found is not None:
            scores[name] |= judge.scores(asked, found)
            for record, text in zip(records, found, strict=True):
                record[name] = text
        spent = time.monotonic() - began
        say(f"{name}: {json.dumps(scores[name])}")
    return scores, records


def main() -> int:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    say(f"torch {torch.__version__} on {machine}")
    chat = Chat(args.data)
    shape = model.TOY_SHAPE if args.toy else model.SHAPE
    net = model.build(shape, chat.end, chat.separator, args.seed).to(device)
    if args.init:
        state = {}
        for path in sorted(args.init.glob("weights-*.safetensors")):
            state |= load_file(str(path))
        net.load_state_dict(state)
    rule = model.choose_delta_rule(device, args.delta_rule)
    masters = Masters(
        dict(net.named_parameters()),
        args.muon_rate,
        args.adam_rate,
        args.decay,
        args.optimizer == "muon",
    )
    if device.type == "cuda":
        model.to_bfloat16(net)
    n_weights = sum(p.numel() for p in net.parameters())
    say(f"{n_weights:,} weights, delta rule {rule}, {len(masters.muon)} matrices by Muon")
    windows, held_out = (
        torch.from_numpy(files.load(args.data / name).astype("int16")).to(device)
        for name in files.FILES
    )
    held_out = held_out.to(torch.long) & 0xFFFF
    say(f"{len(windows)} windows")
    routers = loss.Routers(shape["num_experts"]).watch(net)
    step = Step(net, routers, args.batch, not args.no_graph)
    failure = step.prepare(windows[: args.batch].to(torch.long) & 0xFFFF)
    say(f"ready, graph {step.graph is not None} {failure}")
    curve = train(step, masters, windows, args)
    save(net, masters, args.out)
    with torch.no_grad():
        loss.training_loss(net, routers, held_out[: args.batch], step.weights)
        usage = routers.usage()
    routers.close()
    say(f"use of experts: least {float(usage.min()):.4f}, most {float(usage.max()):.4f} of choices")
    graphed = step.graph is not None
    step.graph = None
    net.zero_grad(set_to_none=True)
    scores, records = score(net, chat, held_out, args)
    report = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "machine": machine,
        "versions": {"torch": torch.__version__, "transformers": model.transformers_version()},
        "shape": shape,
        "weights": n_weights,
        "delta_rule": rule,
        "graph": graphed,
        "curve": curve,
        "usage": [[round(x, 4) for x in row] for row in usage.tolist()],
        "scores": scores,
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "answers.json").write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n")
    say("done")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
