"""Metadata download of a repository: its small files and the headers of its shards."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

import xxhash
from huggingface_hub import try_to_load_from_cache

from flash_moe.config import model_config, read_config
from flash_moe.errors import HubError, UnsupportedModelError
from flash_moe.hub.repository import Repository
from flash_moe.hub.requests import RemoteFile
from flash_moe.pack.auxiliary_files import AUXILIARY_FILES
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.store.experts import merge_headers
from flash_moe.store.manifest_entries import Source
from flash_moe.store.safetensors_header import INDEX_FILE, TensorEntry, read_header, read_index

# A tokenizer with 250,000 tokens takes 20 MB; larger files are not metadata.
MAX_AUXILIARY_BYTES = 200_000_000


def auxiliary_files(remote: Repository) -> list[RemoteFile]:
    """Return the small files that a pull fetches: config, tokenizer and others."""
    return [
        file
        for name, file in remote.files.items()
        if "/" not in name and any(fnmatch(name, pattern) for pattern in AUXILIARY_FILES)
    ]


def fetch_metadata(
    remote: Repository,
    folder: Path,
    *,
    incoming: Path | None = None,
    only: Collection[str] | None = None,
) -> tuple[Checkpoint, dict[Path, RemoteFile]]:
    """Fetch config and tokenizer of a repository, and the headers of its shards.

    Args:
        folder: Directory for the small files.
        incoming: Download directory of the shards, or ``None`` for the same folder.
        only: Names of the small files to fetch; ``None`` fetches all.

    Returns:
        The checkpoint, and the path of each shard with its file on the hub.
    """
    if "config.json" in remote.files:  # first, to refuse a model without experts at once
        remote.fetch_small("config.json", folder, MAX_AUXILIARY_BYTES)
        model_config(read_config(folder))
    for file in auxiliary_files(remote):
        if only is None or file.name in only:
            remote.fetch_small(file.name, folder, MAX_AUXILIARY_BYTES)
    config = read_config(folder)
    index = folder / INDEX_FILE
    indexed = read_index(index) if index.is_file() else {}
    names = shard_names(remote, indexed)

    def place(name: str) -> Path:
        cached = try_to_load_from_cache(remote.name, name, revision=remote.commit)
        return Path(cached) if isinstance(cached, str) else (incoming or folder) / name

    places = {place(name): remote.files[name] for name in names}
    tensors = merge_headers(remote.name, headers(remote, places, incoming or folder), indexed)
    files = tuple(remote.files[name].source_file for name in names)
    digest = xxhash.xxh3_128_hexdigest(repr((remote.name, remote.commit, files)).encode())
    origin = Source("", remote.name, remote.commit, files)
    return Checkpoint(folder, config, tensors, origin, digest), places


def headers(
    remote: Repository, places: Mapping[Path, RemoteFile], incoming: Path
) -> dict[str, dict[str, TensorEntry]]:
    """Return the tensors of each shard, from files in the hub's cache or from remote headers.

    Files in ``incoming`` may be damaged, so they are not read here: a download is compared with
    the hub's hash before it is read.
    """
    found: dict[str, dict[str, TensorEntry]] = {}
    absent = {}
    for place, file in places.items():
        cached = place.parent != incoming and place.is_file()
        if cached and place.stat().st_size == file.n_bytes:
            found[file.name] = read_header(place)
        else:
            absent[file.name] = place
    return found | remote.headers(list(absent), absent.__getitem__)


def shard_names(remote: Repository, indexed: Mapping[str, str]) -> list[str]:
    """Return the shards that the index of a repository names, or without an index all of them.

    Args:
        indexed: Tensor name to the name of its shard; empty without an index.

    Raises:
        HubError: The index names a missing file.
        UnsupportedModelError: There are no shards.
    """
    if indexed:
        shards = sorted(set(indexed.values()))
        missing = [name for name in shards if name not in remote.files]
        if missing:
            raise HubError("hub", f"{remote.name}: the index names {missing[0]}, which is missing")
        return shards
    shards = sorted(name for name in remote.files if fnmatch(name, "model*.safetensors"))
    shards = [name for name in shards if "/" not in name]
    if not shards:
        raise UnsupportedModelError(
            "pull",
            f"{remote.name} has no model*.safetensors",
            "Is it a model for MLX or transformers?",
        )
    return shards
