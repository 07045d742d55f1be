"""Progress where there is no terminal: lines that only go forward."""

from __future__ import annotations

import re
import threading
import time

import pytest
from rich.console import Console

from flash_moe.cli.progress import Bars


def test_lines_of_several_threads_stand_in_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Console.print
    seen: list[float] = []

    def slow(self: Console, *text: object, **options: bool) -> None:
        seen.append(time.monotonic())
        time.sleep(0.005 if len(seen) % 2 else 0)
        whole(self, *text, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Console, "print", slow)
    bars = Bars()
    bars.start("pack", 4000)
    with bars:

        def work() -> None:
            for _ in range(1000):
                bars.add("pack", 1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shares = [int(share) for share in re.findall(r"^ *(\d+)%", capsys.readouterr().err, re.M)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
