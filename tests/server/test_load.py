"""The load benchmark, for a short while."""

from __future__ import annotations

import json

import pytest

from tests.support.processes import ROOT, file_in_process


@pytest.mark.process
def test_answers_under_load_are_those_of_each_request_alone() -> None:
    script = ROOT / "benchmarks" / "load_server.py"
    out = file_in_process(script, "--seconds", 1, "--max-tokens", 8)
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout.splitlines()[-1])
    assert found["wrong"] == found["left_running"] == found["exit_code"] == 0
    assert found["whole"] + found["streamed"] + found["given_up"] >= 4
    begin, end = found["resident_mb"]
    # Beside the prompt caches that it may keep. Nothing that grows with the number of requests.
    assert end - begin < found["prompt_cache_mb"] + 60
