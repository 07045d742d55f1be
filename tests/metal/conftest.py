"""Half the layers of the tiny model, and skips of what the emulator cannot run here.

They are for one reason, and are counted at the end.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support import shallow
from tests.support.metal_emulator.errors import EmulatorUnavailable
from tests.support.metal_emulator.prelude import prelude
from tests.support.metal_emulator.toolchain import compiler

tiny_mlx = shallow.tiny_mlx
tiny_store = shallow.tiny_store

# Set to `require` where a skip would hide that nothing was tested, as in CI.
ENV = "FLASH_MOE_EMULATOR"


@pytest.fixture(scope="session", autouse=True)
def emulator() -> None:
    """Whatever the emulator needs that can be missing."""
    try:
        compiler()
        prelude()
    except EmulatorUnavailable as reason:
        if os.environ.get(ENV) == "require":
            pytest.fail(str(reason))
        pytest.skip(str(reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if "/metal/" in report.nodeid and isinstance(report.longrepr, tuple)
    ]
    if skipped:
        tests = (report.nodeid.rpartition("::")[2].partition("[")[0] for report in skipped)
        names = ", ".join(dict.fromkeys(tests))
        reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in skipped}
        terminalreporter.section("Metal kernels that were not run")
        terminalreporter.line(f"{len(skipped)} tests skipped: {names}")
        for reason in sorted(reasons):
            terminalreporter.line(f"because {reason}")
