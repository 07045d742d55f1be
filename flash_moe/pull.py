"""From a repository at the hub to something to pack, whose shards are downloaded on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import xxhash
from huggingface_hub import try_to_load_from_cache

from flash_moe.config import read_config
from flash_moe.convert import open_source
from flash_moe.errors import ConfigError, HubError, PackError, UnsupportedModelError
from flash_moe.hub.adopted import open_adopted
from flash_moe.hub.repository import RemoteFile, Repository
from flash_moe.hub.requests import read_range
from flash_moe.hub.shards import INCOMING, MAX_JOBS, HubShards
from flash_moe.store.checkpoint import Checkpoint
from flash_moe.store.destination import SIDE_FILES, check_destination
from flash_moe.store.index import INDEX_FILE, read_index
from flash_moe.store.journal import Journal
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
        shards: Where it gets its shards from; has ``download_bytes``.
    """

    source: PackSource
    shards: HubShards


def open_pull(
    repo: str,
    dst: Path,
    *,
    revision: str | None = None,
    bits: int | None = None,
    group_size: int | None = None,
    expert_bits: int | None = None,
    adopt: Path | None = None,
    jobs: int = 2,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> Pull:
    """Look at a repository, and at what an earlier run left in ``dst``; downloads small files.

    Args:
        revision: Branch, tag or commit. A run that is continued keeps the commit it began with.
        bits, group_size, expert_bits: As of :func:`flash_moe.convert.open_source`.
        adopt: ``packed_experts`` directory of the original Flash-MoE: its files are linked, and
            only the other weights are downloaded.
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
    asked, wanted = wanted_revision(repo, dst, revision, journal)
    remote = Repository(repo, wanted)
    incoming = dst / INCOMING
    try:
        checkpoint, places = stage(remote, incoming)
        source = _open(checkpoint, places, adopt, bits, group_size, expert_bits)
    except OSError as error:
        raise PackError("pull", f"{incoming}: {error.strerror or error}") from error
    origin = {"repo": repo, "revision": asked, "commit": remote.commit}
    needed = {shard for work in source.works for shard in work.shards}
    only = None if adopt is None else [e for work in source.works for e in work.entries]
    wanted_places = {place: places[place] for place in places if place in needed}
    shards = HubShards(wanted_places, checkpoint.tensors, incoming, origin, jobs, on_bytes, only)
    return Pull(source, shards)


def _open(
    checkpoint: Checkpoint,
    places: dict[Path, RemoteFile],
    adopt: Path | None,
    bits: int | None,
    group_size: int | None,
    expert_bits: int | None,
) -> PackSource:
    if adopt is None:
        return open_source(checkpoint, bits=bits, group_size=group_size, expert_bits=expert_bits)
    if any(option is not None for option in (bits, group_size, expert_bits)):
        raise ConfigError(
            "pull", "an adopted store keeps its bits: drop --bits, --group-size and --expert-bits"
        )
    return open_adopted(checkpoint, places, adopt)


def wanted_revision(
    repo: str, dst: Path, revision: str | None, journal: Journal | None
) -> tuple[str, str | None]:
    """What to ask the hub for: the name asked for, and the revision, or the commit of earlier.

    Args:
        journal: Of the partial store in ``dst``, if there is one.

    Raises:
        PackError: It is of another repository or revision.
    """
    asked = revision or "main"
    if journal is None:
        return asked, revision
    begun = journal.origin
    if begun.get("repo") != repo or (revision and begun.get("revision") != revision):
        was = f"{begun.get('repo', 'a local checkpoint')} at {begun.get('revision', '-')}"
        raise PackError(
            "pull",
            f"{dst} is a partial store of {was}, not of {repo} at {asked}",
            "Choose another destination, or delete it.",
        )
    return begun["revision"], begun["commit"]


def side_files(remote: Repository) -> list[RemoteFile]:
    """The small files of a repository that a pull fetches: config, tokenizer and the like."""
    return [
        file
        for name, file in remote.files.items()
        if "/" not in name and any(fnmatch(name, pattern) for pattern in SIDE_FILES)
    ]


def stage(
    remote: Repository,
    folder: Path,
    *,
    incoming: Path | None = None,
    only: Collection[str] | None = None,
) -> tuple[Checkpoint, dict[Path, RemoteFile]]:
    """Fetch config and tokenizer of a repository, and the headers of its shards.

    Args:
        folder: For the small files.
        incoming: Where the shards will lie, or ``None`` for the same folder.
        only: Names of the small files to fetch, of those there are; ``None`` is all of them.

    Returns:
        The checkpoint, and what each of its shards is at the hub.
    """
    for file in side_files(remote):
        if only is None or file.name in only:
            remote.fetch_small(file.name, folder, MAX_SIDE_BYTES)
    config = read_config(folder)
    names = shard_names(remote, folder)

    def place(name: str) -> Path:
        cached = try_to_load_from_cache(remote.name, name, revision=remote.commit)
        return Path(cached) if isinstance(cached, str) else (incoming or folder) / name

    places = {place(name): remote.files[name] for name in names}
    tensors = headers(remote, places, incoming or folder)
    noted = tuple(remote.files[name].noted for name in names)
    digest = xxhash.xxh3_128_hexdigest(repr((remote.name, remote.commit, noted)).encode())
    origin = Source("", remote.name, remote.commit, noted)
    return Checkpoint(folder, config, tensors, origin, digest), places


def headers(
    remote: Repository, places: dict[Path, RemoteFile], incoming: Path
) -> dict[str, TensorEntry]:
    """Every tensor, from the shards in the hub's cache and from the headers of the others.

    What lies in ``incoming`` may be damaged, so it is not asked: what the hub says of the file is
    compared before anything is read of it.
    """
    tensors: dict[str, TensorEntry] = {}
    away = {}
    for place, file in places.items():
        if place.parent != incoming and _size(place) == file.n_bytes:
            tensors.update(read_header(place))
        else:
            away[file.name] = place
    return tensors | remote.headers(list(away), away.__getitem__)


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


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


def disk_for(repo: str, revision: str | None = None) -> int | None:
    """Bytes of disk that pulling a repository takes at its peak, about; ``None`` if unknown.

    One look at the list of its files. What is not quantized yet counts with 4.5 of 16 bits.
    """
    try:
        remote = Repository(repo, revision, tries=0)
        config = remote.files["config.json"]
        size = config.n_bytes
        quantized = b'"quantization' in read_range(config.url, 0, min(size, 1 << 20), size)
    except (HubError, KeyError):
        return None
    sizes = sorted(
        remote.files[n].n_bytes for n in remote.files if fnmatch(n, "model*.safetensors")
    )
    share = 1.0 if quantized else 4.5 / 16
    return int(sum(sizes) * share) + sum(sizes[-2:]) if sizes else None
