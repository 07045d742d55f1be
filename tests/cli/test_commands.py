"""The command line: output, exit codes, one-line errors; and its processes where those matter."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import COMMAND, environment, in_process, one_line, run, run_python


def test_help_and_version() -> None:
    out = in_process("--help")
    assert out.returncode == 0
    for command in ("demo", "pack", "verify", "info", "generate", "doctor"):
        assert command in out.stdout
        assert in_process(command, "--help").returncode == 0
    assert in_process("--version").stdout.startswith("flash-moe 0.")
    assert in_process().returncode == 2


def test_help_is_quick_to_import() -> None:
    out = run_python(
        "import sys; from flash_moe.cli import build_parser; build_parser()\n"
        "print([m for m in ('mlx', 'mlx_lm', 'transformers') if m in sys.modules])"
    )
    assert out.stdout == "[]\n"


def test_as_a_module() -> None:
    out = run(sys.executable, "-m", "flash_moe", "ls", "--nonsense")
    assert out.returncode == 2
    assert "flash-moe" in out.stderr
    assert "--nonsense" in out.stderr


def test_pack_info_verify_generate(tiny_mlx: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    packed = in_process("pack", tiny_mlx, store)
    assert packed.returncode == 0, packed.stderr
    assert "8 layers packed" in packed.stdout
    facts = json.loads(in_process("info", store, "--json").stdout)
    assert facts["experts_per_layer"] == 32
    assert facts["record_bytes"] == [16384]
    assert facts["quantization"]["up_proj"] == [{"bits": 4, "group_size": 64, "mode": "affine"}]
    assert "32 per layer, 4 per token" in in_process("info", store).stdout
    checked = in_process("verify", store)
    assert checked.returncode == 0
    assert "256 records" in checked.stdout
    assert "all sound" in checked.stdout
    again = in_process("pack", tiny_mlx, store)
    assert again.returncode == 1
    assert "is already a complete store" in one_line(again.stderr)


def test_pack_quantizes_the_original(tiny_hf: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    packed = in_process("pack", tiny_hf, store, "--bits", 8, "--group-size", 32)
    assert packed.returncode == 0, packed.stderr
    facts = json.loads(in_process("info", store, "--json").stdout)
    assert facts["quantization"]["down_proj"] == [{"bits": 8, "group_size": 32, "mode": "affine"}]
    assert in_process("generate", store, "-p", "hi", "-n", 2).returncode == 0


def test_pack_refuses(tiny_mlx: Path, tmp_path: Path) -> None:
    bits = in_process("pack", tiny_mlx, tmp_path / "a", "--bits", 2)
    assert bits.returncode == 1
    assert "quantized already" in one_line(bits.stderr)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    full = in_process("pack", tiny_mlx, tmp_path / "b")
    assert full.returncode == 1
    assert "not empty" in one_line(full.stderr)
    assert [f.name for f in (tmp_path / "b").iterdir()] == ["mine.txt"]


def test_verify_names_layer_and_expert(store_copy: Path) -> None:
    file = store_copy / "experts" / "layer_006.bin"
    damaged = bytearray(file.read_bytes())
    damaged[31 * 16384] ^= 0x10
    file.write_bytes(damaged)
    out = in_process("verify", store_copy)
    assert out.returncode == 1
    assert "layer 6, expert 31" in out.stderr
    assert "1 damaged" in out.stdout


def test_generate_json_and_timing(tiny_store: Path) -> None:
    arguments = ("generate", tiny_store, "-p", "hello", "-n", 6, "--cache-gb", "0.001")
    out = in_process(*arguments, "--json", "--timing")
    answer = json.loads(out.stdout)
    assert len(answer["token_ids"]) == answer["stats"]["generation_tokens"] <= 6
    stream = answer["stats"]["stream"]
    assert stream["bytes_read"] == stream["misses"] * 16384 > 0
    assert [layer["layer"] for layer in stream["layers"]] == list(range(8))
    for word in ("read ms", "wait ms", "compute ms"):
        assert word in out.stderr
    plain = in_process(*arguments)
    assert plain.stdout == answer["text"] + "\n"
    assert "tokens/s" in plain.stderr


def test_generate_from_stdin_and_messages(tiny_store: Path, tmp_path: Path) -> None:
    direct = in_process("generate", tiny_store, "-p", "héllo 世界", "-n", 4, "--json")
    piped = in_process("generate", tiny_store, "-p", "-", "-n", 4, "--json", input="héllo 世界")
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([{"role": "user", "content": "héllo 世界"}]), encoding="utf-8")
    chat = in_process("generate", tiny_store, "--messages", file, "-n", 4, "--json")
    ids = [json.loads(out.stdout)["token_ids"] for out in (direct, piped, chat)]
    assert ids[0] == ids[1] == ids[2]
    raw = in_process("generate", tiny_store, "-p", "héllo 世界", "--raw", "-n", 4, "--json")
    assert json.loads(raw.stdout)["stats"]["prompt_tokens"] < 20


def test_top_k_experts(tiny_store: Path) -> None:
    few = in_process("generate", tiny_store, "-p", "a", "-n", 3, "--top-k-experts", 2, "--json")
    stream = json.loads(few.stdout)["stats"]["stream"]
    last = stream["layers"][-1]
    assert (last["hits"] + last["misses"]) > 0
    bad = in_process("generate", tiny_store, "-p", "a", "--top-k-experts", 99)
    assert bad.returncode == 1
    assert "expected 1 to 32" in one_line(bad.stderr)


def test_kernels_option(tiny_store: Path) -> None:
    arguments = ("generate", tiny_store, "-p", "a", "-n", 2, "--kernels")
    assert in_process(*arguments, "off").returncode == 0
    wrong = in_process(*arguments, "on")
    assert wrong.returncode == 2
    assert "invalid choice: 'on'" in wrong.stderr


def test_a_limit_of_thoughts() -> None:
    """The prompt is of messages, so the template opens a thought."""
    out = in_process(
        "generate", "demo", "-p", "Hello", "-n", 40, "--max-thinking-tokens", 1, "--json"
    )
    answer = json.loads(out.stdout)
    thought, _, text = answer["text"].partition("</think>")
    assert len(thought.split()) == 1
    assert text.strip()
    wrong = in_process("generate", "demo", "-p", "Hello", "--max-thinking-tokens", -1)
    assert "max_thinking_tokens: expected 0 or more, got -1" in one_line(wrong.stderr)


def test_errors_are_one_line(tiny_store: Path, tmp_path: Path) -> None:
    cases = [
        (("generate", tmp_path / "none", "-p", "x"), "no such directory"),
        (("generate", tmp_path, "-p", "x"), "no config.json"),
        (("generate", tiny_store, "-p", "  "), "prompt is empty"),
        (("generate", tiny_store, "-p", "x", "--cache-gb", "1e-9"), "at least 0.00006554 GB"),
        (("generate", tiny_store, "-p", "x" * 5000), "expected at most 4095"),
        (("generate", tiny_store, "--messages", tmp_path / "m.json"), "expected JSON"),
        (("info", tmp_path), "no flash_moe.json"),
        (("verify", tmp_path / "none"), "no flash_moe.json"),
    ]
    for arguments, expected in cases:
        out = in_process(*arguments)
        assert out.returncode == 1, arguments
        assert out.stdout == ""
        assert expected in one_line(out.stderr)
        assert one_line(out.stderr).startswith("flash-moe: [")


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    out = in_process("info", tmp_path, "--debug")
    assert out.returncode == 1
    assert "Traceback" in out.stderr
    assert "ManifestError" in out.stderr


def test_stdin_that_is_not_utf8(tiny_store: Path) -> None:
    out = in_process("generate", tiny_store, "-p", "-", input=b"\xff\xfe abc")
    assert out.returncode == 1
    assert "standard input is not UTF-8" in one_line(out.stderr)


def test_ctrl_c_and_a_closed_pipe(tiny_store: Path) -> None:
    # An answer of this seed is long.
    options = ["-p", "x", "-n", "4000", "--temp", "2", "--seed", "2"]
    command = [*COMMAND, "generate", str(tiny_store), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    )
    assert process.stdout is not None
    assert process.stdout.read(1)  # it is generating
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_line(errors) == "flash-moe: interrupted"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_bar_on_a_terminal(tiny_mlx: Path, tmp_path: Path) -> None:
    """Packing in a pseudo-terminal shows what is done, the bytes and the rate."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(
            COMMAND[0],
            [*COMMAND, "pack", str(tiny_mlx), str(tmp_path / "store")],
            environment(TERM="xterm"),
        )
    seen = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:  # Linux: the other side has closed
            break
        if not piece:
            break
        seen += piece
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = seen.decode()
    for word in ("8 of 8 layers", "4.5/4.5 MB", "8 layers packed"):
        assert word in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_destination_that_cannot_be_written(tiny_mlx: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    out = in_process("pack", tiny_mlx, tmp_path / "store")
    tmp_path.chmod(0o700)
    assert out.returncode == 1
    assert "Permission denied" in one_line(out.stderr)
