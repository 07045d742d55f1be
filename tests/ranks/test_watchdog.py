"""The watchdog's decisions, with a clock and a parent of the test's own."""

from __future__ import annotations

import time

from flash_moe.ranks.watchdog import Watchdog


def watched(timeout_s: float = 10.0) -> tuple[Watchdog, list[str]]:
    said: list[str] = []
    return Watchdog(timeout_s, "rank 1", said.append), said


def test_a_wait_that_is_too_long() -> None:
    dog, said = watched()
    dog.wait_for("layer 3")
    dog.check(time.monotonic() + 9, 1)
    assert said == []
    dog.check(time.monotonic() + 11, 1)
    assert said[0].startswith("rank 1: no answer from the other ranks for 10 s (layer 3)")


def test_progress_begins_the_wait_again_and_the_end_ends_it() -> None:
    dog, said = watched()
    dog.wait_for("loading", times=10)
    dog.check(time.monotonic() + 99, 1)
    dog.wait_for("layer 1")
    dog.done()
    dog.check(time.monotonic() + 1000, 1)
    assert said == []


def test_a_launcher_that_has_ended() -> None:
    dog, said = watched()
    dog.check(time.monotonic(), 1)
    assert said == []
    dog.watch_parent()
    dog.check(time.monotonic(), -1)
    assert said == ["rank 1: the launcher has ended; stopping"]
