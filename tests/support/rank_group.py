"""Groups of processes on this machine, as ``mlx.launch`` starts them, and a model that divides.

They are connected by MLX's ring over loopback, or by NCCL where MLX computes on NVIDIA GPUs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flash_moe.compat.cudart import on_cuda
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.sources.store import slice_source
from flash_moe.store.part import Part
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.support.processes import environment
from tests.support.timeout import TIMEOUT_S
from tests.support.warm_process import start_module

# Every width divides by 4 groups of 64.
WIDE = replace(
    PRESETS["tiny"],
    layers=4,
    expert_width=256,
    shared_width=256,
    heads=8,
    kv_heads=4,
    linear_k_heads=4,
    linear_v_heads=8,
)


def write_wide(root: Path, *sizes: int) -> None:
    """Write the checkpoint ``mlx``, the store ``whole``, and the parts for groups of these sizes.

    The parts of a group of 2 are ``parts/part-1-of-2`` and ``parts/part-2-of-2``.
    """
    write_mlx_checkpoint(root / "mlx", WIDE)
    pack(open_source(root / "mlx"), root / "whole")
    write_parts(root / "whole", root / "parts", *sizes)


def write_parts(store: Path, parts: Path, *sizes: int) -> None:
    for size in sizes:
        for part in (Part(number, size) for number in range(1, size + 1)):
            pack(slice_source(store, part), parts / part.suffix.lstrip("-"))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _ring(size: int, hostfile: Path) -> list[dict[str, str]]:
    """Variables of each rank."""
    hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports(size)]))
    return [{"MLX_HOSTFILE": str(hostfile)}] * size


def _nccl(size: int) -> list[dict[str, str]]:
    """Variables of each rank, which has a GPU of its own.

    Multicast over NVLink needs privileges that a container may lack.
    """
    host = {"NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": str(_free_ports(1)[0])}
    host |= {"MLX_WORLD_SIZE": str(size), "NCCL_NVLS_ENABLE": "0"}
    return [{**host, "CUDA_VISIBLE_DEVICES": str(rank)} for rank in range(size)]


class Group:
    """Running ranks. Their output is in files."""

    def __init__(
        self, size: int, words: Sequence[Any], files: Path, stdin: Any, **extra: str
    ) -> None:
        self.files = files
        network = _nccl(size) if on_cuda() else _ring(size, files / "hosts.json")
        self.processes = []
        for rank in range(size):
            variables = dict(extra)
            if size > 1:
                variables |= {"MLX_RANK": str(rank), **network[rank]}
            with (files / f"out{rank}").open("wb") as out, (files / f"err{rank}").open("wb") as err:
                self.processes.append(
                    start_module(list(map(str, words)), environment(**variables), stdin, out, err)
                )

    def wait(self, *ranks: int) -> list[int]:
        """Exit codes of these ranks, or of all."""
        chosen = [self.processes[rank] for rank in ranks] if ranks else self.processes
        return [process.wait(TIMEOUT_S) for process in chosen]

    def out(self, rank: int) -> str:
        return (self.files / f"out{rank}").read_text()

    def said(self, rank: int) -> str:
        return (self.files / f"err{rank}").read_text()


@contextmanager
def group(
    size: int, *words: Any, files: Path, stdin: Any = subprocess.DEVNULL, **extra: str
) -> Iterator[Group]:
    """Start a command on each rank; kill what is left of them at the end."""
    files.mkdir(parents=True, exist_ok=True)
    ranks = Group(size, words, files, stdin, **extra)
    try:
        yield ranks
    finally:
        for process in ranks.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
