"""Reader threads that are gone: what they were woken for, or were reading, others read."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from flash_moe.stream import readers
from flash_moe.stream.readers import Read, ReaderPool
from tests.support.fake_reader import FakeReader, Make, expected
from tests.support.processes import environment


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LOOK_AFTER_S", 0.02)


def read_all(pool: ReaderPool, n: int = 9) -> bytes:
    memory = bytearray(b"\xee" * n * 4)
    view = memoryview(memory)
    batch = pool.batch([Read(0, e, view[e * 4 : e * 4 + 4]) for e in range(n)])
    pool.submit(batch)
    batch.wait()
    return bytes(memory)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_hit", [1, 3])
def test_an_exception_from_outside_strikes_a_thread_that_waits(
    make: Make, n_threads: int, n_hit: int
) -> None:
    """It is raised when the thread is woken, and the wake is lost with it."""
    pool = make(FakeReader(), n_threads)
    assert read_all(pool) == expected(9)
    for thread in pool._threads[:n_hit]:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
    assert read_all(pool, 1) == expected(1)
    assert read_all(pool) == expected(9)


@pytest.mark.parametrize("n_dead", [1, 3])
def test_a_thread_that_has_ended_is_replaced(make: Make, n_dead: int) -> None:
    pool = make(FakeReader(), 3)
    before = list(pool._threads)
    for _ in range(n_dead):
        pool._queue.put(None)  # ends a thread
    while sum(thread.is_alive() for thread in before) > 3 - n_dead:
        before[0].join(0.01)
    for _ in range(3):
        assert read_all(pool) == expected(9)
    if n_dead == 3:
        assert all(thread.is_alive() for thread in pool._threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_a_thread_was_reading_at_a_fork_is_read_in_the_child() -> None:
    code = """
import os, threading, warnings; warnings.simplefilter('ignore')
from flash_moe.stream import readers
from tests.support.fake_reader import FakeReader
readers.LOOK_AFTER_S = 0.02
parent, begun, gate = os.getpid(), threading.Event(), threading.Event()
def action(expert):
    if os.getpid() == parent:
        begun.set()
        gate.wait(60)
pool = readers.ReaderPool(FakeReader(action), 1)
memory = bytearray(8)
view = memoryview(memory)
batch = pool.batch([readers.Read(0, e + 1, view[4 * e : 4 * e + 4]) for e in range(2)])
pool.submit(batch)
begun.wait(60)
if (child := os.fork()) == 0:
    batch.wait()
    os._exit(0 if memory == bytes([1] * 4 + [2] * 4) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gate.set()
batch.wait()
pool.close()
raise SystemExit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_draining_does_not_begin_again_what_a_dead_thread_was_reading(make: Make) -> None:
    """Its slot may be given to others as soon as ``drain`` returns."""
    reader = FakeReader()
    pool = make(reader, 1)
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    batch = pool.batch([Read(0, 5, memoryview(bytearray(4)))])
    batch._running[dead] = batch._todo.popleft()
    batch.drain()
    assert batch.lost
    assert batch.done
    assert read_all(pool) == expected(9)  # behind whatever was queued
    assert 5 not in reader.begun[:-9]
