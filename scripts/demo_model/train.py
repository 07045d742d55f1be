"""Train the demo model for a given time on one or several GPUs, evaluate it, write the results.

    torchrun --nproc-per-node GPUS -m scripts.demo_model.train --data .demo_data --out OUT

The learning rate follows the clock (``schedule.py``), so a run completes its schedule on any
machine. ``--span`` makes a run a part of a longer training: ``0 0.5``, then ``0.5 1 --init OUT``
with another seed. Output:

    weights-N.safetensors  all weights, bfloat16, A_log in float32 (input of ``export.py``)
    report.json            settings, loss curve, expert usage, scores
    answers.json           answers to the held-out prompts
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

from scripts.demo_model import evaluate, judge, loss, model, profile, quantise, schedule
from scripts.demo_model import fast as fasts
from scripts.demo_model import windows as files
from scripts.demo_model.chat import Chat
from scripts.demo_model.group import Group
from scripts.demo_model.optim import Masters
from scripts.demo_model.step import Step
from scripts.demo_model.stream import Stream

STARTED = time.monotonic()
GROUP = Group()
SHARD_BYTES = 15_000_000
LOG_EVERY = 100
SAME_EVERY = 500  # steps between copies of the first process's weights to the others
JUDGED = (
    *(("4 bits", 4, False), ("bfloat16", 0, False)),
    *(("4 bits, thinking", 4, True), ("3 bits", 3, False)),
)


def now() -> float:
    return time.monotonic() - STARTED


def say(text: str) -> None:
    if GROUP.rank == 0:
        print(f"[{now():6.1f} s] {text}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path(".demo_data"))
    add("--out", type=Path, required=True)
    add("--until", type=float, default=480.0, help="seconds from the start: training ends")
    add(
        "--deadline",
        type=float,
        default=570.0,
        help="seconds from the start: all output is written",
    )
    add("--span", type=float, nargs=2, default=(0.0, 1.0), help="part of the whole training")
    add("--init", type=Path, help="folder of weights to start from")
    add(
        "--seed", type=int, default=0, help="seed of windows, and of initial weights without --init"
    )
    add("--steps", type=int, help="maximum steps, for trials")
    add("--batch", type=int, default=48, help="windows of 1024 tokens per step")
    add("--muon-rate", type=float, default=0.02)
    add("--adam-rate", type=float, default=0.004)
    add("--decay", type=float, default=0.1)
    add("--optimizer", choices=("muon", "adamw"), default="muon")
    add(
        "--quantize-from",
        type=float,
        default=2.0,
        help="share of the training after which the forward pass uses 4-bit weights",
    )
    add("--makers", type=int, default=8, help="processes that make windows")
    add("--prompts", type=int, help="evaluate every n-th prompt only", default=1)
    add("--no-graph", action="store_true", help="launch kernels one by one, without a CUDA graph")
    add("--profile", action="store_true", help="profile a step")
    add("--toy", action="store_true", help="a smaller shape, for trials on a CPU")
    return parser.parse_args()


def train(
    step: Step, masters: Masters, stream: Stream, group: Group, args: Any
) -> list[dict[str, float]]:
    """Train until the time is over; return the loss curve."""
    clock = schedule.Clock(tuple(args.span), args.until - now(), args.steps)
    curve: list[dict[str, float]] = []
    sums = torch.zeros(5, device=step.device)
    began, done, summed, last = time.monotonic(), 0, 0, (0, 0.0)
    while (through := group.agree(clock.done(time.monotonic() - began, done))) < 1.0:
        share = clock.share(through)
        if share >= args.quantize_from and not masters.quantised:
            masters.quantised = True
            masters.publish()
            say(f"step {done}: from here on with 4-bit weights")
        values = step(stream.take(args.batch))
        group.average([p.grad for p in masters.named.values() if p.grad is not None])
        norm = masters.step(schedule.factor(share, done))
        if done % SAME_EVERY == 0:
            group.copy_first(masters.masters.values())
        sums += torch.cat([values, norm[None]])
        done, summed = done + 1, summed + 1
        if done % LOG_EVERY == 0 or done in (10, 30):
            mean = (sums / summed).tolist()
            summed = 0
            sums.zero_()
            spent = time.monotonic() - began
            new = (done - last[0]) * args.batch * (files.WINDOW - 1) * group.size
            rate = new / (spent - last[1])
            last = (done, spent)
            curve.append({"step": done, "seconds": round(spent, 1), "tokens_per_s": round(rate)})
            curve[-1] |= {"share": round(share, 4), "repeated": stream.repeated}
            names = ("minimised", "loss", "balance", "router", "norm")
            curve[-1] |= {k: round(v, 4) for k, v in zip(names, mean, strict=True)}
            if done % (5 * LOG_EVERY) == 0 or done <= LOG_EVERY:
                say(" ".join(f"{k} {v}" for k, v in curve[-1].items()))
    tokens = stream.used * (files.WINDOW - 1) * group.size
    say(f"{done} steps, {tokens:,} tokens, {stream.repeated} of {stream.used} windows repeated")
    return curve


def save(masters: Masters, out: Path) -> None:
    """Write the masters in bfloat16, in files of limited size."""
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


def load(net: Any, folder: Path) -> None:
    """Load the weights that ``save`` wrote."""
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        state |= load_file(str(path))
    net.load_state_dict(state)


def score(
    fast: fasts.Fast, chat: Chat, held_out: Tensor, args: Any
) -> tuple[dict[str, Any], list[Any]]:
    """Evaluate at full precision and at few bits, with and without reasoning, in time."""
    asked = json.loads((args.data / "prompts.json").read_text("utf-8"))[:: args.prompts]
    scores: dict[str, Any] = {}
    records: list[Any] = [{"asked": p["messages"], "expected": p["expected"]} for p in asked]
    spent = 0.0
    for name, bits, thinking in JUDGED:
        if now() + 1.3 * spent > args.deadline:
            say(f"no time for {name}")
            continue
        began = now()
        before = quantise.quantise(fast.net, bits) if bits else {}
        found = evaluate.answers(fast, chat, asked, thinking, in_time=lambda: now() < args.deadline)
        scores[name] = {"held_out_loss": evaluate.held_out_loss(fast, held_out)}
        quantise.restore(fast.net, before)
        if found is not None:
            scores[name] |= judge.scores(asked, found)
            for record, text in zip(records, found, strict=True):
                record[name] = text
        spent = now() - began
        say(f"{name}: {json.dumps(scores[name])}")
    return scores, records


def main() -> int:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    group = GROUP
    stream = Stream(args.data, args.seed * group.size + group.rank, args.makers)
    group.join()
    device = group.device
    torch.backends.cuda.matmul.allow_tf32 = True
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    say(f"torch {torch.__version__} on {group.size} x {machine}")
    chat = Chat(args.data)
    shape = model.TOY_SHAPE if args.toy else model.SHAPE
    net = model.build(shape, chat.end, chat.separator, args.seed).to(device)
    # float32 masters before the model's own weights become bfloat16.
    if args.init:
        first = {n: p.detach().clone() for n, p in net.named_parameters()}
        load(net, args.init)
    options = (args.muon_rate, args.adam_rate, args.decay, args.optimizer == "muon")
    masters = Masters(dict(net.named_parameters()), *options)
    if args.init:  # variants are compared on random weights, whose gradients are not noise
        net.load_state_dict(first)
        del first
    if device.type == "cuda":
        model.to_bfloat16(net)
    n_weights = sum(p.numel() for p in net.parameters())
    stream.to(device)
    stream.wait(args.batch)
    say(f"{n_weights:,} weights, {len(masters.muon)} matrices by Muon; windows arrive")
    fast = fasts.Fast(net)
    batch = stream.take(args.batch)
    way = fasts.choose(fast, *loss.split(batch, loss.class_weights(device))[:2], say)
    masters.publish()
    step = Step(fast, args.batch, not args.no_graph)
    failure = step.prepare(batch)
    graphed = step.graph is not None
    say(f"ready: {way}, graph {graphed} {failure}; {stream.made} windows made")
    if args.profile:
        say(profile.one_step(step, masters, batch))
    curve = train(step, masters, stream, group, args)
    stream.close()
    group.leave()
    if group.rank:
        return 0
    save(masters, args.out)
    usage = step.usage.clone()
    say(f"use of experts: least {float(usage.min()):.4f}, most {float(usage.max()):.4f} of choices")
    step.close()
    fast.compiled = False
    masters.quantised = False
    masters.publish()
    held_out = torch.from_numpy(files.load(args.data / files.HELD_OUT).astype("int64")).to(device)
    scores, records = score(fast, chat, held_out, args)
    report = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "machine": f"{group.size} x {machine}",
        "versions": {"torch": torch.__version__, "transformers": model.transformers_version()},
        "shape": shape,
        "weights": n_weights,
        "way": way,
        "graph": graphed,
        "windows": {"used": stream.used, "repeated": stream.repeated, "made": stream.made},
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
