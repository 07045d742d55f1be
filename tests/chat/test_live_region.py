"""The region below what is printed: lines are neither lost nor twice, whoever draws when."""

from __future__ import annotations

import io
import re
import threading

import pyte
import pytest

from flash_moe.chat import live_region
from flash_moe.chat.terminal_view import Screen, safe_console

N_LINES = 400


def on_a_terminal(text: str, columns: int, rows: int) -> list[str]:
    """The lines that a user sees, those above the screen too."""
    screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    above = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    return [line.rstrip() for line in (*above, *screen.display) if line.strip()]


@pytest.mark.parametrize("writers", [1, 2])
def test_drawing_at_any_moment_tears_nothing(monkeypatch: pytest.MonkeyPatch, writers: int) -> None:
    monkeypatch.setattr(live_region, "REFRESH", 10_000)
    out = io.StringIO()
    screen = Screen(safe_console(file=out, force_terminal=True, width=40, height=8))
    screen.begin("reading")

    def others() -> None:
        for n in range(N_LINES):
            screen.console.print(f"other{n}")

    threads = [threading.Thread(target=others) for _ in range(1, writers)]
    for thread in threads:
        thread.start()
    for n in range(N_LINES):  # the region becomes higher and lower all the time
        screen.text(f"line{n}" + ("\n\n" if n % 3 else "  \n"))
        screen.status("writing" if n % 2 else "")
    for thread in threads:
        thread.join()
    screen.end()
    lines = on_a_terminal(out.getvalue(), 40, 8)
    assert [line for line in lines if line.startswith("line")] == [f"line{n}" for n in range(400)]
    rest = [line for line in lines if not line.startswith("line")]
    assert rest == [f"other{n}" for n in range(N_LINES)] * (writers - 1)


def test_signs_of_which_the_terminal_thinks_that_they_are_wider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_region, "REFRESH", 1000)
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"  # 2 cells for rich, 6 for pyte and others
    words = f"words up to the en{family}"
    out = io.StringIO()
    screen = Screen(safe_console(file=out, force_terminal=True, width=20, height=8))
    screen.line("above")
    screen.begin("reading")
    screen.text(words)
    waiting = threading.Event()
    assert any(out.getvalue().count(words) > 50 or waiting.wait(0.01) for _ in range(6000))
    screen.end()
    printed = on_a_terminal(f"above\n{words}\n", 20, 8)
    assert on_a_terminal(out.getvalue(), 20, 8) == printed


def test_lines_are_not_filled_with_spaces() -> None:
    """They would wrap in a window that becomes narrower."""
    out = io.StringIO()
    screen = Screen(safe_console(file=out, force_terminal=True, width=40, height=20))
    screen.begin("reading")
    screen.text("# Title\n\nSome **text**.\n\n- one\n- two\n\n```\ncode\n\nmore\n```\n\n> last")
    screen.end()
    assert "code" in out.getvalue()
    assert not re.search(r" {5,}(?:\x1b\[[\d;]*m)*\n", out.getvalue()), out.getvalue()
