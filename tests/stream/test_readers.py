"""The reader threads with a fake reader: order, errors, emptied batches, lost threads, the end."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

import pytest

from flash_moe.errors import ClosedError, ReadError
from flash_moe.stream import readers
from flash_moe.stream.readers import Read, ReadBatch
from tests.support.fake_reader import (
    FakeReader,
    MakePool,
    batch_of,
    expected_bytes,
    read_error,
    still_works,
)
from tests.support.processes import run_python
from tests.support.timeout import TIMEOUT_S


@pytest.fixture
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHECK_THREADS_S", 0.02)


def test_one_thread_reads_in_order(make: MakePool) -> None:
    reader = FakeReader()
    assert still_works(make(reader, 1))
    assert reader.begun == list(range(9))


@pytest.mark.parametrize("n_threads", [2, 5])
def test_all_threads_read_at_the_same_time_and_no_more(make: MakePool, n_threads: int) -> None:
    barrier = threading.Barrier(n_threads, timeout=TIMEOUT_S)
    most = [0]

    def meet(expert: int) -> None:
        most[0] = max(most[0], len(reader.begun) - len(reader.ended))
        barrier.wait()  # passes only when all threads are here

    reader = FakeReader(meet)
    assert still_works(make(reader, n_threads), 4 * n_threads)
    assert most[0] == len(reader.threads) == n_threads


def test_an_empty_batch_is_done(make: MakePool) -> None:
    assert still_works(make(FakeReader(), 2), 0)


def test_many_batches(make: MakePool) -> None:
    pool = make(FakeReader(), 4)
    assert all(still_works(pool, n % 12) for n in range(300))


def test_an_error_waits_for_the_other_reads(make: MakePool) -> None:
    other_runs, failed = threading.Event(), threading.Event()

    def action(expert: int) -> None:
        if expert == 0:
            other_runs.wait(TIMEOUT_S)
            failed.set()
            raise read_error(0)
        other_runs.set()
        failed.wait(TIMEOUT_S)
        time.sleep(0.05)  # long enough for a wait that does not wait to be caught

    reader = FakeReader(action)
    pool = make(reader, 2)
    batch, memory = batch_of(5)
    pool.submit(batch)
    with pytest.raises(ReadError) as caught:
        batch.wait()
    assert caught.value.expert == 0
    assert sorted(reader.ended) == [0, 1]  # the other one has ended, the rest never began
    assert memory[8:] == b"\xee" * 12
    reader.action = lambda expert: None
    assert still_works(pool)


def test_the_first_error_is_told(make: MakePool) -> None:
    both, first = threading.Barrier(2, timeout=TIMEOUT_S), threading.Event()

    def action(expert: int) -> None:
        both.wait()
        if expert == 0:
            first.wait(TIMEOUT_S)
            time.sleep(0.05)
        else:
            first.set()
        raise read_error(expert)

    pool = make(FakeReader(action), 2)
    batch, _ = batch_of(2)
    pool.submit(batch)
    with pytest.raises(ReadError) as caught:
        batch.wait()
    assert caught.value.expert == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_wait_that_comes_late_still_waits_for_what_runs(make: MakePool, fails: bool) -> None:
    begun, release = threading.Barrier(3, timeout=TIMEOUT_S), threading.Event()

    def action(expert: int) -> None:
        begun.wait()
        if expert == 0 and fails:
            raise read_error(0)
        release.wait(TIMEOUT_S)

    reader = FakeReader(action)
    batch, _ = batch_of(2)
    make(reader, 2).submit(batch)
    begun.wait()  # now nothing is left to begin
    threading.Timer(0.05, release.set).start()
    if fails:
        with pytest.raises(ReadError):
            batch.wait()
    else:
        batch.wait()
    assert sorted(reader.ended) == [0, 1]


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(), ValueError("odd")])
def test_no_exception_ends_a_thread(make: MakePool, error: BaseException) -> None:
    def action(expert: int) -> None:
        raise error

    reader = FakeReader(action)
    pool = make(reader, 1)
    for _ in range(3):
        batch, _ = batch_of(4)
        pool.submit(batch)
        with pytest.raises(type(error)):
            batch.wait()
    assert reader.begun == [0, 0, 0]
    reader.action = lambda expert: None
    assert still_works(pool)


def test_close_ends_the_threads_and_the_reader(make: MakePool) -> None:
    before = set(threading.enumerate())
    reader = FakeReader()
    pool = make(reader, 3)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    assert all(thread.daemon for thread in mine)
    batch, memory = batch_of(5)
    pool.submit(batch)
    pool.close()
    assert memory == expected_bytes(5)  # what was queued is still read
    assert not any(thread.is_alive() for thread in mine)
    pool.close()
    assert reader.closed == 1


def test_submit_after_close(make: MakePool) -> None:
    pool = make(FakeReader(), 1)
    pool.close()
    batch, _ = batch_of(1)
    with pytest.raises(ClosedError, match="was closed"):
        pool.submit(batch)


def test_drain_waits_for_running_reads_and_drops_the_rest(make: MakePool) -> None:
    running, release = threading.Event(), threading.Event()

    def action(expert: int) -> None:
        running.set()
        release.wait(TIMEOUT_S)
        time.sleep(0.05)

    reader = FakeReader(action)
    pool = make(reader, 1)
    batch, _ = batch_of(6)
    pool.submit(batch)
    assert running.wait(TIMEOUT_S)
    threading.Timer(0.05, release.set).start()
    batch.drain()
    assert reader.begun == reader.ended == [0]
    batch.drain()
    reader.action = lambda expert: None
    assert still_works(pool)
    assert reader.begun == [0, *range(9)]


def test_a_batch_that_was_not_submitted_can_be_drained() -> None:
    """Then it is empty, and nobody who waits for it takes it for complete."""
    batch, _ = batch_of(3)
    batch.drain()
    assert batch.dropped
    with pytest.raises(ValueError, match="dropped"):
        batch.wait()
    assert batch.n_bytes == 0


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_while_waiting(make: MakePool, interrupts: int) -> None:
    both, release = threading.Barrier(3, timeout=TIMEOUT_S), threading.Event()
    main = threading.get_ident()
    waiting = threading.Event()
    problems: list[str] = []

    def pause() -> None:
        waiting.set()
        ReadBatch._pause(batch)

    def action(expert: int) -> None:
        both.wait()
        release.wait(TIMEOUT_S)
        time.sleep(0.05)

    def press() -> None:
        both.wait()
        deadline = time.monotonic() + TIMEOUT_S
        waiting.wait(TIMEOUT_S)
        # A signal just before the blocking call would only be seen when that call returns.
        time.sleep(0.1)
        for _ in range(interrupts):
            signal.pthread_kill(main, signal.SIGINT)
            while batch._todo and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.05)
        if batch._todo:
            problems.append("reads that had not begun were not dropped")
        if reader.ended:
            problems.append("a read ended before its time")
        release.set()

    reader = FakeReader(action)
    pool = make(reader, 2)
    batch, _ = batch_of(6)
    batch._pause = pause  # type: ignore[method-assign]
    presser = threading.Thread(target=press)
    presser.start()
    try:
        pool.submit(batch)
        with pytest.raises(KeyboardInterrupt):
            batch.wait()
        assert sorted(reader.ended) == sorted(reader.begun) == [0, 1]
    finally:
        release.set()
        presser.join(TIMEOUT_S)
    assert problems == []
    reader.action = lambda expert: None
    assert still_works(pool)


@pytest.mark.usefixtures("look_often")
def test_draining_does_not_begin_again_what_a_dead_thread_was_reading(make: MakePool) -> None:
    """Its slot may be given to others as soon as ``drain`` returns."""
    reader = FakeReader()
    pool = make(reader, 1)
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    batch = pool.batch([Read(0, 5, memoryview(bytearray(4)))])
    batch._running[dead] = batch._todo.popleft()
    batch.drain()
    assert batch.dropped
    assert batch.done
    assert still_works(pool)  # behind whatever was queued
    assert 5 not in reader.begun[:-9]


@pytest.mark.usefixtures("look_often")
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_hit", [1, 3])
def test_an_exception_from_outside_strikes_a_thread_that_waits(
    make: MakePool, n_threads: int, n_hit: int
) -> None:
    """It is raised when the thread is woken, and the wake is lost with it."""
    pool = make(FakeReader(), n_threads)
    assert still_works(pool)
    for thread in pool._threads[:n_hit]:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
    assert still_works(pool, 1)
    assert still_works(pool)


@pytest.mark.usefixtures("look_often")
@pytest.mark.parametrize("n_dead", [1, 3])
def test_a_thread_that_has_ended_is_replaced(make: MakePool, n_dead: int) -> None:
    pool = make(FakeReader(), 3)
    before = list(pool._threads)
    for _ in range(n_dead):
        pool._queue.put(None)  # ends a thread
    while sum(thread.is_alive() for thread in before) > 3 - n_dead:
        before[0].join(0.01)
    for _ in range(3):
        assert still_works(pool)
    if n_dead == 3:
        assert all(thread.is_alive() for thread in pool._threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_reads_with_new_threads() -> None:
    """A fork has none of the threads, neither those that wait nor one that was reading."""
    code = """
import os, threading, warnings; warnings.simplefilter('ignore')
from flash_moe.stream import readers
from flash_moe.stream.reader_pool import ReaderPool
from tests.support.fake_reader import FakeReader, batch_of, expected_bytes, still_works
readers.CHECK_THREADS_S = 0.02
parent, begun, gate = os.getpid(), threading.Event(), threading.Event()
def action(expert):
    if os.getpid() == parent and expert == 1:
        begun.set()
        gate.wait(60)
idle = ReaderPool(FakeReader(), 3)
assert still_works(idle)
busy = ReaderPool(FakeReader(action), 1)
memory = bytearray(8)
view = memoryview(memory)
batch = busy.batch([readers.Read(0, e + 1, view[4 * e : 4 * e + 4]) for e in range(2)])
busy.submit(batch)
begun.wait(60)
if (child := os.fork()) == 0:
    batch.wait()
    other, read = batch_of(9)  # nobody looks after it
    idle.submit(other)
    other.wait()
    os._exit(0 if memory == bytes([1] * 4 + [2] * 4) and read == expected_bytes(9) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gate.set()
batch.wait()
busy.close()
raise SystemExit(code)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
