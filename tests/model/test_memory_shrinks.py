"""A model generates while the machine runs out of memory: the bank shrinks, the tokens stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.memory import pressure
from flash_moe.memory.pressure import PERIOD_S, PressureWatch
from flash_moe.memory.system import available_memory
from flash_moe.stream.slab import Slab
from tests.support.resident import Resident, budget_gb, prompt_ids

N_TOKENS = 24


@pytest.fixture(scope="module")
def expected(tiny_mlx: Path) -> list[int]:
    return Resident(tiny_mlx).tokens(prompt_ids(37), N_TOKENS)


class Machine:
    """A made-up /proc/meminfo, and a clock that goes on by half a second a look."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._now = root, 0.0
        (root / "proc").mkdir()
        self.available(8 * 10**9)
        monkeypatch.setattr(pressure.sys, "platform", "linux")
        monkeypatch.setattr(pressure, "machine_memory", lambda: 16 * 10**9)
        monkeypatch.setattr(pressure, "available_memory", lambda: available_memory(root))

    def available(self, n_bytes: int) -> None:
        text = f"MemTotal: 16000000 kB\nMemAvailable: {n_bytes // 1024} kB\n"
        (self._root / "proc" / "meminfo").write_text(text)

    def _clock(self) -> float:
        self._now += PERIOD_S
        return self._now

    def watch(self, flash: FlashMoE) -> None:
        flash.model._watch = PressureWatch(clock=self._clock)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("policy", ["lru", "lrfu"])
@pytest.mark.parametrize("share", ["half", "shared"])
def test_tokens_stay_the_same(
    share: str,
    policy: str,
    tiny_store: Path,
    expected: list[int],
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Shared: one slab for all layers, three times what one layer needs.
    gb = 3 * budget_gb(tiny_store, "layer") if share == "shared" else budget_gb(tiny_store, share)
    floor = budget_gb(tiny_store, "layer" if share == "shared" else "token")
    with load(tiny_store, cache_gb=gb, cache_policy=policy) as flash:
        machine.watch(flash)
        tokens, sizes = [], []
        for chunk in flash.stream(prompt_ids(37), max_tokens=N_TOKENS):
            tokens.append(chunk.token)
            sizes.append(flash.stats.bank_bytes)
            missing = {4: 100_000, 5: 0, 8: 10**9}.get(len(tokens))
            if missing is not None:
                machine.available(512_000_000 - missing)
        assert tokens == expected
        assert sizes[3] == round(gb * 1e9) > sizes[4] == sizes[6] > sizes[-1]
        assert sizes[-1] == round(floor * 1e9)
        assert flash.stats.shrinks == 2
        hits = flash.stats.hits
        again = flash.generate(prompt_ids(37), max_tokens=N_TOKENS)
        assert list(again.token_ids) == expected
        if share == "half":
            assert flash.stats.hits > hits
    assert [r.levelname for r in caplog.records if r.name.startswith("flash_moe")] == ["WARNING"]


def test_experts_that_stay_are_hits(tiny_store: Path, machine: Machine) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all")) as flash:
        flash.generate(prompt_ids(37), max_tokens=1)
        machine.watch(flash)
        machine.available(0)
        list(flash.stream(prompt_ids(1), max_tokens=1))
        after = flash.stats
        assert after.bank_bytes == round(budget_gb(tiny_store, "token") * 1e9)
        list(flash.stream(prompt_ids(1), max_tokens=1))  # the same token: its experts stayed
        assert (flash.stats - after).misses == 0
        assert (flash.stats - after).hit_rate == 1.0


def test_a_pass_that_fails_leaves_the_bank(
    tiny_store: Path, expected: list[int], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flash_moe.stream.slab import Slab

    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half")) as flash:
        flash.generate(prompt_ids(37), max_tokens=1)
        machine.watch(flash)
        machine.available(0)

        def interrupted(self: Slab, *arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Slab, "__init__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                flash.generate(prompt_ids(1), max_tokens=1)
        machine.available(8 * 10**9)
        assert flash.stats.shrinks == 0
        answer = flash.generate(prompt_ids(37), max_tokens=N_TOKENS)
        assert list(answer.token_ids) == expected


def test_no_memory_for_a_smaller_slab_costs_no_output(
    tiny_store: Path,
    expected: list[int],
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half")) as flash:
        machine.watch(flash)
        assert list(flash.generate(prompt_ids(37), max_tokens=N_TOKENS).token_ids) == expected
        size = flash.stats.bank_bytes

        def fail(self: Slab, *args: Any, **options: Any) -> None:
            raise RuntimeError("[malloc] Unable to allocate")

        monkeypatch.setattr(Slab, "__init__", fail)
        machine.available(100_000_000)
        assert list(flash.generate(prompt_ids(37), max_tokens=N_TOKENS).token_ids) == expected
        assert "the expert cache could not shrink: [malloc] Unable" in caplog.text
        assert flash.stats.bank_bytes == size
        assert flash.stats.shrinks == 0
