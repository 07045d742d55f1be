"""What can go wrong while pulling: each time the same command ends with the same store."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import constants

from flash_moe.errors import CorruptFileError, FlashMoEError, HubError, PackError
from flash_moe.hub import requests, retry
from flash_moe.hub.pull import open_pull
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE
from tests.hub.conftest import Checkpoints
from tests.support.directories import contents, differences
from tests.support.hub.fake_hub import FakeHub
from tests.support.hub.faults import Cut, Fault, Flip, NoRange, Resize, Stall, Status
from tests.support.hub.pulls import REPO, SHARDS, pull

ONE = "model-00003-of-00004.safetensors"


@pytest.fixture
def dst(hub: FakeHub, checkpoints: Checkpoints, tmp_path: Path) -> Path:
    hub.add_commit(REPO, checkpoints("mlx"))
    return tmp_path / "pulled"


PASSING: dict[str, list[Fault]] = {
    # No more than there are tries: one connection's end can be that of all, through the session.
    "cut anywhere": [Cut(pattern=SHARDS, times=5, seed=1)],
    "cut anywhere by reset": [Cut(pattern=SHARDS, times=5, seed=2, reset=True)],
    "cut at once": [Cut(pattern=SHARDS, times=3, after=0)],
    "small files cut": [Cut(pattern="*.json", times=4, seed=3)],
    "busy": [Status(pattern=SHARDS, times=5, status=503, retry_after=0)],
    "too many requests": [Status(pattern="*", times=4, status=429, retry_after=0)],
    "the listing fails": [Status(pattern="/api/*", times=4, status=500)],
    "flipped once": [Flip(pattern=ONE, times=1, offset=200_000)],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING.keys())
def test_what_passes_is_waited_for(
    hub: FakeHub, dst: Path, stores: Checkpoints, faults: list[Fault]
) -> None:
    hub.faults.add(*faults)
    pull(dst)
    assert differences(dst, stores("mlx")) == []


def test_a_cut_download_goes_on_where_it_was(hub: FakeHub, dst: Path) -> None:
    size = hub.entry(REPO, ONE).size
    hub.faults.add(Cut(pattern=ONE, after=150_000, times=1))
    pull(dst)
    assert hub.log.sent(ONE) < size + 150_000  # and the header


def test_it_waits_as_long_as_the_hub_says(
    hub: FakeHub, dst: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "WAITS", (0.5,) * 5)
    monkeypatch.setattr(retry, "_reported_until", 0.0)
    waits: list[float] = []

    def wait(self: object, seconds: float | None = None) -> bool:
        waits.append(seconds or 0)
        return False

    monkeypatch.setattr("threading.Event.wait", wait)
    waiter = retry.Retry()
    hub.faults.add(Status(pattern="x", status=503, retry_after=7, times=None))
    for expected in (7, 7, 7, 7, 7):
        try:
            with remote(hub).open_range(0, 1):
                pytest.fail("503 expected")
        except retry.failures() as error:
            waiter.wait_after(error)
        assert waits[-1] == expected
    with pytest.raises(HubError, match="answers 503"):
        waiter.wait_after(error_of(hub))
    (said,) = caplog.messages  # once, not for each thread
    assert "answers 503" in said
    assert said.endswith("; retrying in 7 s")


def remote(hub: FakeHub) -> requests.RemoteFile:
    return requests.RemoteFile("x", 1, None, "", f"{hub.url}/{REPO}/resolve/main/x")


def error_of(hub: FakeHub) -> Exception:
    try:
        with remote(hub).open_range(0, 1):
            raise AssertionError("503 expected")
    except retry.failures() as error:
        return error


LASTING: dict[str, tuple[Fault, str]] = {
    "the server is down": (Status(pattern=SHARDS, status=503, times=None), "answers 503"),
    "always cut at the same byte": (Cut(pattern=ONE, after=0, times=None), "cannot be reached"),
    "other bytes": (Flip(pattern=ONE, offset=200_000), "with hash"),
    "a shorter file": (Resize(pattern=ONE, by=-1), "expected bytes .*, got"),
    "a longer file": (Resize(pattern=ONE, by=1), "expected bytes .*, got"),
    "no ranges": (NoRange(pattern=ONE), "all of it"),
    "gone": (Status(pattern=ONE, status=404, times=None), "hub"),
    "forbidden": (Status(pattern=ONE, status=403, times=None), "hf auth login"),
}


@pytest.mark.parametrize(("fault", "message"), LASTING.values(), ids=LASTING.keys())
def test_what_stays_is_an_error_and_the_next_run_continues(
    hub: FakeHub, dst: Path, stores: Checkpoints, fault: Fault, message: str
) -> None:
    found = open_pull(REPO, dst)
    hub.faults.add(fault)
    del found
    with pytest.raises((HubError, CorruptFileError), match=message) as caught:
        pull(dst)
    assert isinstance(caught.value, FlashMoEError)
    hub.faults.clear()
    pull(dst)
    assert differences(dst, stores("mlx")) == []


def test_a_stalled_connection_is_given_up(
    hub: FakeHub, dst: Path, stores: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "TIMEOUT", 0.5)
    hub.faults.add(Stall(pattern=ONE, after=100_000))
    pull(dst)
    assert differences(dst, stores("mlx")) == []


def test_a_shard_that_changes_at_the_same_commit(
    hub: FakeHub, dst: Path, stores: Checkpoints, checkpoints: Checkpoints
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull(dst, _interrupt)
    content = bytearray((checkpoints("mlx") / ONE).read_bytes())
    content[-1] ^= 1
    hub.replace_file(REPO, ONE, bytes(content))
    with pytest.raises(PackError, match="another source"):
        pull(dst)
    hub.replace_file(REPO, ONE, (checkpoints("mlx") / ONE).read_bytes())
    pull(dst)
    assert differences(dst, stores("mlx")) == []


def _interrupt(what: str, n_bytes: int) -> None:
    raise KeyboardInterrupt


def test_a_gated_repository(
    hub: FakeHub, dst: Path, stores: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gate(REPO, "hf_right")
    with pytest.raises(HubError, match=r"gated.*hf auth login"):
        pull(dst)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="gated"):
        pull(dst)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    pull(dst)
    assert differences(dst, stores("mlx")) == []
    tokens = {request.token for request in hub.log.requests(where="cdn")}
    assert tokens == {None}, "the token is for the hub alone"


def test_an_unknown_repository_and_no_hub_at_all(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="no such repository"):
        open_pull("org/other", tmp_path / "a")
    hub.close()
    with pytest.raises(HubError, match="cannot be reached"):
        open_pull(REPO, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("damage", ["zeros", "one bit", "the header of another", "of a part"])
def test_a_damaged_shard_of_an_earlier_run_is_fetched_again(
    hub: FakeHub, dst: Path, stores: Checkpoints, checkpoints: Checkpoints, damage: str
) -> None:
    """Right size, wrong bytes, as after a power cut."""
    whole = (checkpoints("mlx") / ONE).read_bytes()
    found = bytearray(whole)
    if damage == "zeros":
        found[:] = bytes(len(whole))
    elif damage == "one bit":
        found[-1] ^= 1
    elif damage == "the header of another":
        found[:10_000] = (checkpoints("mlx") / ONE.replace("3", "2", 1)).read_bytes()[:10_000]
    else:
        found[1000:2000] = bytes(1000)
        del found[-1000:]
    (dst / "incoming").mkdir(parents=True)
    name = f"{ONE}.part" if damage == "of a part" else ONE
    (dst / "incoming" / name).write_bytes(found)
    pull(dst)
    assert differences(dst, stores("mlx")) == []


def test_a_shard_is_on_the_disk_before_it_has_its_name(
    hub: FakeHub, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    named: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note(fd: int) -> None:
        fsync(fd)
        synced.add(os.fstat(fd).st_ino)

    def check(old: Path, new: Path) -> None:
        if str(old).endswith(".safetensors.part"):
            assert os.stat(old).st_ino in synced
            named.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", check)
    pull(dst)
    assert ONE in named


def test_every_file_of_a_store_is_synced_before_its_manifest(
    hub: FakeHub, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync, replace = os.fsync, os.replace
    unsynced: list[str] = []

    def note(fd: int) -> None:
        fsync(fd)
        synced.add(os.fstat(fd).st_ino)

    def check(old: Path, new: Path) -> None:
        if Path(new).name == MANIFEST_FILE:
            found = (f for f in [*dst.iterdir(), *dst.glob("experts/*")] if f.name != PARTIAL_FILE)
            unsynced.extend(f.name for f in found if f.stat().st_ino not in synced)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", check)
    pull(dst)
    assert unsynced == ["incoming"]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_said_before_anything_large_is_downloaded(
    hub: FakeHub, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 100_000))
    with pytest.raises(PackError, match="free disk"):
        pull(dst)
    assert hub.log.sent(SHARDS) <= 4 * 150_000


@pytest.mark.parametrize("after", range(0, 60, 3))
def test_the_disk_fills_up(
    hub: FakeHub, dst: Path, stores: Checkpoints, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Every write to a file fails from some write on, as on a full disk."""
    whole, writes = os.pwrite, [0]

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        writes[0] += 1
        if writes[0] > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(PackError, match=r"No space left|the disk is full"):
        pull(dst)
    monkeypatch.setattr(os, "pwrite", whole)
    pull(dst)
    assert differences(dst, stores("mlx")) == []
    assert not [name for name in contents(dst) if "incoming" in name or name.endswith(".tmp")]
