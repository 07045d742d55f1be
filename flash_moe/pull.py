"""From a repository at the hub to something to pack, whose shards are downloaded on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import xxhash
from huggingface_hub import try_to_load_from_cache

from flash_moe.config import read_config
from flash_moe.convert import open_source
from flash_moe.errors import ConfigError, HubError, PackError, UnsupportedModelError
from flash_moe.hub.repository import RemoteFile, Repository
from flash_moe.hub.shards import INCOMING, MAX_JOBS, HubShards
from flash_moe.store.checkpoint import Checkpoint
from flash_moe.store.destination import SIDE_FILES, check_destination
from flash_moe.store.index import INDEX_FILE, read_index
from flash_moe.store.manifest import Source
from flash_moe.store.safetensors_header import TensorEntry, read_header
from flash_moe.store.source import PackSource

# A tokenizer of 250,000 tokens takes 20 MB; weights in such files are none of ours.
MAX_SIDE_BYTES = 200_000_000


@dataclass(frozen=True)
class Pull:
    """A store to be made from the hub.

    Attributes:
        source: What to give the packer.
        shards: Where it gets its shards from.
        download_bytes: Of the shards that are needed.
    """

    source: PackSource
    shards: HubShards
    download_bytes: int


def open_pull(
    repo: str,
    dst: Path,
    *,
    revision: str | None = None,
    bits: int | None = None,
    group_size: int | None = None,
    expert_bits: int | None = None,
    jobs: int = 2,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> Pull:
    """Look at a repository, and at what an earlier run left in ``dst``; downloads small files.

    Args:
        revision: Branch, tag or commit. A run that is continued keeps the commit it began with.
        bits, group_size, expert_bits: As of :func:`flash_moe.convert.open_source`.
        jobs: Shards on the disk at a time.
        on_bytes: Told of bytes of shards downloaded, in several threads.

    Raises:
        HubError: The repository cannot be had.
        PackError: ``dst`` holds something else.
        FlashMoEError: It cannot be packed.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise ConfigError("pull", f"jobs: expected 1 to {MAX_JOBS}, got {jobs}")
    journal = check_destination(dst, frozenset({INCOMING}))
    asked = revision or "main"
    if journal is not None:
        begun = journal.origin
        if begun.get("repo") != repo or (revision and begun.get("revision") != revision):
            was = f"{begun.get('repo', 'a local checkpoint')} at {begun.get('revision', '-')}"
            raise PackError(
                "pull",
                f"{dst} is a partial store of {was}, not of {repo} at {asked}",
                "Choose another destination, or delete it.",
            )
        asked, revision = begun["revision"], begun["commit"]
    remote = Repository(repo, revision)
    incoming = dst / INCOMING
    try:
        checkpoint, places = stage(remote, incoming)
        source = open_source(checkpoint, bits=bits, group_size=group_size, expert_bits=expert_bits)
    except OSError as error:
        raise PackError("pull", f"{incoming}: {error.strerror or error}") from error
    origin = {"repo": repo, "revision": asked, "commit": remote.commit}
    shards = HubShards(places, checkpoint.tensors, incoming, origin, jobs, on_bytes)
    needed = {shard for work in source.works for shard in work.shards}
    return Pull(source, shards, sum(places[shard].n_bytes for shard in needed))


def stage(remote: Repository, folder: Path) -> tuple[Checkpoint, dict[Path, RemoteFile]]:
    """Fetch config and tokenizer of a repository, and the headers of its shards.

    Args:
        folder: For the small files; the shards will lie there too.

    Returns:
        The checkpoint, and what each of its shards is at the hub.
    """
    for name in remote.files:
        if "/" not in name and any(fnmatch(name, pattern) for pattern in SIDE_FILES):
            remote.fetch_small(name, folder, MAX_SIDE_BYTES)
    config = read_config(folder)
    names = shard_names(remote, folder)

    def place(name: str) -> Path:
        cached = try_to_load_from_cache(remote.name, name, revision=remote.commit)
        return Path(cached) if isinstance(cached, str) else folder / name

    places = {place(name): remote.files[name] for name in names}
    tensors = headers(remote, places)
    noted = tuple(remote.files[name].noted for name in names)
    digest = xxhash.xxh3_128_hexdigest(repr((remote.name, remote.commit, noted)).encode())
    origin = Source("", remote.name, remote.commit, noted)
    return Checkpoint(folder, config, tensors, origin, digest), places


def headers(remote: Repository, places: dict[Path, RemoteFile]) -> dict[str, TensorEntry]:
    """Every tensor, from the shards that are on this disk and from the headers of the others."""
    tensors: dict[str, TensorEntry] = {}
    away = {}
    for place, file in places.items():
        if place.exists() and place.stat().st_size == file.n_bytes:
            tensors.update(read_header(place))
        else:
            away[file.name] = place
    return tensors | remote.headers(list(away), away.__getitem__)


def shard_names(remote: Repository, folder: Path) -> list[str]:
    """The shards of a repository: those that its index names, or all of them without an index.

    Raises:
        HubError: The index names a file that is not there.
        UnsupportedModelError: There are none.
    """
    shards = sorted(name for name in remote.files if fnmatch(name, "model*.safetensors"))
    shards = [name for name in shards if "/" not in name]
    if (folder / INDEX_FILE).is_file():
        named = sorted(set(read_index(folder / INDEX_FILE).values()))
        missing = [name for name in named if name not in remote.files]
        if missing:
            raise HubError("hub", f"{remote.name}: the index names {missing[0]}, which is missing")
        shards = named
    if not shards:
        raise UnsupportedModelError(
            "pull",
            f"{remote.name} has no model*.safetensors",
            "Is it a model for MLX or transformers?",
        )
    return shards
