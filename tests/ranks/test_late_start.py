"""A rank whose peer never starts."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.processes import environment, run

CONNECT = "from flash_moe.ranks.start import connect; connect(0.5)"


def test_it_ends_with_one_sentence(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:0"], ["127.0.0.1:0"]]')  # rank 0 waits for rank 1
    ranks = environment(MLX_RANK="0", MLX_HOSTFILE=str(hosts))
    ended = run(sys.executable, "-c", CONNECT, env=ranks)
    assert ended.returncode == 1
    assert ended.stderr == (
        "flash-moe: [ranks] rank 0: expected all ranks to connect within 0.5 s, got no "
        "connection; stopping. Has each machine started, and can it reach the others? "
        "--peer-timeout sets the limit.\n"
    )
