"""Forward and backward pass of a batch, as a CUDA graph if possible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scripts.demo_model import loss
from scripts.demo_model.fast import Fast
from scripts.demo_model.windows import WINDOW


class Step:
    """Forward and backward pass of a batch, captured once as a CUDA graph if possible.

    Attributes:
        usage: Share of each expert in the last pass, ``[layers, experts]``.
    """

    def __init__(self, fast: Fast, batch: int, graph: bool) -> None:
        self.fast, self.net = fast, fast.net
        self.device = self.net.lm_head.weight.device
        self.weights = loss.class_weights(self.device)
        self.windows = torch.zeros(batch, WINDOW, dtype=torch.long, device=self.device)
        self.graph: Any = None
        self.wanted = graph and self.device.type == "cuda"
        self.usage: Tensor = torch.empty(0)

    def _pass(self) -> Tensor:
        values, usage = loss.training_loss(self.fast, self.windows, self.weights)
        values[0].backward()
        self.usage = usage.detach()
        return values.detach()

    def prepare(self, windows: Tensor) -> str:
        """Select and compile kernels, and capture the graph; no weight changes.

        Returns:
            Reason why a requested graph is missing, or "".
        """
        self.windows.copy_(windows)
        if not self.wanted:
            self._pass()
            self.net.zero_grad(set_to_none=True)
            return ""
        torch.cuda.empty_cache()  # the graph has its own memory
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._pass()
                self.net.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(side)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.values = self._pass()
            self.graph = graph
        except RuntimeError as reason:
            self.net.zero_grad(set_to_none=True)
            return f"no graph: {str(reason)[:300]}"
        return ""

    def __call__(self, windows: Tensor) -> Tensor:
        """Return loss values ``[4]`` of a batch; the parameters have the gradients."""
        self.windows.copy_(windows)
        if self.graph is not None:
            self.graph.replay()
            return self.values.clone()
        self.net.zero_grad(set_to_none=True)
        return self._pass()

    def close(self) -> None:
        """Release the graph and its memory."""
        self.graph = None
        self.net.zero_grad(set_to_none=True)
