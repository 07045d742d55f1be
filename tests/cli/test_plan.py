"""``flash-moe plan`` on directories: the page, the JSON, measuring, and one-line errors."""

from __future__ import annotations

import io
import json
import math
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flash_moe.cli import main
from flash_moe.memory.pressure import reserve
from flash_moe.memory.system import machine_memory
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.plan import this_machine
from flash_moe.plan.assumptions import assumptions
from flash_moe.plan.figure import Figure
from flash_moe.plan.forecast import LAYER_COST, Machine, forecast
from flash_moe.plan.machine_speed import disk_read_bytes_per_s
from flash_moe.plan.planned import Planned, plan_checkpoint, plan_store
from flash_moe.plan.this_machine import (
    least_memory,
    machine_of,
    shape_of,
)
from flash_moe.plan.verdict import Request, verdict
from flash_moe.store.quantization import QuantizationConfig
from tests.support.fake_cudart import FakeCudart, fake_runtime
from tests.support.processes import flash_moe

GIVEN = ("--disk-gbps", "5.5", "--memory-gbps", "400")


def plan_in_process(*words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; without the seconds that a process takes."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["plan", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


def facts_of(*words: object) -> dict[str, Any]:
    code, out, err = plan_in_process(*words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_sizes_are_those_of_the_store(tiny_store: Path, tiny_mlx: Path, tmp_path: Path) -> None:
    store = facts_of(tiny_store, "--no-measure")
    assert facts_of("demo", "--no-measure")["state"] == "complete"
    checkpoint = facts_of(tiny_mlx, "--no-measure", "--dst", tmp_path / "new")
    info = json.loads(flash_moe("info", tiny_store, "--json").stdout)
    same = ("model_type", "moe_layers", "experts_per_layer", "experts_per_token", "hidden_size",
            "expert_width", "record_bytes", "expert_bytes", "quantization",
            "bytes_per_token_uncached", "max_context")  # fmt: skip
    for name in same:
        assert store[name] == checkpoint[name] == info[name], name
    for name in ("resident_bytes", "resident_quantization", "layers", "architectures"):
        assert store[name] == checkpoint[name], name
    assert store["state"] == "complete"
    assert store["disk"]["needed"] == store["disk"]["download"] == 0
    assert store["disk"]["store"] == sum(
        f.stat().st_size for f in tiny_store.rglob("*") if f.is_file()
    )
    assert checkpoint["disk"]["needed"] == pytest.approx(checkpoint["disk"]["store"])
    assert checkpoint["disk"]["deleting"] < checkpoint["disk"]["needed"]
    assert checkpoint["verdict"]["command"] == [
        "flash-moe", "pack", str(tiny_mlx), str(tmp_path / "new"),
    ]  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_the_shape_is_what_load_computes_with(tiny_store: Path) -> None:
    for top_k in (None, 2):
        streaming = open_streaming(tiny_store, LoadOptions(top_k=top_k))
        shape = shape_of(plan_store(tiny_store), top_k)
        assert shape.prefill_workspace == streaming.prefill_workspace()
        assert shape.resident_bytes == streaming.resident_bytes
        assert shape.layers == streaming.experts.layers
        assert shape.top_k == streaming.top_k


def test_a_shared_table_passes_for_each_token(tiny_store: Path) -> None:
    plan = plan_store(tiny_store)
    apart = shape_of(plan)
    table = [t for t in plan.resident if "embed_tokens" in t.name]
    assert apart.resident_bytes - apart.touched_bytes == sum(t.n_bytes for t in table) > 0
    tied = replace(plan, resident=tuple(t for t in plan.resident if "lm_head" not in t.name))
    shape = shape_of(tied)
    assert shape.touched_bytes == shape.resident_bytes


def test_a_quantized_original_is_planned_as_it_is_packed(tiny_hf: Path, tmp_path: Path) -> None:
    options = {"bits": 8, "group_size": 32, "expert_bits": 3}
    words = [f"--{n.replace('_', '-')}={v}" for n, v in options.items()]
    before = facts_of(tiny_hf, *words, "--no-measure", "--dst", tmp_path / "store")
    pack(open_source(tiny_hf, QuantizationConfig(**options)), tmp_path / "store")
    after = facts_of(tmp_path / "store", "--no-measure")
    assert before["kind"] == after["kind"] == "hf"
    assert before["quantization"]["up_proj"][0]["bits"] == 3
    assert set(before["resident_quantization"]) >= {"8-bit, group 32"}
    for name in ("quantization", "resident_quantization", "record_bytes", "expert_bytes"):
        assert before[name] == after[name]


def test_given_rates(tiny_store: Path) -> None:
    found = facts_of(tiny_store, *GIVEN, "--cache-gb", "0.001", "0.002", "--top-k-experts", "2")
    assert [b["option"] for b in found["budgets"]] == ["--cache-gb 0.001", "--cache-gb 0.002"]
    assert (found["experts_per_token"], found["experts_per_token_of_the_model"]) == (2, 4)
    for rate in ("disk_bytes_per_s", "weight_bytes_per_s"):
        assert found["machine"][rate]["source"] == "given"
    small, large = found["budgets"]
    assert small["bank_bytes"] <= 1_000_000 < large["bank_bytes"] <= 2_000_000
    assert small["hit_rate"]["high"] < large["hit_rate"]["high"] <= 1
    assert 0 < small["tokens_per_s"]["low"] < large["tokens_per_s"]["low"]
    assert small["memory_bytes"] - small["bank_bytes"] == (
        found["memory"]["least"] - found["memory"]["bank"]
    )
    plan = plan_store(tiny_store)
    shape = shape_of(plan, 2)
    machine = machine_of(shape, tiny_store, disk=5.5e9, weights=400e9)
    assert forecast(shape, machine, 1_000_000).tokens_per_s.low == small["tokens_per_s"]["low"]
    assert found["assumptions"] == list(assumptions(machine))


def test_without_rates_there_is_no_speed(tiny_store: Path) -> None:
    for words in ((), GIVEN[:2], GIVEN[2:]):
        found = facts_of(tiny_store, "--no-measure", *words)
        (budget, *_) = found["budgets"]
        assert budget["tokens_per_s"]["low"] is None
        assert 0 < budget["hit_rate"]["low"] <= 1
        assert not any("nan" in sentence for sentence in found["assumptions"])
        _, text, _ = plan_in_process(tiny_store, "--no-measure", *words)
        assert "nan" not in text
        assert "Expect" not in text
        assert "unknown, not measured" in text


def test_the_page(tiny_store: Path) -> None:
    out = flash_moe("plan", tiny_store, *GIVEN)
    assert out.returncode == 0
    assert out.stderr == ""  # nothing is measured
    for line in (
        "32 per layer, 4 per token",
        "4-bit affine, group 64",
        "16,384 bytes",
        "5.5 GB/s of random reads, given",
        "published",
        "Hit rate, assumed",
        "It fits.",
        f"To run it: flash-moe generate {tiny_store} -p Hello",
    ):
        assert line in out.stdout, line


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_figure_is_cut(tiny_store: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """However narrow the terminal or the pipe is."""
    words = (tiny_store, *GIVEN, "--cache-gb", "0.001", "0.002")
    monkeypatch.setenv("COLUMNS", "400")
    _, wide, _ = plan_in_process(*words)
    monkeypatch.setenv("COLUMNS", str(columns))
    _, text, _ = plan_in_process(*words)
    assert "…" not in text
    rows = [
        [line.split() for line in t.splitlines() if "--cache-gb 0" in line] for t in (text, wide)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


def test_measuring_is_said_before_and_leaves_nothing(
    tiny_mlx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The real thing, but of 20 MB."""
    measured: list[list[str]] = []

    def measure(folder: Path, *args: Any, **options: Any) -> Any:
        measured.append([str(folder), capsys.readouterr().err])
        return disk_read_bytes_per_s(folder, *args, max_file_bytes=20_000_000, **options)

    monkeypatch.setattr(this_machine, "disk_read_bytes_per_s", measure)
    monkeypatch.setattr(
        this_machine, "weight_bytes_per_s", partial(this_machine.weight_bytes_per_s, 1_000_000)
    )
    dst = tmp_path / "not" / "there"
    assert main(["plan", str(tiny_mlx), "--dst", str(dst), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ((folder, said),) = measured
    assert folder == str(tmp_path)
    assert f"a temporary file of up to 1.5 GB in {tmp_path}" in said
    assert list(tmp_path.iterdir()) == []
    for rate in found["machine"]["disk_bytes_per_s"], found["machine"]["weight_bytes_per_s"]:
        assert rate["source"] == "measured"
        assert rate["value"] > 0
    assert "cold random reads of 16.4 kB, 2 at once" in found["assumptions"][0]
    assert found["budgets"][0]["tokens_per_s"]["low"] > 0


def test_a_disk_that_cannot_be_measured(tiny_store: Path, tmp_path: Path) -> None:
    def nothing(folder: Path, record_bytes: int, **options: Any) -> Any:
        return disk_read_bytes_per_s(folder, record_bytes, free_bytes=lambda path: 0, **options)

    shape = shape_of(plan_store(tiny_store))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(this_machine, "disk_read_bytes_per_s", nothing)
        machine = machine_of(shape, tmp_path, weights=1e9)
    assert math.isnan(machine.read_bytes_per_s.value)
    assert "cannot be measured" in machine.read_bytes_per_s.note
    assert "GB free" in machine.read_bytes_per_s.note
    assert not machine.rates_known
    assert assumptions(machine)[0].startswith("Hit rate")


@pytest.fixture
def plan(tiny_mlx: Path, tmp_path: Path) -> Planned:
    return plan_checkpoint(tiny_mlx, tmp_path / "my store")


def machine_with(memory: int, available: int | None) -> Machine:
    rate = Figure(1e9, "assumed", "a test")
    return Machine(rate, rate, memory, available, rate)


def test_verdicts(plan: Planned) -> None:
    request = Request("a checkpoint", is_local=True, dst=plan.disk.path)
    shape = shape_of(plan)
    large, least = machine_with(10**10, 10**10), least_memory(shape, 10**10)
    command = ("flash-moe", "pack", "a checkpoint", str(plan.disk.path))
    fits = verdict(plan, least, large, request)
    assert (fits.fits, fits.reasons, fits.command) == (True, (), command)
    assert fits.shell == f"flash-moe pack 'a checkpoint' '{plan.disk.path}'"
    busy = verdict(plan, least, machine_with(10**10, 10**8), request)
    assert busy.fits
    assert "Other programs use memory now" in busy.reasons[0]
    poor = verdict(plan, least_memory(shape, 10**8), machine_with(10**8, None), request)
    assert (poor.fits, poor.command) == (False, None)
    assert "at least" in poor.reasons[0]
    assert plan.disk.deleting is not None
    between = (plan.disk.needed + plan.disk.deleting) // 2
    full = replace(plan, disk=replace(plan.disk, free=between))
    deleting = verdict(full, least, large, request)
    assert (deleting.fits, deleting.command) == (False, (*command, "--delete-source"))
    none = verdict(replace(full, disk=replace(full.disk, free=1)), least, large, request)
    assert (none.fits, none.command) == (False, None)
    assert "--dst" in none.reasons[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cache-gb", "0.00001"), "expected at least"),
        (("--cache-gb", "0.01", "-1"), "positive number"),
        (("--disk-gbps", "0"), "--disk-gbps: expected a positive number, got 0"),
        (("--memory-gbps", "nan"), "--memory-gbps"),
        (("--top-k-experts", "33"), "top_k: expected 1 to 32"),
        (("--host-cache-gb", "-1"), "--host-cache-gb: expected a positive number, got -1"),
        (("--host-cache-gb", "1"), "expected an NVIDIA GPU with memory of its own"),
        (("--lookahead",), "expected an NVIDIA GPU with memory of its own"),
    ],
)
def test_bad_options_are_one_line(tiny_store: Path, words: tuple[str, ...], said: str) -> None:
    code, out, err = plan_in_process(tiny_store, *words)
    assert (code, out) == (1, "")
    (line,) = err.strip().splitlines()  # and nothing was measured before
    assert said in line


def test_tiers_of_a_gpu(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "cuda_runtime", lambda: fake_runtime(FakeCudart()))
    monkeypatch.setattr(this_machine, "backend", lambda: "cuda")
    words = (tiny_store, "--no-measure", *GIVEN, "--host-cache-gb", "0.001", "--page-cache-gb", "0")
    facts = facts_of(*words, "--lookahead")
    tiers = facts["machine"]["tiers"]
    assert (tiers["host_bytes"], tiers["page_bytes"], tiers["lookahead"]) == (10**6, 0, True)
    assert tiers["copy"]["one"]["source"] == "published"
    assert facts["machine"]["layer_s"]["value"] == LAYER_COST["cuda"].value
    options = [row["option"] for row in facts["budgets"]]
    assert options[0] == "default, now"
    assert all(option.startswith("--cache-gb") for option in options[1:])
    code, text, _ = plan_in_process(*words)
    assert code == 0
    assert "54 GB/s of 5 records to the GPU, published; 54 for one" in text
    monkeypatch.setattr(this_machine, "available_memory", lambda: 64 * 10**9)
    default = facts_of(tiny_store, "--no-measure", *GIVEN, "--host-cache-gb", "8")
    spare = 56 * 10**9 - reserve(machine_memory())
    assert default["machine"]["tiers"]["page_bytes"] == spare


def test_bad_models_are_one_line(tiny_mlx: Path, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "flash_moe.partial.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for words, said in (
        (("./none",), "no such directory: ./none"),
        ((tmp_path / "empty",), "no config.json"),
        ((tmp_path / "partial",), "is a partial store"),
        ((tiny_mlx, "--bits", "4"), "quantized already"),
        ((tiny_mlx, "--expert-bits", "7"), "expert bits"),
        ((tiny_mlx, "--dst", tmp_path), "is not empty"),
        (("org/not-in-the-cache",), "in the local cache"),
    ):
        code, out, err = plan_in_process(*words)
        assert (code, out) == (1, "")
        (line,) = err.strip().splitlines()
        assert said in line
