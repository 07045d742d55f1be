"""Emptying a batch: reads that run are waited for, the rest is dropped, also on Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.support.fake_reader import PATIENCE, FakeReader, Make, batch_of, works


def test_drain_waits_for_running_reads_and_drops_the_rest(make: Make) -> None:
    running, release = threading.Event(), threading.Event()

    def action(expert: int) -> None:
        running.set()
        release.wait(PATIENCE)
        time.sleep(0.05)

    reader = FakeReader(action)
    pool = make(reader, 1)
    batch, _ = batch_of(6)
    pool.submit(batch)
    assert running.wait(PATIENCE)
    threading.Timer(0.05, release.set).start()
    batch.drain()
    assert reader.begun == reader.ended == [0]
    batch.drain()
    reader.action = lambda expert: None
    assert works(pool)
    assert reader.begun == [0, *range(9)]


def test_a_batch_that_was_not_submitted_can_be_drained() -> None:
    """Then it is empty, and nobody who waits for it takes it for complete."""
    batch, _ = batch_of(3)
    batch.drain()
    assert batch.lost
    with pytest.raises(ValueError, match="dropped"):
        batch.wait()
    assert batch.n_bytes == 0


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_while_waiting(make: Make, interrupts: int) -> None:
    both, release = threading.Barrier(3, timeout=PATIENCE), threading.Event()
    main = threading.get_ident()
    problems: list[str] = []

    def action(expert: int) -> None:
        both.wait()
        release.wait(PATIENCE)
        time.sleep(0.05)

    def press() -> None:
        both.wait()
        deadline = time.monotonic() + PATIENCE
        while not batch._changed._waiters and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.001)  # until the main thread is in wait()
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
    presser = threading.Thread(target=press)
    presser.start()
    try:
        pool.submit(batch)
        with pytest.raises(KeyboardInterrupt):
            batch.wait()
        assert sorted(reader.ended) == sorted(reader.begun) == [0, 1]
    finally:
        release.set()
        presser.join(PATIENCE)
    assert problems == []
    reader.action = lambda expert: None
    assert works(pool)
