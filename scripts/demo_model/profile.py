"""GPU profile of a training step."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from scripts.demo_model.optim import Masters
from scripts.demo_model.step import Step

ROWS = 25


def one_step(step: Step, masters: Masters, windows: Tensor, n: int = 10) -> str:
    """Return milliseconds of both halves of a step, mean of ``n``, and the slowest kernels.

    The learning rate is zero: the masters do not change, but the momenta do.
    """
    if not windows.is_cuda:
        return "no GPU to profile"
    step(windows)
    masters.step(0.0)
    lines = []
    halves = (("pass", lambda: step(windows)), ("optimizer", lambda: masters.step(0.0)))
    for name, half in halves:
        torch.cuda.synchronize()
        began = time.monotonic()
        for _ in range(n):
            half()
        torch.cuda.synchronize()
        lines.append(f"{name} {(time.monotonic() - began) / n * 1e3:.1f} ms")
    lines.append(f"memory {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB")
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            step(windows)
            masters.step(0.0)
            torch.cuda.synchronize()
        table = seen.key_averages().table(
            sort_by="self_cuda_time_total", row_limit=ROWS, max_name_column_width=60
        )
    except Exception as reason:  # a failed profile must not end the run
        table = f"no profile: {type(reason).__name__}: {str(reason)[:200]}"
    return ", ".join(lines) + "\n" + str(table)
