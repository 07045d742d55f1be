"""Renamed flags: the old name is hidden, acts as the new one and prints one line."""

from __future__ import annotations

import pytest

from flash_moe.cli import build_parser
from tests.support.processes import in_process


@pytest.mark.parametrize(
    ("command", "old", "new", "values"),
    [
        (["serve", "demo"], "--grace", "--shutdown-timeout", ["2.5"]),
        (["chat", "demo"], "--yes-to", "--allow-tool", ["shell"]),
        (["chat", "demo"], "--private", "--no-save", []),
        (["demo"], "--share", "--cache-fraction", ["0.25"]),
        (["pull", "org/model"], "--jobs", "--max-shards", ["3"]),
    ],
)
def test_old_name(
    command: list[str],
    old: str,
    new: str,
    values: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = build_parser()
    expected = vars(parser.parse_args([*command, new, *values]))
    assert expected != vars(parser.parse_args(command))
    assert capsys.readouterr().err == ""
    assert vars(parser.parse_args([*command, old, *values])) == expected
    assert capsys.readouterr().err == f"flash-moe: {old} is now {new}\n"
    text = in_process(command[0], "--help").stdout
    assert new in text
    assert f"{old} " not in text
