"""Measuring this machine: what is read, that nothing stays behind, and what cannot be measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from flash_moe.plan import machine_speed as module
from flash_moe.plan.machine_speed import (
    LEAVE_FREE_BYTES,
    ROUNDS,
    Speed,
    disk_read_bytes_per_s,
    weight_bytes_per_s,
)

RECORD = 262_144
MOST = 40 * RECORD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on a disk, empty."""
    found = disk_read_bytes_per_s(tmp_path, 4096, at_once=1, max_file_bytes=8 * 4096)
    if found.bytes_per_s is None:
        assert "page cache" in found.note
        pytest.skip("this filesystem lives in memory")
    return tmp_path


def test_a_disk(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = disk_read_bytes_per_s(
        folder, RECORD, max_file_bytes=MOST, on_step=lambda *step: steps.append(step)
    )
    assert found.bytes_per_s is not None
    assert 0 < found.low <= found.bytes_per_s <= found.high
    assert found.bytes_per_s == 1e9 * max(trial.gb_s for trial in found.trials)
    modes = [trial.settings.io for trial in found.trials]
    assert modes in (["buffered", "direct"], ["buffered"])
    total = 1 + ROUNDS * len(modes)
    assert steps == [(done, total) for done in range(1, total + 1)]
    assert "262.1 kB, 8 at once" in found.note
    assert not list(folder.iterdir())


def test_records_that_direct_reads_cannot_take(folder: Path) -> None:
    found = disk_read_bytes_per_s(folder, 5000, max_file_bytes=200_000)
    assert [trial.settings.io for trial in found.trials] == ["buffered"]
    assert found.bytes_per_s


@pytest.mark.parametrize(("free", "n_records"), [(30, 30), (40, 40), (10**6, 40)])
def test_the_file_leaves_room_and_cannot_be_compressed(
    folder: Path, free: int, n_records: int
) -> None:
    seen: list[bytes] = []

    def step(done: int, total: int) -> None:
        (file,) = folder.iterdir()
        assert file.name.startswith(".flash-moe-speed-")
        seen.append(file.read_bytes())
        # So it is in the page cache again, and the next trial must be cold all the same.

    disk_read_bytes_per_s(
        folder,
        RECORD,
        max_file_bytes=MOST,
        free_bytes=lambda at: LEAVE_FREE_BYTES + free * RECORD + 17,
        on_step=step,
    )
    assert len(seen) > 1
    assert {len(content) for content in seen} == {n_records * RECORD}
    assert len(zlib.compress(seen[0], 1)) > 0.99 * len(seen[0])


def test_a_slow_disk_gets_a_smaller_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_S", 0.0)
    sizes = []
    disk_read_bytes_per_s(
        folder,
        16_000_000,
        at_once=1,
        max_file_bytes=320_000_000,
        on_step=lambda *_: sizes.append(next(folder.iterdir()).stat().st_size),
    )
    assert set(sizes) == {4 * 16_000_000}  # one write, enough for two batches


def unmeasured(found: Speed, reason: str) -> bool:
    return found.bytes_per_s is None and not found.trials and reason in found.note


def test_no_room(tmp_path: Path) -> None:
    found = disk_read_bytes_per_s(
        tmp_path,
        RECORD,
        free_bytes=lambda at: LEAVE_FREE_BYTES + 16 * RECORD - 1,
        on_step=lambda *_: pytest.fail("nothing may be written"),
    )
    assert unmeasured(found, "has less than 1.0 GB free")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    found = disk_read_bytes_per_s(tmp_path / "none", RECORD)
    assert unmeasured(found, "No such file")
    again = disk_read_bytes_per_s(tmp_path / "none", RECORD, free_bytes=lambda at: 10**12)
    assert unmeasured(again, "No such file")


@pytest.mark.skipif(sys.platform != "linux", reason="a filesystem in memory is /dev/shm on Linux")
def test_a_disk_that_is_none() -> None:
    before = set(os.listdir("/dev/shm"))
    found = disk_read_bytes_per_s(Path("/dev/shm"), 4096, max_file_bytes=64 * 4096)
    assert unmeasured(found, "page cache") or unmeasured(found, "free")
    assert set(os.listdir("/dev/shm")) <= before


LIMITED = """
import resource, sys
from pathlib import Path
from flash_moe.plan.machine_speed import disk_read_bytes_per_s
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
print(disk_read_bytes_per_s(Path(sys.argv[1]), 262144, max_file_bytes=10_000_000).note)
"""


def test_a_write_that_fails_half_way(tmp_path: Path) -> None:
    """The system refuses all but the first megabyte, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{tmp_path}: File too large"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_interrupt_between_steps(folder: Path, at: int) -> None:
    def step(done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk_read_bytes_per_s(folder, RECORD, max_file_bytes=MOST, on_step=step)
    assert not list(folder.iterdir())


ENDLESS = """
import signal, sys
from pathlib import Path
from flash_moe.plan import machine_speed
signal.signal(signal.SIGINT, signal.default_int_handler)
machine_speed.ROUNDS = 1_000_000
machine_speed.disk_read_bytes_per_s(
    Path(sys.argv[1]), 1 << 20, max_file_bytes=int(sys.argv[2]),
    on_step=lambda done, total: print(done, flush=True),
)
"""


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.05, 0.09])
def test_ctrl_c_while_reading(folder: Path, pause: float) -> None:
    command = [sys.executable, "-c", ENDLESS, str(folder), str(100 << 20)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert process.stdout.readline() == b"2\n"
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, errors.decode()
    assert not list(folder.iterdir())


def test_ctrl_c_while_writing(folder: Path) -> None:
    command = [sys.executable, "-c", ENDLESS, str(folder), str(1500 << 20)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list(folder.iterdir()):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, errors.decode()
    assert printed == b""  # the file was not finished
    assert not list(folder.iterdir())


def test_the_device() -> None:
    for bits in (2, 4, 8):
        passed = weight_bytes_per_s(4_000_000, bits)
        assert passed.bytes_per_s is not None, passed.note
        assert 0 < passed.low <= passed.bytes_per_s <= passed.high
        assert f"a {bits}-bit matrix" in passed.note


def test_what_the_device_refuses_is_a_reason() -> None:
    found = weight_bytes_per_s(4_000_000, bits=7)
    assert found.bytes_per_s is None
    assert "a 7-bit matrix" in found.note
    assert "bits" in found.note.split(":", 1)[1]
