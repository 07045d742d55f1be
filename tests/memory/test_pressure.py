"""When memory counts as short, by how much, and how often that is asked."""

from __future__ import annotations

import pytest

from flash_moe.memory import pressure
from flash_moe.memory.pressure import PERIOD_S, PressureWatch, memory_shortage, reserve

GB = 10**9


@pytest.mark.parametrize(
    ("machine", "expected"),
    [(48 * GB, 1_440_000_000), (8 * GB, 512_000_000), (GB, GB // 10), (0, 0)],
)
def test_the_reserve(machine: int, expected: int) -> None:
    assert reserve(machine) == expected


@pytest.mark.parametrize(
    ("available", "expected"), [(2 * GB, 0), (512_000_000, 0), (GB // 10, 412_000_000), (None, 0)]
)
def test_linux_is_short_of_the_reserve(
    available: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure.sys, "platform", "linux")
    monkeypatch.setattr(pressure, "available_memory", lambda: available)
    monkeypatch.setattr(pressure, "machine_memory", lambda: 8 * GB)
    assert memory_shortage(GB) == expected


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (1, 0), (2, 100), (4, 250)])
def test_macos_names_a_level(level: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def sysctlbyname(name: bytes, out: object, size: object, *rest: object) -> int:
        assert name == b"kern.memorystatus_vm_pressure_level"
        out._obj.value = level  # type: ignore[attr-defined]
        return 0

    monkeypatch.setattr(pressure.sys, "platform", "darwin")
    monkeypatch.setattr(pressure, "_sysctl", lambda: sysctlbyname)
    assert memory_shortage(1000) == expected


def test_macos_without_the_call_is_never_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure.sys, "platform", "darwin")
    monkeypatch.setattr(pressure, "_sysctl", lambda: lambda *arguments: -1)
    assert memory_shortage(1000) == 0


def test_it_is_asked_twice_a_second() -> None:
    now, asked = [10.0], []

    def shortage(bank_bytes: int) -> int:
        asked.append(bank_bytes)
        return 1

    watch = PressureWatch(shortage, lambda: now[0])
    assert watch.bytes_to_free(1000) == 0  # not at the first token either
    now[0] += PERIOD_S
    assert watch.bytes_to_free(1000) == 100  # a tenth at least
    assert watch.bytes_to_free(1000) == 0
    now[0] += PERIOD_S / 2
    assert watch.bytes_to_free(1000) == 0
    now[0] += PERIOD_S / 2
    assert watch.bytes_to_free(900) == 90
    assert asked == [1000, 900]


def test_what_is_missing_is_given_whole() -> None:
    now = [0.0]
    watch = PressureWatch(lambda bank_bytes: 700, lambda: now[0])
    now[0] = 1.0
    assert watch.bytes_to_free(1000) == 700


def test_nothing_is_given_where_nothing_is_missing() -> None:
    now = [0.0]
    watch = PressureWatch(lambda bank_bytes: 0, lambda: now[0])
    now[0] = 1.0
    assert watch.bytes_to_free(1000) == 0
