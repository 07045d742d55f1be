"""Inputs of a forecast: the shape of a planned model, and the speed and memory of this machine.

A rate that is neither given nor measured is ``math.nan``, and so is every result that depends on
it; hit rates and memory do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flash_moe.compat.cudart import cuda_runtime
from flash_moe.compat.dtypes import resident_bytes
from flash_moe.errors import ConfigError
from flash_moe.memory.plan import MIN_CHUNK
from flash_moe.memory.prefill_workspace import workspace_on_device
from flash_moe.memory.pressure import reserve
from flash_moe.memory.system import (
    available_memory,
    available_to_model,
    machine_memory,
    usable_memory,
)
from flash_moe.ops.cpu_streams import n_streams
from flash_moe.ops.kernel import backend
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.plan.device_speed import copy_speed, page_cache_speed
from flash_moe.plan.device_tiers import (
    KVIKIO_READERS,
    PUBLISHED_COPY,
    PYTHON_READERS,
    DeviceTiers,
    Transfer,
)
from flash_moe.plan.figure import Figure, Range
from flash_moe.plan.forecast import (
    COLLECTIVE,
    LAYER_COST,
    PROCESS_BYTES,
    Machine,
    ModelShape,
)
from flash_moe.plan.machine_speed import Speed, disk_read_bytes_per_s, weight_bytes_per_s
from flash_moe.plan.planned import Planned, existing
from flash_moe.stream.budget import smallest_budget
from flash_moe.stream.kvikio_readers import kvikio_library

_TABLES = ("embed_tokens", "word_embeddings", "embeddings", "wte")


@dataclass(frozen=True)
class LeastMemory:
    """Minimum memory of a process, in bytes.

    Attributes:
        process: Python, MLX and mlx-lm.
        resident: Resident weights.
        bank: One layer's experts of one token.
        prompt: Prefill workspace of the shortest chunk of a prompt.
        reserve: Memory to leave free on the machine.
    """

    process: int
    resident: int
    bank: int
    prompt: int
    reserve: int

    @property
    def n_bytes(self) -> int:
        return self.process + self.resident + self.bank + self.prompt


def least_memory(shape: ModelShape, machine_bytes: int) -> LeastMemory:
    """Return the minimum memory of a process on a machine with ``machine_bytes`` of memory."""
    return LeastMemory(
        PROCESS_BYTES,
        shape.resident_bytes,
        smallest_budget(shape.layers, shape.top_k),
        shape.prefill_workspace.n_bytes(MIN_CHUNK, MIN_CHUNK),
        reserve(machine_bytes),
    )


def shape_of(planned: Planned, top_k: int | None = None) -> ModelShape:
    """Return the shape of a planned model, with the dtypes that this machine computes in.

    Args:
        top_k: Experts per token; ``None`` is the model's own number.

    Raises:
        ConfigError: ``top_k`` is not from 1 to the number of experts.
    """
    model = planned.model
    model.checked_top_k(top_k)
    top_k = top_k or model.top_k
    resident = resident_bytes(planned.resident)
    return ModelShape(
        planned.layers,
        top_k,
        resident,
        resident - resident_bytes(_embedding(planned)),
        workspace_on_device(model.text, planned.layers, top_k),
        planned.machines,
        2 * _decoder_layers(planned) if planned.part else 0,
    )


def _decoder_layers(planned: Planned) -> int:
    n = planned.model.text.get("num_hidden_layers")
    return n if isinstance(n, int) else len(planned.layers)


def _embedding(planned: Planned) -> list[TensorSpec]:
    """Return the embedding table, of which a token needs one row; empty if the output shares it."""
    vocab = planned.model.vocab_size or 0
    sizes = (vocab, vocab // planned.machines)  # the output may be divided, the table is not
    rows = [t for t in planned.resident if len(t.shape) == 2 and t.shape[0] in sizes]
    modules = {tensor.name.rpartition(".")[0] for tensor in rows}
    tables = [path for path in modules if path.endswith(_TABLES)]
    if len(modules) < 2 or len(tables) != 1:
        return []
    return [tensor for tensor in rows if tensor.name.rpartition(".")[0] == tables[0]]


def machine_of(
    shape: ModelShape,
    folder: Path,
    *,
    disk: float | None = None,
    weights: float | None = None,
    measure: bool = True,
    collective_s: float | None = None,
    tiers: DeviceTiers | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Machine:
    """Describe this machine for a forecast.

    Args:
        folder: Directory on the disk to measure, or to be created; up to 1.5 GB are written.
        disk, weights: Given rates in bytes per second, which replace measurements.
        measure: ``False`` leaves rates that are not given unknown.
        collective_s: Given seconds of one sum over all machines.
        tiers: Result of ``tiers_of``.
        on_step: As for ``disk_read_bytes_per_s``.
    """
    record, at_once = _batch(shape)
    kinds = [la.layout.quantization(p) for la in shape.layers for p in la.layout.projections]
    bits = max(q.bits if q else 8 for q in kinds)  # of the matrix that is measured
    share = 1.0
    if weights is None and backend() is None:
        streams = n_streams(shape.top_k, min(la.layout.n_weights for la in shape.layers))
        share = math.ceil(shape.top_k / streams) / shape.top_k

    def read() -> Speed:
        return disk_read_bytes_per_s(existing(folder), record, at_once=at_once, on_step=on_step)

    return Machine(
        _figure(disk, measure, read),
        _figure(weights, measure, lambda: weight_bytes_per_s(bits=bits)),
        usable_memory(),
        available_to_model(),
        tiers.readers.layer_s if tiers else LAYER_COST[backend() or "cpu"],
        COLLECTIVE if collective_s is None else Range(collective_s, collective_s, "given"),
        tiers=tiers,
        expert_share=share,
    )


def tiers_of(
    shape: ModelShape,
    *,
    host_gb: float | None = None,
    page_gb: float | None = None,
    lookahead: bool = False,
    measure: bool = True,
) -> DeviceTiers | None:
    """Measure the tiers behind a GPU with memory of its own; ``None`` without one.

    Args:
        host_gb: GB of pinned host memory for experts.
        page_gb: GB of record files in the page cache; by default what is available now.
        measure: ``False`` takes published rates.

    Raises:
        ConfigError: An option of a GPU without one.
    """
    runtime = cuda_runtime()
    if runtime is None:
        if host_gb or page_gb or lookahead:
            raise ConfigError(
                "plan",
                "--host-cache-gb, --page-cache-gb and --lookahead: expected an NVIDIA GPU with "
                "memory of its own and libcudart, found none",
                "Plan without them: the forecast counts them only there.",
            )
        return None
    record, n = _batch(shape)
    host_bytes = round((host_gb or 0) * 1e9)
    spare = (available_memory() or 0) - host_bytes - reserve(machine_memory())
    page_bytes = max(spare, 0) if page_gb is None else round(page_gb * 1e9)
    kvikio = kvikio_library() is not None
    copy, page_cache = PUBLISHED_COPY, (KVIKIO_READERS if kvikio else PYTHON_READERS).page_cache
    if measure:
        copy, page_cache = (
            Transfer(_measured(speed(runtime, record, 1)), _measured(speed(runtime, record, n)), n)
            for speed in (copy_speed, page_cache_speed)
        )
    return DeviceTiers(copy, page_cache, host_bytes, page_bytes, lookahead, kvikio=kvikio)


def _batch(shape: ModelShape) -> tuple[int, int]:
    """Return the bytes of a record, and records that are read together.

    With a bank of the usual size about half of a token's experts are missing.
    """
    record = max(layer.layout.record_bytes for layer in shape.layers)
    return record, max(1, shape.top_k // 2)


def _figure(given: float | None, measure: bool, speed: Callable[[], Speed]) -> Figure:
    if given is not None:
        return Figure(given, "given", "on the command line")
    if not measure:
        return Figure(math.nan, "unknown", "not measured")
    return _measured(speed())


def _measured(rate: Speed) -> Figure:
    if rate.bytes_per_s is None:
        return Figure(math.nan, "unknown", f"cannot be measured: {rate.note}")
    spread = f"{rate.low / 1e9:.3g} to {rate.high / 1e9:.3g} GB/s"
    return Figure(rate.bytes_per_s, "measured", f"{spread}, {rate.note}")
