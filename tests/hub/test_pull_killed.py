"""Pulls that are killed at any moment: the same command, run again, ends with the same store."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flash_moe.hub.local_stores import disk_bytes
from tests.hub.conftest import Checkpoints
from tests.support.directories import contents, differences
from tests.support.effort import repetitions
from tests.support.fork_server import COMMAND, ForkServer
from tests.support.hub.checkpoints import Kind
from tests.support.hub.client import hub_environment
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.faults import Slow, Stall
from tests.support.hub.pulls import REPO, SHARDS

KILLS = repetitions(8, full=50)
CODE = "import sys; from flash_moe.cli import main; sys.exit(main(sys.argv[1:]))"


def start(hub: FakeHub, home: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        env=hub_environment(hub.url, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize(("kind", "kills"), [("mlx", KILLS), ("hf-fused", repetitions(3, full=10))])
def test_killed_again_and_again(
    hub: FakeHub,
    checkpoints: Checkpoints,
    stores: Checkpoints,
    tmp_path: Path,
    kind: Kind,
    kills: int,
) -> None:
    """So many kills in the middle; a pull that comes to its end is compared, and one begun anew."""
    hub.add_commit(REPO, checkpoints(kind))
    shards = [hub.entry(REPO, f.name).size for f in checkpoints(kind).glob(SHARDS)]
    # Slow enough that a whole pull takes as long as several kills.
    hub.faults.add(Slow(pattern=SHARDS, bytes_per_second=2 * sum(shards)))
    draw = random.Random(kind)
    bound = disk_bytes(stores(kind)) + 2 * max(shards) + 100_000
    killed = finished = 0
    dst = tmp_path / "pulled-0"
    with ForkServer(hub_environment(hub.url, tmp_path / "home"), tmp_path / "output") as server:

        def ended() -> None:
            nonlocal finished, dst
            assert differences(dst, stores(kind)) == []
            assert not [n for n in contents(dst) if "incoming" in n or n.endswith(".tmp")]
            finished += 1
            dst = tmp_path / f"pulled-{finished}"

        for _ in range(4 * kills):
            began = len(hub.log.requests())
            server.start(COMMAND, "pull", REPO, dst)
            deadline = time.monotonic() + 60
            while len(hub.log.requests()) == began and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.6))
            server.kill()
            code = server.wait()
            if code == 0:
                ended()
                continue
            assert code == -signal.SIGKILL, server.output.read_text()
            killed += 1
            assert not dst.exists() or disk_bytes(dst) <= bound
            if killed == kills:
                break
        assert killed == kills
        hub.faults.clear()
        server.start(COMMAND, "pull", REPO, dst)
        assert server.wait() == 0, server.output.read_text()
        ended()
    assert finished >= min(3, kills // 10)


def test_a_kill_costs_no_more_than_what_was_on_its_way(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    sizes = [hub.entry(REPO, f.name).size for f in checkpoints("mlx").glob(SHARDS)]
    hub.faults.add(Slow(pattern=SHARDS, bytes_per_second=max(sizes)))
    process = start(hub, tmp_path / "home", "pull", REPO, tmp_path / "pulled")
    hub.log.wait_until_sent(SHARDS, 4 * 100_000 + sum(sizes) // 2, timeout=60)
    process.kill()
    process.communicate()
    hub.log.wait_until_idle()
    hub.faults.clear()
    finish(start(hub, tmp_path / "home", "pull", REPO, tmp_path / "pulled"))
    headers = 2 * 4 * 100_001
    assert hub.log.sent(SHARDS) < sum(sizes) + headers + max(sizes)


@pytest.mark.parametrize("after", [0, 110_000])  # of the headers, of the shards
def test_ctrl_c_waits_for_no_connection(
    hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path, after: int
) -> None:
    """All connections have stalled, and none is given up."""
    hub.add_commit(REPO, checkpoints("mlx"))
    hub.faults.add(Stall(pattern=SHARDS, after=after, times=None))
    code = f"from flash_moe.hub import requests; requests.TIMEOUT = 10_000; {CODE}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "pull", REPO, str(tmp_path / "pulled")],
        env=hub_environment(hub.url, tmp_path / "home"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for name in ("model-00001*", "model-00002*") if after else ():
            hub.log.wait_until_sent(name, 100_000 + after, timeout=60)
        deadline = time.monotonic() + 60
        while not hub.log.requests(SHARDS) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().endswith("flash-moe: interrupted")


def test_ctrl_c_and_again(
    hub: FakeHub, checkpoints: Checkpoints, stores: Checkpoints, tmp_path: Path
) -> None:
    hub.add_commit(REPO, checkpoints("mlx"))
    hub.faults.add(Slow(pattern=SHARDS, bytes_per_second=60_000))
    process = start(hub, tmp_path / "home", "pull", REPO, tmp_path / "pulled")
    hub.log.wait_until_sent("model-00002*", 110_000, timeout=60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip().endswith("flash-moe: interrupted")
    hub.faults.clear()
    out, err = finish(start(hub, tmp_path / "home", "pull", REPO, tmp_path / "pulled"))
    assert "layers packed" in out
    assert differences(tmp_path / "pulled", stores("mlx")) == []
