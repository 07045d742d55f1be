"""Group of training processes, one per GPU; a single process is a group too.

Started by ``torchrun --nproc-per-node N -m scripts.demo_model.train ...``. Every process makes its
own windows and has all weights; gradients are averaged, so all take the same step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import Tensor, distributed

PATIENCE = timedelta(minutes=5)


class Group:
    """This process and its peers.

    Attributes:
        rank, size: Index of this process, and number of processes.
        device: The GPU of this process, or the CPU.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.device = torch.device("cpu")
        self._clock: distributed.ProcessGroup | None = None

    def join(self) -> None:
        """Initialize the GPU and the group; call it after forking."""
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        if self.size > 1:
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=PATIENCE)
            # On the CPU, so that agreeing on the time does not wait for the GPU.
            self._clock = distributed.new_group(backend="gloo", timeout=PATIENCE)

    def agree(self, value: float) -> float:
        """Return the value of the first process."""
        if self.size == 1:
            return value
        said = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(said, 0, group=self._clock)
        return float(said.item())

    @torch.no_grad()
    def average(self, values: Iterable[Tensor]) -> None:
        """Replace the values with their mean over all processes."""
        if self.size == 1:
            return
        parts = list(values)
        flat = torch.cat([part.reshape(-1).float() for part in parts])
        distributed.all_reduce(flat)
        flat /= self.size
        places = flat.split([part.numel() for part in parts])
        torch._foreach_copy_(
            parts, [place.view_as(part) for place, part in zip(places, parts, strict=True)]
        )

    @torch.no_grad()
    def copy_first(self, values: Iterable[Tensor]) -> None:
        """Replace the values with those of the first process."""
        if self.size > 1:
            for value in values:
                distributed.broadcast(value, 0)

    def leave(self) -> None:
        """Leave the group."""
        if self.size > 1:
            distributed.destroy_process_group()
