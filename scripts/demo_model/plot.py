"""Plot the loss curve and the expert usage of a training of one or several runs.

    python -m scripts.demo_model.plot RUN [RUN ...] --out loss.png

Each RUN has a report.json of ``train.py``. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    reports = [json.loads((run / "report.json").read_text("utf-8")) for run in args.runs]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), width_ratios=(3, 2))
    seen = 0.0
    for report in reports:
        last_step, points = 0, []
        processes = int(report["machine"].split(" x ")[0])
        step_tokens = report["settings"]["batch"] * 1024 * processes
        for entry in report["curve"]:
            seen += (entry["step"] - last_step) * step_tokens / 1e6
            last_step = entry["step"]
            points.append((seen, entry["loss"]))
        left.plot(*zip(*points, strict=True), linewidth=1)
    left.set_xlabel("tokens trained on (millions)")
    left.set_ylabel("loss of a token (nats, weighted)")
    left.set_ylim(0.6, 2.0)
    left.grid(alpha=0.3)
    usage = reports[-1]["usage"]
    for layer, shares in enumerate(usage):
        right.plot(sorted((100 * s for s in shares), reverse=True), linewidth=1, label=str(layer))
    right.axhline(100 / len(usage[0]), color="black", linewidth=0.6, linestyle=":")
    right.set_xlabel("expert, by use")
    right.set_ylabel("share of choices (%)")
    right.set_ylim(bottom=0)
    right.legend(title="layer", fontsize=7, ncols=2)
    right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.out, dpi=100)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
