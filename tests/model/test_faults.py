"""Disks and threads that fail under a running model: an error, and the next tokens are right.

Ctrl-C, two threads at once and a file that is cut are also in ``test_embedding.py``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.errors import ChecksumError, ConfigError, ReadError, UnsupportedModelError
from flash_moe.ops.expert_mlp import ExpertMLP
from flash_moe.store import reader as reader_module
from flash_moe.stream.readers import ReadBatch
from tests.support.faulty_disk import FaultyDisk
from tests.support.resident import Resident, budget_gb, prompt_ids

N_TOKENS, RECORD = 6, 16384
linux = pytest.mark.skipif(sys.platform != "linux", reason="finds the name of a file in /proc")
WAYS: list[dict[str, Any]] = [
    {"io": "buffered", "io_split": 1},
    {"io": "buffered", "io_split": 4},
    {"io": "direct", "io_split": 1},
    {"io": "direct", "io_split": 3},
]


@pytest.fixture(scope="module")
def expected(tiny_mlx: Path) -> list[int]:
    return Resident(tiny_mlx).tokens(prompt_ids(37), N_TOKENS)


@pytest.fixture(params=[WAYS[0], WAYS[3]], ids=lambda way: f"{way['io']}-{way['io_split']}")
def flash(request: pytest.FixtureRequest, store_copy: Path) -> Iterator[FlashMoE]:
    """A model with the smallest bank, so that nearly every token reads every layer."""
    minimum = budget_gb(store_copy, "layer")
    with load(store_copy, cache_gb=minimum, io_threads=3, **request.param) as opened:
        yield opened


def tokens(flash: FlashMoE, n_prompt: int = 37) -> list[int]:
    return list(flash.generate(prompt_ids(n_prompt), max_tokens=N_TOKENS).token_ids)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_read_gives_the_tokens(
    way: dict[str, Any], tiny_store: Path, expected: list[int]
) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer"), io_threads=3, **way) as flash:
        assert tokens(flash) == expected
        assert flash.stats.bytes_read == flash.stats.misses * RECORD > 0


@linux
@pytest.mark.parametrize("split", [1, 2, 4])
def test_a_record_is_read_in_as_many_parts_as_asked(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, split: int
) -> None:
    disk, sizes = FaultyDisk(monkeypatch), []
    disk.fault = lambda file, offset, buffer: sizes.append(len(buffer))
    with load(tiny_store, cache_gb=0.001, io_split=split) as flash:
        tokens(flash)
        assert sizes == [RECORD // split] * split * flash.stats.misses


@linux
def test_reads_that_come_in_pieces(
    flash: FlashMoE, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk(monkeypatch)
    disk.short(4096)
    assert tokens(flash) == expected
    assert disk.n_faults > flash.stats.misses


@linux
def test_a_record_that_cannot_be_read(
    flash: FlashMoE, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk(monkeypatch)
    disk.broken("layer_002.bin", 9 * RECORD, 10 * RECORD)
    with pytest.raises(ReadError, match=r"layer_002\.bin: Input/output error") as caught:
        flash.generate(prompt_ids(300), max_tokens=1)
    assert (caught.value.layer, caught.value.expert) == (2, 9)
    assert disk.n_faults > 0
    disk.fault = None
    assert tokens(flash) == expected


@pytest.mark.parametrize("length", [0, 7 * RECORD, 7 * RECORD + 4096, 7 * RECORD + 100])
def test_a_file_that_is_cut_while_the_model_runs(
    flash: FlashMoE, store_copy: Path, expected: list[int], length: int
) -> None:
    pieces = flash.stream(prompt_ids(37), max_tokens=50)
    next(pieces)
    file = store_copy / "experts" / "layer_003.bin"
    whole = file.read_bytes()
    os.truncate(file, length)
    with pytest.raises(ReadError, match=r"layer 3, expert \d+: .*layer_003\.bin: expected"):
        flash.generate(prompt_ids(300), max_tokens=1)
    with open(file, "r+b") as stream:
        stream.write(whole)
    assert tokens(flash) == expected
    pieces.close()


@linux
def test_a_slow_layer(
    flash: FlashMoE, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk(monkeypatch)
    disk.slow("layer_002.bin", 0.005)
    assert tokens(flash) == expected
    assert disk.n_faults > 0


@linux
@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_while_a_record_is_read(
    flash: FlashMoE, expected: list[int], monkeypatch: pytest.MonkeyPatch, interrupts: int
) -> None:
    disk = FaultyDisk(monkeypatch)
    main, running = threading.get_ident(), threading.Event()

    def fault(file: Path, offset: int, buffer: memoryview) -> None:
        if file.name == "layer_003.bin" and not running.is_set():
            running.set()
            for _ in range(interrupts):
                signal.pthread_kill(main, signal.SIGINT)
                threading.Event().wait(0.03)

    disk.fault = fault
    with pytest.raises(KeyboardInterrupt):
        flash.generate(prompt_ids(300), max_tokens=8)
    assert running.is_set()
    disk.fault = None
    assert tokens(flash) == expected


def test_an_error_of_a_thread_outside_of_its_read(
    flash: FlashMoE, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, and the thread goes on."""
    whole, once = ReadBatch.run_one, threading.Event()

    def run_one(self: ReadBatch, *args: Any) -> bool:
        if not once.is_set():
            once.set()
            raise SystemExit("the thread ends")
        return whole(self, *args)

    n_threads = threading.active_count()
    monkeypatch.setattr(ReadBatch, "run_one", run_one)
    with pytest.raises(SystemExit):
        flash.generate(prompt_ids(37), max_tokens=1)
    assert threading.active_count() == n_threads
    assert tokens(flash) == expected


@linux
@pytest.mark.parametrize("at", [3, 10])
def test_a_pass_that_ended_between_two_waves_and_is_kept_by_its_traceback(
    flash: FlashMoE, expected: list[int], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """What it left behind is freed in the middle of the next pass, by a reader thread."""
    whole, left = ExpertMLP.__call__, [at]

    def interrupted(self: ExpertMLP, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return whole(self, *args, **options)

    monkeypatch.setattr(ExpertMLP, "__call__", interrupted)
    kept: list[BaseException] = []
    try:
        flash.generate(prompt_ids(190), max_tokens=1)
    except KeyboardInterrupt as error:
        kept.append(error)
    assert kept
    disk, reads = FaultyDisk(monkeypatch), []

    def free(file: Path, offset: int, buffer: memoryview) -> None:
        reads.append(offset)
        if len(reads) == 5:
            kept.clear()

    disk.fault = free
    assert tokens(flash) == expected
    assert not kept
    assert tokens(flash) == expected


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way['io']}-{way['io_split']}")
def test_a_damaged_record_is_named(store_copy: Path, way: dict[str, Any]) -> None:
    file = store_copy / "experts" / "layer_002.bin"
    damaged = bytearray(file.read_bytes())
    damaged[5 * RECORD + 8000] ^= 1
    file.write_bytes(damaged)
    minimum = budget_gb(store_copy, "layer")
    if way is WAYS[0]:
        with load(store_copy, cache_gb=minimum, **way) as flash:
            flash.generate(prompt_ids(300), max_tokens=1)  # not asked to check
    with load(store_copy, cache_gb=minimum, verify_reads=True, **way) as flash:
        for _ in range(2):
            with pytest.raises(ChecksumError) as caught:
                flash.generate(prompt_ids(300), max_tokens=1)
            assert (caught.value.layer, caught.value.expert) == (2, 5)


def test_direct_reads_want_a_packed_store(tiny_mlx: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"io='direct'.*multiples of 4096.*Pack the"):
        load(tiny_mlx, io="direct")
    load(tiny_mlx, io="buffered", io_split=4, cache_gb=0.01).close()


def test_a_filesystem_that_refuses_direct_reads(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(22, "Invalid argument")
        return whole(path, flags, *args, **options)

    monkeypatch.setattr(reader_module.os, "open", refuse)
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("there is no O_DIRECT here")
    with pytest.raises(ConfigError, match=r"refuses direct reads: Invalid argument.*io='buffered'"):
        load(tiny_store, io="direct")
    load(tiny_store, io="buffered", cache_gb=0.01).close()


def test_the_environment_chooses(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_MOE_IO", "direkt")
    with pytest.raises(ConfigError, match="FLASH_MOE_IO: expected one of buffered, direct"):
        load(tiny_store)
    monkeypatch.setenv("FLASH_MOE_IO", "Direct")
    monkeypatch.setenv("FLASH_MOE_IO_SPLIT", "65")
    with pytest.raises(ConfigError, match="io_split: expected 1 to 64, got 65"):
        load(tiny_store)
    opened = []
    whole = os.open
    monkeypatch.setattr(
        reader_module.os, "open", lambda *a, **k: opened.append(a[1]) or whole(*a, **k)
    )
    monkeypatch.setenv("FLASH_MOE_IO_SPLIT", "2")
    with load(tiny_store, cache_gb=0.01) as flash:
        assert tokens(flash)
    assert all(flags & getattr(os, "O_DIRECT", 0) for flags in opened if sys.platform == "linux")
    assert len(opened) > 1
