"""``flash-moe eval``: tables, JSON, pictures, one-line errors."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import COMMAND, environment, in_process

SAID = [{"role": "user", "content": "hi"}]
PROMPTS = [
    {"kind": "tool", "messages": SAID, "expected": {"name": "f", "arguments": {}}},
    {"kind": "json", "messages": SAID, "expected": {"a": 1}},
    {"kind": "answer", "messages": SAID, "expected": []},
]
SMALL = ("--cache-gb", "0.002", "--prompts", "none")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.json"
    file.write_text(json.dumps(PROMPTS))
    return file


def figures(*arguments: Any) -> dict[str, Any]:
    out = in_process("eval", *arguments, "--json")
    assert out.returncode == 0, out.stderr
    return dict(json.loads(out.stdout))


def error_of(*arguments: Any) -> str:
    out = in_process("eval", *arguments)
    assert out.returncode == 1, out.stderr
    assert out.stdout == ""
    lines = out.stderr.strip().splitlines()
    assert len(lines) == 1, out.stderr
    return lines[0]


def test_a_sweep(tiny_store: Path, tiny_mlx: Path, prompts: Path) -> None:
    how = ("--tokens", 60, "--cache-gb", 0.002, "--prompts", prompts, "-n", 3)
    how = (tiny_store, "--top-k-experts", "4,2,1", "--reference", tiny_mlx, *how)
    found = figures(*how)
    assert found["complete"]
    assert found["text"] == {"windows": [59], "tokens": 59}
    assert found["prompts"] == {"tool": 1, "json": 1, "answer": 1}
    reference, *runs = found["runs"]
    assert (reference["reference"], reference["resident"], reference["top_k"]) == (True, True, 4)
    assert reference["mean_kl"] is None
    assert [run["top_k"] for run in runs] == [4, 2, 1]
    assert [run["expert_bytes_per_token"] for run in runs] == [4 * 131072, 2 * 131072, 131072]
    assert (runs[0]["mean_kl"], runs[0]["agreement"]) == (0, 1)
    assert runs[0]["perplexity"] == reference["perplexity"]
    assert 0 < runs[1]["mean_kl"] < runs[2]["mean_kl"]
    assert 1 > runs[1]["agreement"] > runs[2]["agreement"]
    for run in found["runs"]:
        assert run["expert_bits_per_weight"] == 5.0
        assert run["prompts"]["shares"]["answer"] == 1
        assert run["prompts"]["shares"]["tool"] == 0

    out = in_process("eval", *how)
    assert out.returncode == 0, out.stderr
    for text in ("perplexity", "tiny-mlx, resident (reference)", "524.3 kB", "100.0 %", "0.0000"):
        assert text in out.stdout
    assert f"{runs[2]['perplexity']:.4g}" in out.stdout
    assert out.stdout.count("tiny-store") == 6  # three runs in two tables
    assert "1 tool, 1 json, 1 answer" in out.stdout
    lines = out.stderr.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{i} of 4" for i in (1, 2, 3, 4)]
    assert "tiny-store, K=2" in lines[2]


def test_one_store_is_its_own_reference(tiny_store: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The rain in Spain stays mainly in the plain. Grüße!", encoding="utf-8")
    found = figures(tiny_store, "--text", text, *SMALL)
    assert len(found["runs"]) == 1
    assert found["runs"][0]["reference"]
    assert found["prompts"] is None
    assert found["runs"][0]["prompts"] is None
    out = in_process("eval", tiny_store, "--text", text, *SMALL).stdout
    assert "JSON" not in out
    assert "(reference)" in out


def test_a_bank_changes_no_quality(tiny_store: Path) -> None:
    how = (tiny_store, "--top-k-experts", 3, "--tokens", 100, "--prompts", "none")
    one, other = (figures(*how, "--cache-gb", gb) for gb in (0.0002, 0.01))
    assert one == other


def test_environment_does_not_change_what_full_means(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_MOE_TOP_K", "2")
    out = in_process("eval", tiny_store, *SMALL, "--tokens", 40, "--json")
    assert json.loads(out.stdout)["runs"][0]["top_k"] == 4


def test_a_picture(tiny_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "quality.png"
    out = in_process(
        "eval", tiny_store, "--top-k-experts", "4,2", "--tokens", 60, *SMALL, "--plot", file
    )
    assert out.returncode == 0, out.stderr
    assert file.read_bytes().startswith(b"\x89PNG")


def test_errors_come_before_the_work(tiny_store: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    assert "none.txt: No such file" in error_of(tiny_store, "--text", tmp_path / "none.txt", *SMALL)
    text.write_bytes(b"caf\xe9")
    assert "not UTF-8" in error_of(tiny_store, "--text", text, *SMALL)
    text.write_text("a")
    assert "too short" in error_of(tiny_store, "--text", text, *SMALL)
    assert "tokens: expected at least 1, got 0" in error_of(tiny_store, "--tokens", 0, *SMALL)
    top_k = error_of(tiny_store, "--top-k-experts", "4,99", *SMALL)
    assert "top_k: expected 1 to 32 (experts per layer), got 99" in top_k
    assert "no such directory" in error_of(tmp_path / "nowhere", *SMALL).replace(
        "neither pulled nor", "no such directory"
    )
    assert "prompts.json: No such file" in error_of(
        tiny_store, "--prompts", tmp_path / "prompts.json"
    )
    assert "cache_gb: expected a positive number" in error_of(
        tiny_store, "--prompts", "none", "--cache-gb", -1
    )
    assert "expected one streamed run, got 2" in error_of(
        tiny_store, "--top-k-experts", "4,2", "--trace", tmp_path / "trace", *SMALL
    )
    assert "ends in .png" in error_of(tiny_store, *SMALL, "--plot", tmp_path / "a.gif")
    wrong = in_process("eval", tiny_store, "--top-k-experts", "4,x")
    assert wrong.returncode == 2
    assert "expected whole numbers separated by commas, got '4,x'" in wrong.stderr


def test_what_is_done_is_shown_when_a_later_run_fails(tiny_store: Path, store_copy: Path) -> None:
    """The records of a layer of the second store are damaged, which is found when they are read."""
    file = store_copy / "experts" / "layer_003.bin"
    file.write_bytes(bytes(b ^ 1 for b in file.read_bytes()))
    how = ("eval", tiny_store, store_copy, "--tokens", 40, *SMALL, "--verify-reads")
    out = in_process(*how)
    assert out.returncode == 1
    assert "layer 3" in out.stderr.splitlines()[-1]
    assert "tiny-store (reference)" in out.stdout
    assert "Stopped after 1 of 2 runs." in out.stdout
    found = json.loads(in_process(*how, "--json").stdout)
    assert not found["complete"]
    assert len(found["runs"]) == 1


def test_ctrl_c(tiny_store: Path, prompts: Path, tmp_path: Path) -> None:
    """Stopped in the second run: the first is shown, and nothing stays behind."""
    (tmp_path / "tmp").mkdir()
    compiled = Path(tempfile.gettempdir(), "mlx")  # seconds in a new directory
    compiled.mkdir(exist_ok=True)
    (tmp_path / "tmp" / "mlx").symlink_to(compiled)
    process = subprocess.Popen(
        [*COMMAND, "eval", tiny_store, "--top-k-experts", "4,2", "--tokens", "40", "--cache-gb",
         "0.002", "--prompts", prompts, "-n", "15"],
        env=environment(TMPDIR=str(tmp_path / "tmp")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1 of 2: tiny-store, K=4")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip() == "flash-moe: interrupted"
    assert "tiny-store (reference)" in out
    assert "Stopped after 1 of 2 runs." in out
    # MLX keeps what it compiles there.
    assert {file.name for file in (tmp_path / "tmp").iterdir()} <= {"mlx"}


def test_bars_on_a_terminal(tiny_store: Path, prompts: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "eval", tiny_store, "--tokens", "100", "--cache-gb", "0.002", "--prompts",
         prompts, "-n", "2"],
        env=environment(TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"K=4: tokens" in shown
    assert b"/99" in shown
    assert b"/3" in shown
    assert "perplexity" in out
