"""Report of ``flash-moe plan``: all figures, for the terminal and for JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.plan.assumptions import assumptions
from flash_moe.plan.forecast import Forecast, Machine, ModelShape, budgets, forecast
from flash_moe.plan.planned import Planned
from flash_moe.plan.this_machine import LeastMemory, least_memory
from flash_moe.plan.verdict import Request, Verdict, verdict
from flash_moe.store.experts import layer_facts

_QUANTIZED = ("weight", "scales", "biases")


@dataclass(frozen=True)
class PlanReport:
    """A planned model on a machine.

    Attributes:
        rows: Forecasts, one per size of the bank, by the option that sets it.
        least: Minimum memory of a process.
    """

    planned: Planned
    shape: ModelShape
    machine: Machine
    rows: Mapping[str, Forecast]
    least: LeastMemory
    verdict: Verdict

    def facts(self) -> dict[str, Any]:
        """Return all figures, sizes in bytes; figures without a source follow from the headers."""
        planned, shape, machine = self.planned, self.shape, self.machine
        disk, model = planned.disk, planned.model
        resident = sum(tensor.n_bytes for tensor in planned.resident)
        return {
            "name": planned.name,
            "commit": planned.commit,
            "kind": planned.kind,
            "state": planned.state,
            "machines": planned.machines,
            "model_type": model.model_type,
            "architectures": model.raw.get("architectures"),
            "layers": model.text.get("num_hidden_layers"),
            **layer_facts(shape.layers, shape.top_k),
            "experts_per_token_of_the_model": model.top_k,
            "max_context": model.max_context,
            "requantized_from_bits": planned.from_bits,
            "resident_quantization": resident_kinds(planned),
            "resident_bytes": resident,
            "disk": {**asdict(disk), "path": str(disk.path), "fits": disk.fits},
            "memory": {
                **asdict(self.least),
                "least": self.least.n_bytes,
                "machine": machine.memory_bytes,
                "available": machine.available_bytes,
                "assumed": ["process", "prompt", "reserve"],
            },
            "machine": {
                "disk_bytes_per_s": asdict(machine.read_bytes_per_s),
                "weight_bytes_per_s": asdict(machine.weight_bytes_per_s),
                "layer_s": asdict(machine.layer_s),
                "collective_s": asdict(machine.collective_s),
                "expert_share": machine.expert_share,
                "tiers": machine.tiers and asdict(machine.tiers),
            },
            "budgets": [{"option": n, **asdict(row)} for n, row in self.rows.items()],
            "assumptions": assumptions(machine, planned.machines),
            "verdict": {**asdict(self.verdict), "shell": self.verdict.shell},
        }


def plan_report(
    planned: Planned,
    shape: ModelShape,
    machine: Machine,
    request: Request,
    cache_gb: Sequence[float] = (),
) -> PlanReport:
    """Forecast speed and memory of a planned model, and compare its needs with a machine.

    Args:
        cache_gb: Cache sizes to forecast; empty for the default of ``load()`` and shares of memory.
    """
    least = least_memory(shape, machine.memory_bytes)
    result = verdict(planned, least, machine, request)
    return PlanReport(planned, shape, machine, _rows(shape, machine, cache_gb), least, result)


def _rows(shape: ModelShape, machine: Machine, cache_gb: Sequence[float]) -> dict[str, Forecast]:
    if not machine.rates_known:  # times are unknown too
        unknown = machine.read_bytes_per_s, machine.weight_bytes_per_s
        read, weights = (replace(figure, value=math.nan) for figure in unknown)
        machine = replace(machine, read_bytes_per_s=read, weight_bytes_per_s=weights)
    banks = {f"--cache-gb {gb:g}": round(gb * 1e9) for gb in cache_gb}
    for share, bank in budgets(shape, machine).items() if not banks else ():
        limit = 0 if share is None else share * machine.memory_bytes / 1e9
        option = (
            f"--memory-gb {limit:.3g}" if machine.tiers is None else f"--cache-gb {bank / 1e9:.3g}"
        )
        banks["default, now" if share is None else option] = bank
    rows: dict[str, Forecast] = {}
    for label, bank in banks.items():
        row = forecast(shape, machine, bank)
        # Slots are whole, so two options may give the same bank.
        if all(row.bank_bytes != other.bank_bytes for other in rows.values()):
            rows[label] = row
    return rows


def resident_kinds(planned: Planned) -> dict[str, int]:
    """Return the bytes of resident weights by format: ``"4-bit, group 64"`` or a dtype."""
    group_size = _group_sizes(planned.model.raw)
    modules: dict[str, dict[str, TensorSpec]] = defaultdict(dict)
    for tensor in planned.resident:
        path, _, part = tensor.name.rpartition(".")
        modules[path][part] = tensor
    kinds: dict[str, int] = defaultdict(int)
    for path, parts in modules.items():
        packed = _QUANTIZED if "scales" in parts and "weight" in parts else ()
        for part, tensor in parts.items():
            kind = tensor.dtype
            if part in packed:
                group = group_size(path)
                n_in = parts["scales"].shape[-1] * group
                kind = f"{32 * parts['weight'].shape[-1] // n_in}-bit, group {group}"
            kinds[kind] += tensor.n_bytes
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def _group_sizes(config: dict[str, Any]) -> Callable[[str], int]:
    """Return a function from module path to group size in config.json; 64 if not specified."""
    table = config.get("quantization") or config.get("quantization_config")
    rows = table if isinstance(table, dict) else {}

    def group_size(path: str) -> int:
        for row in (rows.get(path), rows):
            size = row.get("group_size") if isinstance(row, dict) else None
            if isinstance(size, int) and size > 0:
                return size
        return 64

    return group_size
