"""Text that comes in pieces or means harm: cutting Markdown, and what a terminal is shown."""

from __future__ import annotations

import io
import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from flash_moe.chat.markdown_stream import Document, MarkdownStream, Unit
from flash_moe.chat.sanitize import as_value, one_line, replaced, sanitized
from flash_moe.chat.stats import TurnStats, fitting, footer
from flash_moe.chat.terminal_view import Safe, Screen, document, plain_lines, rendered, safe_console
from flash_moe.chat.view import call_text, result_text
from flash_moe.stream.stats import LayerStats, StreamStats
from flash_moe.tools import ToolCall

BITS = (
    *("# h\n", "## h2\n", "- a\n", "- b\n", "  - n\n", "1. x\n", "2. y\n", "> q\n", "> > - z\n"),
    *("```py\n", "x = 1\n", "```\n", "|a|b|\n", "|-|-|\n", "|1|2|\n", "\n", "\n\n", "---\n"),
    *("text *em* **b** `c` ", "[l](http://x) ", "![i](u) ", "<div>", "<b>x</b> ", "&#27;", "\\"),
    *("~~~\n", "    code\n", "*", "_", "`", "~~s~~ ", "[![a](b)](c) ", "\t", "===\n", "[x]: y\n"),
)


def units_of(text: str, rng: random.Random) -> list[Unit]:
    blocks, units = MarkdownStream(), []
    while text:
        n = rng.randint(1, 9)
        units += blocks.feed(text[:n])
        text = text[n:]
    rest = blocks.finish()
    return [*units, rest] if rest else units


def words(units: list[Unit], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    return [
        w
        for u in units
        for line in plain_lines(rendered(console, document(u)))
        for w in line.split()
    ]


@settings(deadline=None)
@given(bits=st.lists(st.sampled_from(BITS), max_size=25), seed=st.integers(0, 10**6))
def test_markdown_in_pieces_is_the_markdown_whole(bits: list[str], seed: int) -> None:
    text = "".join(bits)
    console = Console(width=80, file=io.StringIO())
    whole = [w for line in plain_lines(rendered(console, Document(text))) for w in line.split()]
    assert words(units_of(text, random.Random(seed)), 80) == whole


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=200), width=st.integers(1, 30))
def test_any_text_in_any_width_can_be_shown(text: str, width: int) -> None:
    words(units_of(sanitized(text), random.Random(0)), width)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1. a\n1. b\n1. c\n", ["1 a", "2 b", "3 c"]),
        ("7. a\n8. b\n\n9. c\n", ["7 a", "8 b", "9 c"]),
        ("a\n\nb\n", ["a", "", "b"]),
        ("- a\n- b\n\nc\n", ["• a", "• b", "", "c"]),
        ("<div>kept</div>\n", ["<div>kept</div>"]),
    ],
)
def test_units_stand_below_one_another_as_in_the_whole(text: str, shown: list[str]) -> None:
    console = Console(width=40, file=io.StringIO())
    for seed in range(20):
        units = units_of(text, random.Random(seed))
        lines = [
            line.strip() for u in units for line in plain_lines(rendered(console, document(u)))
        ]
        assert lines == shown


@given(st.text(alphabet=st.characters()))
def test_no_control_character_is_left(text: str) -> None:
    for made in (sanitized(text), replaced(text)):
        left = {c for c in made if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}
        assert not left
        assert not re.search("[\u200e\u200f\u2028-\u202e\u2060-\u206f]", made)
        made.encode()
    assert len(replaced(text)) == len(text)


@given(st.text(alphabet=st.characters()))
def test_a_line_is_a_line_and_a_value_is_read_back(text: str) -> None:
    assert "\n" not in one_line(text)
    assert "\n" not in as_value(text)
    assert len(one_line(text, 10)) <= 10


def test_the_last_door_lets_nothing_through() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=80)
    console.print(Safe(Text("a\x1b[31mb\x9b2J\u202ec", style="link http://evil")))
    assert out.getvalue() == "a\ufffd[31mb\ufffd2J\ufffdc\n"


def test_a_call_to_be_judged_is_shown_whole() -> None:
    call = ToolCall("run_command", {"command": "a\n" * 300 + "\x1b[2K; rm\tb"}, "1")
    shown = call_text(call, whole=True).split("\n")
    assert shown[0] == "→ run_command"
    assert shown[1] == '    command: "' + "a\\n" * 300 + '\\u001b[2K; rm\\tb"'
    assert len(call_text(call, whole=False)) < 300
    assert "invalid call" in call_text(ToolCall("x", {}, "1", error="half"), whole=True)


def test_results_are_shown_in_part() -> None:
    assert result_text("a\nb\n") == "  a\n  b"
    assert result_text("\n".join("abcdefghij")).endswith("  f\n  … 4 more lines")
    assert len(result_text("x" * 5000)) < 400


def test_a_screen_without_a_terminal_shows_all() -> None:
    out = io.StringIO()
    screen = Screen(safe_console(file=out, width=30))
    screen.begin("reading")
    screen.thinking("a thought\nof two lines")
    screen.text("# Title\n\n- one\n- t")
    screen.text("wo\n\nend")
    screen.end()
    screen.error("one\nclear line")
    lines = [line.strip() for line in out.getvalue().split("\n") if line.strip()]
    assert lines[:2] == ["a thought", "of two lines"]
    assert [line for line in lines if line in ("• one", "• two", "end")] == [
        "• one",
        "• two",
        "end",
    ]
    assert lines[-1] == "one clear line"


def test_the_footer_has_what_fits() -> None:
    layer = LayerStats(0, hits=9, misses=1, bytes_read=12_000_000)
    figures = TurnStats(21, 100, 2.0, 80, 0.5, 300, StreamStats(0, 0, (layer,)))
    whole = "100 tokens · 40.0 tok/s · prompt 21 · first 0.50 s · read 12.0 MB · hits 90%"
    assert footer(figures, 200) == whole
    assert footer(figures, 30) == "100 tokens · 40.0 tok/s"
    assert footer(figures, 5) == ""
    assert fitting(["a", "b"], 0) == "a"
    assert footer(TurnStats(answer_tokens=1, stopped=True), 20) == "stopped · 1 tokens"
