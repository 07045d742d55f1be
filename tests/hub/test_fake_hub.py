"""The fake hub and the real huggingface_hub: listings, downloads, tokens and what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from safetensors import safe_open

from tests.support.hub.checkpoints import write_checkpoint
from tests.support.hub.client import go_online, start_python
from tests.support.hub.fake_hub import FakeHub

REPO = "someone/a-model"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mlx checkpoint of three shards and a file in a folder. Do not change it."""
    path = write_checkpoint(tmp_path_factory.mktemp("hub") / "model", "mlx", 3)
    (path / "docs" / "more").mkdir(parents=True)
    (path / "docs" / "more" / "notes with space.md").write_text("# Notes\n")
    return path


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    go_online(monkeypatch, tmp_path / "home")
    with FakeHub(tmp_path / "blobs") as hub:
        hub.add_commit(REPO, folder)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    return {
        name: file.read_bytes()
        for name, file in files.items()
        if file.is_file() and not name.startswith(".cache/")
    }


def test_listings(hub: FakeHub, folder: Path) -> None:
    expected = contents(folder)
    api = HfApi(endpoint=hub.url)
    hub.page_size = 3
    items = list(api.list_repo_tree(REPO, recursive=True))
    n_pages = -(-len(items) // 3)
    assert [r.status for r in hub.log.requests("/api/*/tree/main")] == [200] * n_pages
    assert n_pages > 3
    files = {item.path: item for item in items if isinstance(item, RepoFile)}
    folders = {item.path for item in items if isinstance(item, RepoFolder)}
    assert files.keys() == expected.keys()
    assert folders == {"docs", "docs/more"}
    for path, content in expected.items():
        lfs = files[path].lfs
        assert files[path].size == len(content)
        assert files[path].xet_hash is None
        assert (lfs is None) == (not path.endswith(".safetensors"))
        if lfs is None:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            assert files[path].blob_id == git
        else:
            assert (lfs.size, lfs.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    info = api.model_info(REPO, files_metadata=True)
    assert info.siblings is not None
    siblings = {s.rfilename: (s.size, s.blob_id, s.lfs) for s in info.siblings}
    assert siblings == {path: (f.size, f.blob_id, f.lfs) for path, f in files.items()}
    plain = api.model_info(REPO).siblings
    assert plain is not None
    assert {s.rfilename: (s.size, s.lfs) for s in plain} == dict.fromkeys(files, (None, None))
    below = {item.path for item in api.list_repo_tree(REPO, "docs")}
    assert below == {"docs/more"}
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "no/such/folder"))
    found = api.get_paths_info(REPO, [SHARD, "nothing"])
    assert [item.path for item in found] == [SHARD]


def test_commits_branches_and_tags(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url)
    first = api.model_info(REPO).sha
    assert first is not None
    assert hub.add_commit(REPO, folder) == first
    hub.add_tag(REPO, "v1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("new")
    second = hub.add_commit(REPO, other)
    third = hub.add_commit(REPO, other, branch="feature/x")
    assert (len(second), second == first, third) == (40, False, second)
    refs = api.list_repo_refs(REPO)
    assert {b.name: b.target_commit for b in refs.branches} == {"main": second, "feature/x": third}
    assert {t.name: t.target_commit for t in refs.tags} == {"v1": first}
    assert api.model_info(REPO, revision="feature/x").sha == second
    (other / "config.json").write_text("edited later")
    old = (folder / "config.json").read_text()
    for revision, content in ((first, old), ("v1", old), ("main", "new"), ("feature/x", "new")):
        target = tmp_path / revision.replace("/", "-")
        file = hf_hub_download(
            REPO, "config.json", revision=revision, endpoint=hub.url, local_dir=target
        )
        assert Path(file).read_text() == content


def test_download_of_everything(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    snapshot_download(REPO, endpoint=hub.url, local_dir=tmp_path / "copy", max_workers=3)
    expected = contents(folder)
    assert contents(tmp_path / "copy") == expected
    hub.log.wait_until_idle()
    for path, content in expected.items():
        assert [r.method for r in hub.log.requests(path)] == ["HEAD", "GET"]
        assert hub.log.sent(path) == len(content)
    check = HfApi(endpoint=hub.url).verify_repo_checksums(REPO, local_dir=tmp_path / "copy")
    assert (check.checked_count, check.mismatches, check.missing_paths) == (len(expected), [], [])


def test_files_in_lfs_are_at_the_cdn(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    hub.gate(REPO, "secret")
    entry = hub.entry(REPO, SHARD)
    url = hf_hub_url(REPO, SHARD, endpoint=hub.url)
    metadata = get_hf_file_metadata(url, token="secret")
    assert (metadata.etag, metadata.size) == (entry.sha256, (folder / SHARD).stat().st_size)
    assert metadata.commit_hash == HfApi(endpoint=hub.url).model_info(REPO).sha
    assert metadata.xet_file_data is None
    assert not metadata.location.startswith(hub.url)
    hub.log.clear()
    for name in (SHARD, "config.json"):
        hf_hub_download(REPO, name, endpoint=hub.url, token="secret", local_dir=tmp_path / "m")
    seen = [(r.where, r.method, r.token, r.status) for r in hub.log.requests(SHARD)]
    assert seen == [("hub", "HEAD", "secret", 302), ("cdn", "GET", None, 200)]
    seen = [(r.where, r.method, r.token, r.status) for r in hub.log.requests("config.json")]
    assert seen == [("hub", "HEAD", "secret", 200), ("hub", "GET", "secret", 200)]


@pytest.mark.parametrize(
    ("repo", "file", "revision", "token", "error", "status"),
    [
        ("someone/nothing", SHARD, "main", None, RepositoryNotFoundError, 401),
        ("someone/nothing", SHARD, "main", "known", RepositoryNotFoundError, 404),
        ("someone/private", SHARD, "main", "known", RepositoryNotFoundError, 404),
        ("someone/gated", SHARD, "main", None, GatedRepoError, 401),
        ("someone/gated", "config.json", "main", "known", GatedRepoError, 403),
        (REPO, SHARD, "nothing", None, RevisionNotFoundError, 404),
        (REPO, "nothing", "main", None, RemoteEntryNotFoundError, 404),
        (REPO, SHARD, "main", "revoked", HfHubHTTPError, 401),
    ],
)
def test_what_is_not_to_be_had(
    hub: FakeHub,
    folder: Path,
    tmp_path: Path,
    repo: str,
    file: str,
    revision: str,
    token: str | None,
    error: type[HfHubHTTPError],
    status: int,
) -> None:
    for name in ("someone/private", "someone/gated"):
        hub.add_commit(name, folder)
    hub.make_private("someone/private", "right")
    hub.gate("someone/gated", "right")
    hub.invalid_tokens = frozenset({"revoked"})
    asked: dict[str, Any] = {"revision": revision, "endpoint": hub.url, "local_dir": tmp_path / "m"}
    with pytest.raises(HfHubHTTPError) as caught:
        hf_hub_download(repo, file, token=token, **asked)
    assert type(caught.value) is error
    assert caught.value.response.status_code == status
    if repo in ("someone/private", "someone/gated"):
        path = hf_hub_download(repo, file, token="right", **asked)
        assert Path(path).read_bytes() == (folder / file).read_bytes()


def test_what_a_gated_repository_tells_everyone(hub: FakeHub) -> None:
    hub.gate(REPO, "right")
    api = HfApi(endpoint=hub.url)
    assert api.model_info(REPO).gated == "manual"
    assert any(item.path == SHARD for item in api.list_repo_tree(REPO))
    with pytest.raises(GatedRepoError):
        api.auth_check(REPO)
    api.auth_check(REPO, token="right")
    hub.make_private(REPO, "right")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)
    assert api.model_info(REPO, token="right").private


def test_headers_of_shards_by_range(hub: FakeHub, folder: Path) -> None:
    metadata = HfApi(endpoint=hub.url).get_safetensors_metadata(REPO)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert metadata.weight_map == index["weight_map"]
    for name, file in metadata.files_metadata.items():
        with safe_open(str(folder / name), "np") as reader:
            shapes = {key: reader.get_slice(key).get_shape() for key in reader.keys()}  # noqa: SIM118
        assert {key: tensor.shape for key, tensor in file.tensors.items()} == shapes
        (read,) = hub.log.requests(name, where="cdn")
        assert (read.range, read.status, read.sent) == ("bytes=0-100000", 206, 100_001)


SNAPSHOT = "import huggingface_hub as h; h.snapshot_download({!r}, local_dir={!r}, revision={!r})"


def test_processes_that_read_the_environment(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    commit, copy = hub.add_commit(REPO, folder), tmp_path / "copy"
    code = SNAPSHOT.format(REPO, str(copy), commit)
    run = start_python(code, hub.url, tmp_path / "home")
    assert (run.communicate()[1], run.returncode) == ("", 0)
    assert contents(copy) == contents(folder)
    hub.log.clear()
    run = start_python(code, hub.url, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert (run.wait(), hub.log.requests()) == (0, [])
    (copy / SHARD).unlink()
    run = start_python(code, hub.url, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert "LocalEntryNotFoundError" in run.communicate()[1]
    assert (run.returncode, hub.log.requests()) == (1, [])
