"""Each fault of the fake hub does what it says, as huggingface_hub meets it."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import http_backoff, httpx

from tests.support.hub.client import go_online, no_waiting, small_chunks, start_python
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.faults import Cut, Fault, Flip, NoRange, Resize, Slow, Stall, Status

REPO = "someone/a-model"
SHARD = "model.safetensors"
SIZE = 3_000_000
CHUNK = 1 << 16
CONTENT = hashlib.shake_128(b"a shard").digest(SIZE)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return no_waiting(monkeypatch)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[FakeHub]:
    go_online(monkeypatch, tmp_path / "home")
    small_chunks(monkeypatch, CHUNK)
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / SHARD).write_bytes(CONTENT)
    (folder / "config.json").write_text("{}")
    with FakeHub(tmp_path / "blobs") as hub:
        hub.add_commit(REPO, folder)
        yield hub


def download(hub: FakeHub, local_dir: Path, **options: Any) -> bytes:
    path = hf_hub_download(REPO, SHARD, endpoint=hub.url, local_dir=local_dir, **options)
    return Path(path).read_bytes()


def bodies(hub: FakeHub) -> list[tuple[str | None, int, int]]:
    """Range, status and bytes sent of the requests for the shard's bytes."""
    hub.log.wait_until_idle()
    return [(r.range, r.status, r.sent) for r in hub.log.requests(SHARD, where="cdn")]


def test_cut_and_resume(hub: FakeHub, tmp_path: Path, waits: list[float]) -> None:
    hub.faults.add(Cut(pattern="*.safetensors", after=1_000_000))
    assert download(hub, tmp_path / "m") == CONTENT
    kept = 1_000_000 // CHUNK * CHUNK
    expected = [(None, 200, 1_000_000), (f"bytes={kept}-", 206, SIZE - kept)]
    assert bodies(hub) == expected
    assert waits == [1]


def test_reset(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.add(Cut(pattern="*.safetensors", after=1_000_000, reset=True))
    with pytest.raises(httpx.ReadError, match="reset"):
        download(hub, tmp_path / "m")
    assert bodies(hub) == [(None, 200, 1_000_000)]
    assert not (tmp_path / "m" / SHARD).exists()
    assert download(hub, tmp_path / "m") == CONTENT


def test_cuts_at_places_drawn_from_a_seed(hub: FakeHub, tmp_path: Path) -> None:
    places = []
    for run, seed in enumerate((5, 5, 6)):
        hub.faults.add(Cut(pattern="*.safetensors", seed=seed, times=3))
        hub.log.clear()
        assert download(hub, tmp_path / str(run)) == CONTENT
        *cut, (_, _, last) = bodies(hub)
        assert len(cut) == 3
        assert last > 0
        places.append([sent for _, _, sent in cut])
    assert places[0] == places[1] != places[2]
    assert len(set(places[0])) == 3


def test_short_bodies_do_not_count(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.add(Cut(after=1_000_000), Stall(after=SIZE))
    hf_hub_download(REPO, "config.json", endpoint=hub.url, local_dir=tmp_path / "m")
    assert download(hub, tmp_path / "m") == CONTENT
    assert [status for _, status, _ in bodies(hub)] == [200, 206]


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_listing(hub: FakeHub, waits: list[float], reset: bool) -> None:
    hub.faults.add(Cut(pattern="/api/*", after=20, reset=reset))
    refs = http_backoff("GET", f"{hub.url}/api/models/{REPO}/refs").json()
    assert [branch["name"] for branch in refs["branches"]] == ["main"]
    assert waits == [1]


def test_too_many_requests(hub: FakeHub, tmp_path: Path, waits: list[float]) -> None:
    hub.faults.add(Status(pattern="*.safetensors", status=429, retry_after=7, times=2, where="cdn"))
    assert download(hub, tmp_path / "m") == CONTENT
    assert [status for _, status, _ in bodies(hub)] == [429, 429, 200]
    assert waits == [8, 8]  # the client adds one


def test_unavailable(hub: FakeHub, tmp_path: Path, waits: list[float]) -> None:
    hub.faults.add(Status(pattern="*.safetensors", status=503, methods=("HEAD",), times=3))
    assert download(hub, tmp_path / "m") == CONTENT
    assert [r.status for r in hub.log.requests(method="HEAD")] == [503, 503, 503, 302]
    assert waits == [1, 2]  # the first time at once
    hub.faults.add(Status(pattern="*.safetensors", status=503, methods=("GET",)))
    with pytest.raises(HfHubHTTPError) as caught:
        download(hub, tmp_path / "other")
    assert caught.value.response.status_code == 503


@pytest.mark.parametrize("offset", [0, 1_234_567, -1])
def test_one_wrong_bit(hub: FakeHub, tmp_path: Path, offset: int) -> None:
    hub.faults.add(Flip(pattern="*.safetensors", offset=offset, times=1))
    url = f"{hub.url}/{REPO}/resolve/main/{SHARD}"
    part = get_session().get(url, headers={"Range": "bytes=2000-2999"})
    assert part.content == CONTENT[2000:3000]
    got = download(hub, tmp_path / "m")
    wrong = bytearray(CONTENT)
    wrong[offset] ^= 1
    assert got == wrong
    assert hub.entry(REPO, SHARD).sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(("file", "by"), [(SHARD, -7), (SHARD, 7), ("config.json", 1)])
def test_another_length(hub: FakeHub, tmp_path: Path, file: str, by: int) -> None:
    size = hub.entry(REPO, file).size
    hub.faults.add(Resize(pattern=file, by=by, times=1))
    with pytest.raises(OSError, match=f"of size {size} but has size {size + by}"):
        hf_hub_download(REPO, file, endpoint=hub.url, local_dir=tmp_path / "m")
    assert hub.log.sent(file) == size + by
    path = hf_hub_download(REPO, file, endpoint=hub.url, local_dir=tmp_path / "m")
    assert Path(path).stat().st_size == size


def test_stall(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults.add(Stall(pattern="*.safetensors", after=CHUNK), Stall(after=0, seconds=0.01))
    assert download(hub, tmp_path / "m") == CONTENT
    sent = [(r.range, r.sent) for r in hub.log.requests(SHARD, where="cdn")]
    assert sent == [(None, CHUNK), (f"bytes={CHUNK}-", SIZE - CHUNK)]


class Waits(threading.Event):
    """Nobody waits, and it is written down how long they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return self.is_set()


def test_slow(hub: FakeHub) -> None:
    hub.closing = waits = Waits()
    hub.faults.add(Slow(pattern="*.safetensors", bytes_per_second=1000))
    url = f"{hub.url}/{REPO}/resolve/main/{SHARD}"
    part = get_session().get(url, headers={"Range": "bytes=0-99999"})
    assert part.content == CONTENT[:100_000]
    # Each piece is sent when a client that began with the body can have it at that speed.
    assert 50 < max(waits.seconds) <= 100
    assert waits.seconds[0] < 1


def test_no_range(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.add(Cut(pattern="*.safetensors", after=1_000_000), NoRange())
    assert download(hub, tmp_path / "m") == CONTENT
    assert [(status, sent) for _, status, sent in bodies(hub)] == [(200, 1_000_000), (200, SIZE)]


def test_a_process_killed_in_the_middle(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.add(Slow(pattern="*.safetensors", bytes_per_second=2_000_000))
    code = f"import huggingface_hub as h; h.hf_hub_download({REPO!r}, {SHARD!r}, local_dir='m')"
    code = f"import os; os.chdir({str(tmp_path)!r}); {code}"
    run = start_python(code, hub.url, tmp_path / "home")
    hub.log.wait_until_sent(SHARD, SIZE // 10)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    run.communicate()
    ((_, _, sent),) = bodies(hub)
    assert SIZE // 10 <= sent < SIZE
    (left,) = (tmp_path / "m").rglob("*.incomplete")
    hub.faults.clear()
    assert download(hub, tmp_path / "m") == CONTENT
    assert hub.log.sent(SHARD) == sent + SIZE
    assert left.exists()  # nothing was resumed, and nobody cleans up


def test_another_file_at_the_same_commit(hub: FakeHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url)
    commit, before = api.repo_info(REPO).sha, hub.entry(REPO, SHARD)
    download(hub, tmp_path / "m", revision=commit)
    signed = get_hf_file_metadata(f"{hub.url}/{REPO}/resolve/main/{SHARD}").location
    hub.replace_file(REPO, SHARD, CONTENT[::-1])
    after = hub.entry(REPO, SHARD)
    assert api.repo_info(REPO).sha == commit
    assert after.size == before.size
    assert len({before.etag, after.etag, before.git_sha, after.git_sha}) == 4
    hub.log.clear()
    assert download(hub, tmp_path / "m", revision=commit) == CONTENT
    assert hub.log.requests() == []  # a commit does not change: nobody looks
    assert download(hub, tmp_path / "m") == CONTENT[::-1]
    assert get_session().get(signed).content == CONTENT


def test_faults_are_met_as_often_as_they_say(hub: FakeHub) -> None:
    hub.faults.add(Status(pattern="config.*", status=500, times=5), Status(pattern="x", status=500))
    got: list[int] = []

    def ask() -> None:
        for _ in range(4):
            response = get_session().get(f"{hub.url}/{REPO}/resolve/main/config.json")
            got.append(response.status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (got.count(500), got.count(200)) == (5, 27)


@pytest.mark.parametrize(
    "fault",
    [Cut(after=1), Flip(offset=1), Resize(by=1), Stall(), Status(status=500), NoRange()],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_another_file_changes_nothing(
    hub: FakeHub, tmp_path: Path, fault: Fault
) -> None:
    kind = type(fault)
    hub.faults.add(kind(**{**vars(fault), "pattern": "config.json"}))
    assert download(hub, tmp_path / "m") == CONTENT
