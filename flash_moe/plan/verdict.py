"""Verdict of a plan: does the model fit the machine, in sentences, with the next command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from flash_moe.files.sizes import format_bytes
from flash_moe.plan.forecast import Machine
from flash_moe.plan.planned import Planned
from flash_moe.plan.this_machine import LeastMemory
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig


@dataclass(frozen=True)
class Request:
    """Arguments of a plan, as typed.

    Attributes:
        model: Repository or directory.
        is_local: True for a directory.
        dst: Directory of the store, if given.
        keep: True to keep the tensors that mlx-lm does not load.
    """

    model: str
    is_local: bool
    dst: Path | None = None
    revision: str | None = None
    quantization: QuantizationConfig = AS_IT_IS
    keep: bool = False


@dataclass(frozen=True)
class Verdict:
    """Result of a plan.

    Attributes:
        fits: True if the model fits the disk and the memory.
        reasons: Sentences: what is missing, how much, and what would help.
        command: Next command to run; ``None`` if nothing helps.
    """

    fits: bool
    reasons: tuple[str, ...]
    command: tuple[str, ...] | None

    @property
    def shell(self) -> str | None:
        return None if self.command is None else shlex.join(self.command)


def verdict(planned: Planned, least: LeastMemory, machine: Machine, request: Request) -> Verdict:
    """Compare the needs of a planned model with the machine."""
    memory = _memory(least, machine)
    if least.n_bytes + least.reserve > machine.memory_bytes:
        return Verdict(False, memory, None)
    disk = planned.disk
    if disk.fits:
        return Verdict(True, memory, command(planned, request))
    lacks = (
        f"The disk lacks {format_bytes(disk.needed - disk.free)} at {disk.path}: "
        f"{format_bytes(disk.needed)} are needed, {format_bytes(disk.free)} are free.",
    )
    if disk.deleting is not None and disk.deleting <= disk.free:
        hint = "With --delete-source each shard of the checkpoint is deleted after it is packed."
        return Verdict(
            False, (*lacks, hint, *memory), (*command(planned, request), "--delete-source")
        )
    for bits, needed in planned.smaller:
        if needed <= disk.free:
            hint = (
                f"With --expert-bits {bits} it fits: {format_bytes(needed)}. That costs quality; "
                "flash-moe info shows how much."
            )
            less = replace(request, quantization=replace(request.quantization, expert_bits=bits))
            return Verdict(False, (*lacks, hint, *memory), command(planned, less))
    least_bits = "".join(
        f"Even with --expert-bits {bits} it takes {format_bytes(needed)}. "
        for bits, needed in planned.smaller[-1:]
    )
    hint = f"{least_bits}Free some space, or choose a directory on another disk with --dst."
    return Verdict(False, (*lacks, hint, *memory), None)


def _memory(least: LeastMemory, machine: Machine) -> tuple[str, ...]:
    """Return the sentences about memory, if any."""
    n_bytes, now = least.n_bytes + least.reserve, machine.available_bytes
    needed = f"{format_bytes(n_bytes)} are needed"
    if n_bytes > machine.memory_bytes:
        return (
            f"The machine has {format_bytes(machine.memory_bytes)} of memory for a process; at "
            f"least {needed}, {format_bytes(least.resident)} of them for resident weights.",
        )
    if now is not None and n_bytes > now:
        return (f"Other programs use memory now: {needed}, {format_bytes(now)} are free.",)
    return ()


def command(planned: Planned, request: Request) -> tuple[str, ...]:
    """Return the command that makes the store, or runs it if it is complete."""
    if planned.state == "complete":
        launch = ("mlx.launch", "-n", str(planned.machines), "--") if planned.part else ()
        return (*launch, "flash-moe", "generate", str(planned.disk.path), "-p", "Hello")
    part = ("--part", str(planned.part)) if planned.part else ()
    if planned.is_slice:
        return ("flash-moe", "slice", request.model, str(planned.disk.path), *part)
    flags = (*request.quantization.flags, *(["--keep-unused"] if request.keep else []), *part)
    if request.revision is not None and not request.is_local:
        flags = ("--revision", request.revision, *flags)
    if request.is_local:
        return ("flash-moe", "pack", request.model, str(planned.disk.path), *flags)
    dst = [] if request.dst is None else [str(request.dst)]
    return ("flash-moe", "pull", request.model, *dst, *flags)
