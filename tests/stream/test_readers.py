"""The reader threads: order, concurrency, errors and the end, with a fake reader."""

from __future__ import annotations

import threading
import time

import pytest

from flash_moe.errors import ClosedError, ReadError
from tests.support.fake_reader import PATIENCE, FakeReader, Make, batch_of, expected, failure, works


def test_one_thread_reads_in_order(make: Make) -> None:
    reader = FakeReader()
    assert works(make(reader, 1))
    assert reader.begun == list(range(9))


@pytest.mark.parametrize("n_threads", [2, 5])
def test_all_threads_read_at_the_same_time_and_no_more(make: Make, n_threads: int) -> None:
    barrier = threading.Barrier(n_threads, timeout=PATIENCE)
    most = [0]

    def meet(expert: int) -> None:
        most[0] = max(most[0], len(reader.begun) - len(reader.ended))
        barrier.wait()  # passes only when all threads are here

    reader = FakeReader(meet)
    assert works(make(reader, n_threads), 4 * n_threads)
    assert most[0] == len(reader.threads) == n_threads


def test_an_empty_batch_is_done(make: Make) -> None:
    assert works(make(FakeReader(), 2), 0)


def test_many_batches(make: Make) -> None:
    pool = make(FakeReader(), 4)
    assert all(works(pool, n % 12) for n in range(300))


def test_an_error_waits_for_the_other_reads(make: Make) -> None:
    other_runs, failed = threading.Event(), threading.Event()

    def action(expert: int) -> None:
        if expert == 0:
            other_runs.wait(PATIENCE)
            failed.set()
            raise failure(0)
        other_runs.set()
        failed.wait(PATIENCE)
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
    assert works(pool)


def test_the_first_error_is_told(make: Make) -> None:
    both, first = threading.Barrier(2, timeout=PATIENCE), threading.Event()

    def action(expert: int) -> None:
        both.wait()
        if expert == 0:
            first.wait(PATIENCE)
            time.sleep(0.05)
        else:
            first.set()
        raise failure(expert)

    pool = make(FakeReader(action), 2)
    batch, _ = batch_of(2)
    pool.submit(batch)
    with pytest.raises(ReadError) as caught:
        batch.wait()
    assert caught.value.expert == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_wait_that_comes_late_still_waits_for_what_runs(make: Make, fails: bool) -> None:
    begun, release = threading.Barrier(3, timeout=PATIENCE), threading.Event()

    def action(expert: int) -> None:
        begun.wait()
        if expert == 0 and fails:
            raise failure(0)
        release.wait(PATIENCE)

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
def test_no_exception_ends_a_thread(make: Make, error: BaseException) -> None:
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
    assert works(pool)


def test_close_ends_the_threads_and_the_reader(make: Make) -> None:
    before = set(threading.enumerate())
    reader = FakeReader()
    pool = make(reader, 3)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    assert all(thread.daemon for thread in mine)
    batch, memory = batch_of(5)
    pool.submit(batch)
    pool.close()
    assert memory == expected(5)  # what was queued is still read
    assert not any(thread.is_alive() for thread in mine)
    pool.close()
    assert reader.closed == 1


def test_submit_after_close(make: Make) -> None:
    pool = make(FakeReader(), 1)
    pool.close()
    batch, _ = batch_of(1)
    with pytest.raises(ClosedError, match="was closed"):
        pool.submit(batch)
