"""Turns: in the order of arrival, so many at once, so many that wait."""

from __future__ import annotations

import threading

import pytest

from flash_moe.server.engine.admission import Admission
from flash_moe.server.requests.errors import ApiError
from tests.support.timeout import TIMEOUT_S, wait_until


def test_turns_come_in_the_order_of_arrival() -> None:
    admission, order = Admission(1, 3), []
    go, threads = threading.Event(), []

    def run(n: int) -> None:
        with admission.admit(lambda: None):
            order.append(n)
            go.wait(TIMEOUT_S)

    for n in range(4):
        thread = threading.Thread(target=run, args=(n,))
        thread.start()
        threads.append(thread)
        wait_until(lambda n=n: admission.running + admission.waiting > n)
    with pytest.raises(ApiError) as caught, admission.admit(lambda: None):
        pass
    assert (caught.value.status, caught.value.retry_after is not None) == (429, True)
    go.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert order == [0, 1, 2, 3]
    assert admission.wait_until_idle(0)


def test_one_that_leaves_the_queue_holds_up_nobody() -> None:
    admission, gone = Admission(1, 3), threading.Event()

    def leave() -> None:
        if gone.is_set():
            raise KeyError("gone")

    def wait() -> None:
        with pytest.raises(KeyError), admission.admit(leave):
            pass

    waiting = threading.Thread(target=wait)
    with admission.admit(lambda: None):
        waiting.start()
        wait_until(lambda: admission.waiting)
        gone.set()
        waiting.join(TIMEOUT_S)
        assert admission.waiting == 0
    with admission.admit(lambda: None):
        assert admission.running == 1
    admission.close()
    with pytest.raises(ApiError, match="stopping"), admission.admit(lambda: None):
        pass
