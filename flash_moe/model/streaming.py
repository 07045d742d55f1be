"""Experts and options of a streamed model; plans its memory and opens its bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from flash_moe.compat.cudart import cuda_runtime
from flash_moe.config import ModelConfig
from flash_moe.errors import BudgetError
from flash_moe.files.sizes import format_bytes, format_least_gb
from flash_moe.memory.plan import MIN_CHUNK, MemoryPlan, default_bank, plan_for_limit
from flash_moe.memory.prefill_workspace import PrefillWorkspace, workspace_on_device
from flash_moe.memory.system import (
    available_memory,
    available_to_model,
    resident_memory,
    usable_memory,
)
from flash_moe.options.loading import LoadOptions
from flash_moe.ranks.envelope import Kind
from flash_moe.ranks.group import Ranks
from flash_moe.store.experts import ExpertFiles, token_bytes
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.budget import plan_slabs, smallest_budget
from flash_moe.stream.device_memory import DeviceMemory, slab_memory
from flash_moe.stream.events import EventLog
from flash_moe.stream.io_settings import io_settings
from flash_moe.stream.trace import TraceHeader, TraceWriter


@dataclass(frozen=True)
class Streaming:
    """Experts on disk and options of a streamed model.

    Attributes:
        experts: The experts on disk.
        resident_bytes: Size of the resident weights, in the dtype of the computation.
        files: For a checkpoint: tensor name to its file. mlx-lm loads all files in the directory,
            and of several copies of a tensor any one.
        ranks: The ranks among which the model is divided; ``None`` on one machine.
    """

    experts: ExpertFiles
    model: ModelConfig
    options: LoadOptions
    resident_bytes: int
    files: Mapping[str, Path] = field(default_factory=dict)
    ranks: Ranks | None = None

    @property
    def top_k(self) -> int:
        return self.options.top_k or self.model.top_k

    def prefill_workspace(self) -> PrefillWorkspace:
        """Estimate the memory of the pass over a chunk of a prompt on this device."""
        return workspace_on_device(self.model.text, self.experts.layers, self.top_k)

    def memory_share(self) -> tuple[int, int | None]:
        """Bytes of memory for this process, and those available now: ranks of a machine share."""
        n = self.ranks.n_on_machine if self.ranks else 1
        available = available_to_model()
        return usable_memory() // n, None if available is None else available // n

    def smallest(self, value: int, n_tokens: int) -> int:
        """Return the smallest value of all ranks, for the next pass of a prompt of that length."""
        if self.ranks is None:
            return value
        return self.ranks.smallest(Kind.CHUNK, value, {"prompt tokens": n_tokens})

    def plan_memory(self) -> MemoryPlan:
        """Divide the memory of the options, or the memory available now.

        Raises:
            BudgetError: ``memory_gb`` is too small.
        """
        options, resident = self.options, self.resident_bytes
        if options.cache_gb is not None:
            return MemoryPlan(round(options.cache_gb * 1e9), resident)
        expert_bytes = self.experts.n_bytes
        smallest = smallest_budget(self.experts.layers, self.top_k)
        if options.memory_gb is not None:
            return plan_for_limit(
                round(options.memory_gb * 1e9),
                taken=resident_memory(),
                resident=resident,
                expert_bytes=expert_bytes,
                smallest_bank=smallest,
                workspace=self.prefill_workspace(),
            )
        machine, available = self.memory_share()
        bank = default_bank(
            machine=machine,
            available=available,
            resident=resident,
            expert_bytes=expert_bytes,
            smallest_bank=smallest,
        )
        return MemoryPlan(bank, resident)

    def _check_device_memory(self, bank_bytes: int) -> None:
        """Check that everything fits the memory of a GPU, and the second tier that of the host.

        Counted on the GPU: the bank, the resident weights, and the pass over a short prompt.

        Raises:
            BudgetError: It does not.
        """
        runtime = cuda_runtime()
        if runtime is None:
            return
        mx.clear_cache()  # MLX keeps the memory of models that were closed
        free = runtime.memory()[0]
        pass_bytes = self.prefill_workspace().n_bytes(MIN_CHUNK, MIN_CHUNK)
        left = max(free - self.resident_bytes - pass_bytes, 0)
        if bank_bytes > left:
            raise self._no_device_memory(
                f"expert cache of {format_bytes(bank_bytes)} on the GPU: expected at most "
                f"{format_bytes(left)}: {format_bytes(free)} are free, the resident weights take "
                f"{format_bytes(self.resident_bytes)}, a short prompt {format_bytes(pass_bytes)}"
            )
        tier, available = self._host_cache_bytes(), available_memory()
        if available is not None and tier > available:
            raise BudgetError(
                "bank",
                f"host_cache_gb of {format_bytes(tier)}: expected at most the "
                f"{format_bytes(available)} of host memory that are available",
                "Lower host_cache_gb, or end other programs.",
            )

    def _no_device_memory(self, problem: str) -> BudgetError:
        smallest = smallest_budget(self.experts.layers, self.top_k)
        return BudgetError(
            "bank",
            f"{problem}. The smallest cache is {format_least_gb(smallest)}",
            "Lower cache_gb, or end other programs on the GPU.",
        )

    def _host_cache_bytes(self) -> int:
        return round((self.options.host_cache_gb or 0) * 1e9)

    def open_bank(self, budget: int, *, keep_views: bool) -> ExpertBank:
        options, top_k = self.options, self.top_k
        plans = plan_slabs(self.experts.layers, budget, top_k)  # raises before any file is opened
        self._check_device_memory(sum(plan.n_bytes for plan in plans))
        if options.lookahead and len(plans[0].layers) > 1:
            least = token_bytes(self.experts.layers, top_k)
            raise BudgetError(
                "bank",
                f"lookahead with a budget of {format_bytes(budget)}: expected at least one token's "
                f"experts, {format_least_gb(least)}",
                "Raise cache_gb, or load it without lookahead.",
            )
        planned, needed = sum(plan.n_bytes for plan in plans), self.experts.n_bytes
        if options.preload and planned < needed:
            raise BudgetError(
                "bank",
                f"preload with an expert cache of {format_bytes(planned)}: expected one for all "
                f"experts, {format_least_gb(needed)}",
                "Raise cache_gb, or load it without preload.",
            )
        reads = io_settings(
            self.experts, io=options.io, threads=options.io_threads, split=options.io_split
        )
        header = TraceHeader.of(
            self.experts, self.model.model_type, top_k, options.cache_policy, budget
        )
        largest = max(layer.layout.record_bytes for layer in self.experts.layers)
        memory = slab_memory(self._host_cache_bytes(), largest)
        bank = ExpertBank(
            self.experts,
            budget,
            top_k,
            io_threads=reads.threads,
            io=reads.io,
            io_split=reads.split,
            verify_reads=options.verify_reads,
            memory=memory,
            keep_views=keep_views,
            policy=options.cache_policy,
            trace=TraceWriter(Path(options.trace), header) if options.trace else None,
            events=EventLog(Path(options.trace_events)) if options.trace_events else None,
        )
        if isinstance(memory, DeviceMemory):
            try:
                bank.allocate()
            except MemoryError as error:
                bank.close()
                raise self._no_device_memory(str(error)) from None
        return bank
