"""The fake hub as an HTTP server, asked without huggingface_hub: ranges, and how it ends."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.faults import Stall

REPO = "someone/a-model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "published"
    path.mkdir()
    (path / "notes.txt").write_bytes(random.Random(0).randbytes(200_000))
    return path


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub(tmp_path / "blobs") as hub:
        hub.add_commit(REPO, folder)
        yield hub


def raw(address: str, path: str, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


@pytest.mark.parametrize(
    ("range_", "status", "first", "last"),
    [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=5-9", 206, 5, 9),
        ("bytes=1000-", 206, 1000, -1),
        ("bytes=-7", 206, -7, -1),
        ("bytes=5-99999999", 206, 5, -1),
        ("bytes=99999999-", 416, 0, 0),
        ("lines=1-2", 200, 0, -1),
        ("bytes=9-5", 200, 0, -1),
    ],
)
def test_ranges(
    folder: Path, hub: FakeHub, range_: str, status: int, first: int, last: int
) -> None:
    content = (folder / "notes.txt").read_bytes()
    size = len(content)
    path = f"/{REPO}/resolve/main/notes.txt"
    got, headers, body = raw(hub.url, path, Range=range_)
    assert (got, headers["Accept-Ranges"]) == (status, "bytes")
    if status == 416:
        assert (headers["Content-Range"], body) == (f"bytes */{size}", b"")
        return
    first, last = first % size, last % size
    assert body == content[first : last + 1]
    expected = f"bytes {first}-{last}/{size}" if status == 206 else None
    assert headers["Content-Range"] == expected
    assert raw(hub.url, path, Range=range_, If_Range=headers["ETag"])[0] == status
    assert raw(hub.url, path, Range=range_, If_Range='"another"')[2] == content


def test_head_and_the_next_request_of_a_connection(hub: FakeHub) -> None:
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    for method, n_bytes in (("HEAD", 0), ("GET", 200_000), ("HEAD", 0)):
        ranges = {"Range": "bytes=5-9"} if method == "HEAD" else {}
        connection.request(method, f"/{REPO}/resolve/main/notes.txt", headers=ranges)
        response = connection.getresponse()
        assert (len(response.read()), response.headers["Content-Length"]) == (n_bytes, "200000")
    connection.close()
    assert [r.sent for r in hub.log.requests("notes.txt")] == [0, 200_000, 0]
    with pytest.raises(TimeoutError, match="1000000 bytes of"):
        hub.log.wait_until_sent("notes.txt", 1_000_000, timeout=0.01)


def test_what_is_no_address(hub: FakeHub) -> None:
    for path in ("/", "/api/whoami-v2", f"/api/models/{REPO}/nothing", f"/{REPO}/blob/main/x"):
        assert raw(hub.url, path)[0] == 404


def test_closing_ends_what_waits(folder: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "blobs")
    hub.add_commit(REPO, folder)
    idle = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    idle.request("GET", "/")
    idle.getresponse().read()
    assert idle.sock is not None
    hub.faults.add(Stall(after=10))
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("GET", f"/{REPO}/resolve/main/notes.txt")
    response = connection.getresponse()
    assert len(response.read(10)) == 10
    hub.close()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()
    idle.sock.settimeout(30)
    assert idle.sock.recv(1) == b""
    idle.close()
    with pytest.raises(ConnectionError):
        raw(hub.url, "/")


def test_a_failure_of_the_hub_itself_is_told(folder: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "blobs")
    hub.add_commit(REPO, folder)
    hub.entry(REPO, "notes.txt").blob.unlink()
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        raw(hub.url, f"/{REPO}/resolve/main/notes.txt")
    with pytest.raises(RuntimeError, match="itself failed") as caught, hub:
        pass
    assert isinstance(caught.value.__cause__, FileNotFoundError)
