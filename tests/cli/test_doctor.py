"""``flash-moe doctor``: what it prints on this machine, and what it would print on others."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from flash_moe.cli import doctor, main, tune
from flash_moe.cli.plan_text import expected_speed, speed_facts
from flash_moe.compat import cudart
from flash_moe.ops import kernel, self_test
from flash_moe.ops.forms import Timing
from flash_moe.ops.self_test import SelfTest
from flash_moe.plan import device_speed, this_machine
from flash_moe.plan.machine_speed import Speed
from flash_moe.stream import device_slab, kvikio_readers
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.support.fake_cudart import OUT_OF_MEMORY, FakeCudart, fake_address, fake_runtime
from tests.support.processes import in_process

on_cpu = pytest.mark.skipif(kernel.backend() is not None, reason="there is a GPU")


def doctor_with(*arguments: Any, **variables: Any) -> subprocess.CompletedProcess[str]:
    """The command with these environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, str(value))
        return in_process("doctor", *arguments)


@on_cpu
def test_on_a_cpu_all_is_well() -> None:
    out = doctor_with()
    assert (out.returncode, out.stderr) == (0, "")
    for word in ("flash_moe", "mlx-lm", "python", "CPU: ", "memory", "(shipped)", doctor.PLAIN):
        assert word in out.stdout
    facts = json.loads(doctor_with("--json").stdout)
    assert facts["self_test"] is facts["backend"] is None
    assert facts["mlx"] == mx.__version__
    assert facts["memory_bytes"] > 0
    assert (facts["kernels_option"], facts["kernels_overridden"]) == ("auto", False)
    assert "model" not in facts


def test_a_model_that_the_kernels_take(tiny_store: Path, tiny_mlx: Path) -> None:
    out = doctor_with(tiny_store)
    assert out.returncode == 0, out.stderr
    assert "8 layers, 0 to 7: 4-bit affine, group 64, scales F32; hidden 128" in out.stdout
    assert "supported by the kernels" in out.stdout
    assert "router of 32 experts, 4 per token: supported by the kernel" in out.stdout
    model = json.loads(doctor_with(tiny_mlx, "--json").stdout)["model"]
    assert model["router_taken"]
    (part,) = model["records"]
    assert (part["layers"], part["why_not"]) == (list(range(8)), None)


def test_a_model_that_they_do_not_take(tmp_path: Path) -> None:
    from dataclasses import replace

    path = tmp_path / "five"
    write_mlx_checkpoint(path, replace(PRESETS["tiny"], bits=5))
    out = doctor_with(path)
    assert out.returncode == 0, out.stderr  # it runs all the same
    assert "5-bit affine" in out.stdout
    assert "computed by mx.gather_qmm: moe_gate_up and moe_down: expected bits in" in out.stdout


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    cases = [
        (doctor_with(tmp_path / "none"), "no such directory"),
        (doctor_with(FLASH_MOE_KERNELS="on"), "FLASH_MOE_KERNELS: expected one of auto, off"),
        (doctor_with(FLASH_MOE_KERNEL_DIR=str(tmp_path / "none")), "is not a directory"),
        (doctor_with(FLASH_MOE_KERNEL_DIR=str(tmp_path / "kernels")), "Copy all of"),
    ]
    for out, expected in cases:
        assert (out.returncode, out.stdout) == (1, "")
        assert expected in out.stderr
        assert len(out.stderr.splitlines()) == 1


def on_gpu(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    """This process believes that it has a GPU, and what its self-test finds."""
    facts = {"passed": True, "problems": (), "plain_works": True, **found}
    result = SelfTest(
        **facts, seconds=0.25, backend="metal", device="M9", mlx="1", remembered=False
    )

    def tested(*, again: bool = False) -> SelfTest:
        assert again, "whatever is remembered, the doctor tests again"
        return result

    monkeypatch.setattr(kernel, "backend", lambda: "metal")
    monkeypatch.setattr(self_test, "self_test", tested)
    monkeypatch.setattr(
        mx, "device_info", lambda: {"device_name": "M9", "max_recommended_working_set_size": 36e9}
    )


def test_on_a_mac_whose_kernels_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_gpu(monkeypatch)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Metal: M9" in out
    assert "36.0 GB of it for the GPU" in out
    assert "self-test   passed, 0.25 s" in out


def test_times_of_the_forms_on_a_mac(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_store: Path
) -> None:
    times = {
        "one": Timing(0.0002, 0.0005),
        "few": Timing(0.0031, 0.0030),  # a tie, which the kernels win
        "many": Timing(0.04, 0.01),
    }
    on_gpu(monkeypatch)
    monkeypatch.setattr(self_test, "times_on_this_machine", lambda layout: times)
    assert main(["doctor", str(tiny_store)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[lines.index("supported by the kernels") + 1 :][:3] == [
        "one row: kernels 0.2 ms, MLX 0.5 ms; the kernels are used",
        "few rows per expert: kernels 3.1 ms, MLX 3 ms; the kernels are used",
        "many rows per expert: kernels 40 ms, MLX 10 ms; MLX is used",
    ]
    assert main(["doctor", str(tiny_store), "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["model"]["records"]
    assert part["times"]["many"] == {"kernels_s": 0.04, "mlx_s": 0.01, "kernels_used": False}
    monkeypatch.setattr(self_test, "times_on_this_machine", lambda layout: None)  # not measured
    assert main(["doctor", str(tiny_store)]) == 0
    assert " ms" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("plain_works", "then"), [(True, "correct and slower"), (False, "models do not load")]
)
def test_on_a_mac_whose_kernels_fail(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain_works: bool,
    then: str,
) -> None:
    problem = "moe_down: RuntimeError: " + "error: no such function\n" * 100
    on_gpu(monkeypatch, passed=False, problems=(problem,), plain_works=plain_works)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"FAILED. {'Models' if plain_works else 'Plain MLX'}" in out
    assert then in out
    assert out.count("error: no such function") == 100  # all of it, for the report
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["self_test"]["problems"] == [problem]


@pytest.mark.parametrize("managed", [True, False])
def test_memory_of_an_nvidia_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], managed: bool
) -> None:
    fake = FakeCudart(free=9 * 10**11)
    fake.managed_access = managed
    monkeypatch.setattr(cudart, "cuda_runtime", lambda: fake_runtime(fake))
    monkeypatch.setattr(device_slab, "array_address", fake_address)
    monkeypatch.setattr(doctor, "COPIED_BYTES", 4096)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "GPU memory  1.0 TB, 900.0 GB free; libcudart 13.0" in out
    assert ("over PCIe" in out) is not managed
    for records in ("one record of 4.1 kB in pinned memory", "8 records of 4.1 kB together"):
        assert re.search(f"GPU copies  .* GB/s, {records}", out)
    assert "GPU reads   Python's threads; KvikIO is faster: pip install" in out
    kvikio = SimpleNamespace(__version__="26.10.00")
    monkeypatch.setattr(kvikio_readers, "kvikio_library", lambda: kvikio)
    fake.fail = lambda name, number: OUT_OF_MEMORY if name == "cudaHostAlloc" else 0
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "GPU copies  cannot be measured: 8 records cannot be pinned" in out
    assert "GPU reads   KvikIO 26.10.00" in out


def test_a_gpu_without_libcudart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_gpu(monkeypatch)
    monkeypatch.setattr(kernel, "backend", lambda: "cuda")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "GPU memory  managed by MLX, several times slower: no usable libcudart" in out


def test_tune_on_a_gpu_forecasts(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCudart()
    for module in (cudart, this_machine):
        monkeypatch.setattr(module, "cuda_runtime", lambda: fake_runtime(fake))
    monkeypatch.setattr(device_slab, "array_address", fake_address)
    monkeypatch.setattr(device_speed.page_cache_speed, "__defaults__", (1,))
    monkeypatch.setattr(this_machine, "weight_bytes_per_s", lambda bits: Speed(1e12))
    found = tune.on_gpu(tiny_store, 2.5)
    assert found is not None
    assert (found.machine.read_bytes_per_s.value, found.machine.memory_bytes) == (2.5e9, 10**12)
    tiers = found.machine.tiers
    assert tiers is not None
    assert {rate.source for rate in tiers.rates} == {"measured"}
    assert tiers.copy.n == 2  # half of the experts of a token
    lines = speed_facts(found.machine)
    assert lines["disk"] == "2.5 GB/s of random reads, measured"
    assert "2 records to the GPU, measured" in lines["page cache"]
    assert 0 < found.forecast.tokens_per_s.low <= found.forecast.tokens_per_s.high
    assert "tokens/s with 4.2 MB of experts" in expected_speed(found.forecast)


def test_tune_measures_saves_and_is_shown(tiny_store: Path, tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    out = doctor_with(**home)
    assert "disks       not measured yet: flash-moe doctor --tune STORE" in out.stdout
    out = doctor_with("--tune", tiny_store, "--json", **home)
    if "stay in the page cache" in out.stderr:
        pytest.skip("this filesystem lives in memory")
    assert (out.returncode, out.stderr) == (0, "")
    found = json.loads(out.stdout)
    assert {t["io"] for t in found["trials"]} >= {"buffered"}
    assert {t["threads"] for t in found["trials"]} == {1, 2, 4, 8, 16, 32}
    best = found["best"]["buffered"]
    facts = json.loads(doctor_with(tiny_store, "--json", **home).stdout)
    assert facts["io"][found["disk"]]["buffered"] == best
    assert facts["io_file"] == found["file"]
    assert facts["model"]["io"] == found["used"]
    split = best["split"] if best["split"] > 1 else None
    assert found["used"] == {"io": "buffered", "threads": best["threads"], "split": split}
    text = doctor_with(tiny_store, FLASH_MOE_IO_THREADS="5", FLASH_MOE_IO_SPLIT="3", **home).stdout
    assert "reads with io=buffered, 5 threads, split 3" in text
    assert f"{found['disk']}: buffered {best['threads']} threads" in text
    text = doctor_with("--tune", tiny_store, **home).stdout
    assert "this model loads with io=buffered" in text


def test_tune_wants_a_store(tmp_path: Path) -> None:
    for arguments, expected in (
        (["--tune"], "--tune: expected MODEL"),
        (["--tune", tmp_path / "none"], "no such directory"),
    ):
        out = doctor_with(*arguments)
        assert (out.returncode, out.stdout) == (1, "")
        assert expected in out.stderr
