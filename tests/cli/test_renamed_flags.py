"""Renamed flags: the old name is absent from the help, acts as the new one and prints one line."""

from __future__ import annotations

import pytest

from flash_moe.cli import build_parser
from flash_moe.cli.options import current_names
from tests.support.processes import in_process


@pytest.mark.parametrize(
    ("command", "old", "new", "values"),
    [
        (["serve", "demo"], "--grace", "--shutdown-timeout", ["2.5"]),
        (["chat", "demo"], "--yes-to", "--allow-tool", ["shell"]),
        (["chat", "demo"], "--private", "--no-save", []),
        (["chat", "demo"], "--session-disk-gb", "--prompt-cache-disk-gb", ["3"]),
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
    expected = [*command, new, *values]
    assert current_names(expected) == expected
    assert capsys.readouterr().err == ""
    assert current_names([*command, old, *values]) == expected
    assert current_names([*command, f"{old}=x"]) == [*command, f"{new}=x"]
    assert capsys.readouterr().err == f"flash-moe: {old} is now {new}\n" * 2
    assert build_parser().parse_args(expected) != build_parser().parse_args(command)
    text = in_process(command[0], "--help").stdout
    assert new in text
    assert f"{old} " not in text


def test_only_flags_of_the_command() -> None:
    for arguments in ([], ["--version"], ["pull", "--share", "2"], ["chat", "--", "--private"]):
        assert current_names(arguments) == arguments


def test_the_command_accepts_it() -> None:
    out = in_process("demo", "--share", "2")
    assert out.returncode == 1
    first, second = out.stderr.splitlines()
    assert first == "flash-moe: --share is now --cache-fraction"
    assert "--cache-fraction: expected above 0" in second


@pytest.mark.parametrize("flag", [["--io", "cached"], ["--io=cached"]])
def test_old_value(flag: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    line = "flash-moe: io: cached is now buffered"
    out = in_process("generate", "none", "-p", "a", *flag)
    assert out.stderr.splitlines()[0] == line
    assert out.stderr.count(line) == 1
    assert "cached" not in in_process("generate", "--help").stdout.split("--io ")[1].split("--")[0]
    monkeypatch.setenv("FLASH_MOE_IO", "cached")
    assert in_process("generate", "none", "-p", "a").stderr.count(line) == 1
