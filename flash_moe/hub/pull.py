"""Pull of a repository on the hub: a source for the packer, downloaded shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from flash_moe.errors import ConfigError, HubError, PackError
from flash_moe.files.lock import locked
from flash_moe.hub.adopted import open_adopted
from flash_moe.hub.incoming import INCOMING, MAX_SHARDS_ON_DISK, SHARDS_ON_DISK, check_incoming
from flash_moe.hub.metadata import fetch_metadata
from flash_moe.hub.repository import Repository
from flash_moe.hub.retry import Retry
from flash_moe.hub.shards import HubShards
from flash_moe.pack.destination import check_destination
from flash_moe.pack.journal import Journal, read_journal
from flash_moe.pack.sources.base import PackSource, check_adopted
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import MANIFEST_FILE, is_store, read_manifest
from flash_moe.store.part import Part
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig


@dataclass(frozen=True)
class Pull:
    """A pull that is ready to run.

    Attributes:
        source: Source for the packer.
        shards: Shard source for the packer.
        download_bytes: Bytes of the shards left to pack, including those already downloaded.
    """

    source: PackSource
    shards: HubShards
    download_bytes: int


def open_pull(
    repo: str,
    dst: Path,
    *,
    revision: str | None = None,
    quantization: QuantizationConfig = AS_IT_IS,
    adopt: Path | None = None,
    keep: bool = False,
    part: Part | None = None,
    max_shards: int = SHARDS_ON_DISK,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> Pull:
    """Open a pull, new or continued; downloads small files and headers.

    Args:
        revision: Branch, tag or commit. A continued pull keeps its first commit.
        adopt: ``packed_experts`` directory of the original Flash-MoE: its files are linked, and
            only the other weights are downloaded.
        keep: Keep the tensors that mlx-lm does not load.
        part: Store only this part of every expert; each shard is still downloaded whole.
        max_shards: Shards on the disk at a time.
        on_bytes: Called with the bytes of shards downloaded, from several threads.

    Raises:
        HubError: The repository is not accessible.
        PackError: ``dst`` holds something else.
        FlashMoEError: The model cannot be packed.
    """
    if not 1 <= max_shards <= MAX_SHARDS_ON_DISK:
        raise ConfigError(
            "pull", f"max_shards: expected 1 to {MAX_SHARDS_ON_DISK}, got {max_shards}"
        )
    if adopt is not None:  # fail before any request
        check_adopted(quantization, part)
    journal = check_destination(dst, frozenset({INCOMING}))
    incoming = dst / INCOMING
    if journal is None:
        check_incoming(incoming)
    asked, wanted = wanted_revision(repo, dst, revision, journal)
    remote = Repository(repo, wanted)
    try:
        checkpoint, places = fetch_metadata(remote, incoming)
        checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, asked=asked))
        source = (
            open_source(checkpoint, quantization, keep=keep, part=part)
            if adopt is None
            else open_adopted(checkpoint, places, adopt, keep=keep)
        )
    except OSError as error:
        raise PackError("pull", f"{incoming}: {error.strerror or error}") from error
    origin = {"repo": repo, "revision": asked, "commit": remote.commit}
    only = None if adopt is None else [e for step in source.steps for e in step.entries]
    wanted_places = {place: places[place] for place in places if place in source.shards}
    shards = HubShards(
        wanted_places, checkpoint.tensors, incoming, origin, max_shards, on_bytes, only
    )
    done = source.shards - shards_left(source, journal)
    remaining = shards.download_bytes - sum(places[shard].n_bytes for shard in done)
    return Pull(source, shards, shards.download_bytes if only is not None else remaining)


def shards_left(source: PackSource, journal: Journal | None) -> Set[Path]:
    """Return the shards that a pull, or the rest of one, needs."""
    if journal is None:
        return source.shards
    left = (s for s in source.steps if not journal.is_done(source.number_of(s.layer), s.shards))
    return {shard for step in left for shard in step.shards}


def pulled_already(
    repo: str,
    dst: Path,
    *,
    revision: str | None = None,
    adopt: bool = False,
    keep: bool = False,
    part: Part | None = None,
    quantization: QuantizationConfig = AS_IT_IS,
) -> str | None:
    """Return the commit of the store in ``dst`` if it is complete and up to date.

    Args:
        adopt: True if the pull adopts record files.
        keep: True if the pull keeps the tensors that mlx-lm does not load.
        part: The part that the pull stores.

    Returns:
        ``None`` if there is no complete store.

    Raises:
        PackError: The store has another repository, commit or settings.
        ManifestError: The store is damaged.
        HubError: The revision cannot be resolved.
    """
    if not (dst / MANIFEST_FILE).is_file() or read_journal(dst) is not None:
        return None
    manifest = read_manifest(dst)
    origin, unused = manifest.source, manifest.unused
    lacks = keep and unused is not None and unused.dropped
    if origin.name != repo or origin.revision is None:
        other = origin.name
    elif manifest.part != part:
        other = f"part {manifest.part}" if manifest.part else "the whole model"
    elif (
        origin.quantization != quantization
        or (origin.kind == "flash-moe-original") != adopt
        or lacks
    ):
        other = "other settings"
    elif revision == origin.revision or (
        (commit := Repository(repo, revision).commit) == origin.revision
    ):
        return origin.revision
    else:
        asked = f" ({origin.asked})" if origin.asked else ""
        now = f"{revision or 'main'} is now {commit[:12]}"
        other = f"commit {origin.revision[:12]}{asked}, and {now}"
    raise PackError(
        "pull",
        f"{dst} is already a complete store of {other}",
        "Name another directory, or delete it first with flash-moe rm.",
    )


@contextmanager
def working_on(dst: Path) -> Iterator[None]:
    """Lock a destination, and remove the downloads of a pull that was refused.

    Raises:
        PackError: Another process uses the directory, or it cannot be created.
    """
    with locked(dst):
        incoming = dst / INCOMING
        existed = incoming.exists()  # from an earlier run, or a directory of the user
        try:
            yield
        finally:
            if not existed and not is_store(dst):  # so no shard was started
                shutil.rmtree(incoming, ignore_errors=True)


def wanted_revision(
    repo: str, dst: Path, revision: str | None, journal: Journal | None
) -> tuple[str, str | None]:
    """Return the requested revision, and the revision to pull: a continued pull keeps its commit.

    Args:
        journal: Journal of the partial store in ``dst``, if there is one.

    Raises:
        PackError: The partial store has another repository or revision.
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


def estimate_disk(repo: str, revision: str | None = None) -> int | None:
    """Estimate the peak disk usage of a pull in bytes; ``None`` if unknown.

    Uses the file list only. Weights that are not quantized yet count as 4.5 of 16 bits.
    """
    try:
        remote = Repository(repo, revision, tries=0)
        config = remote.files["config.json"]
        head = config.read(0, min(config.n_bytes, 1 << 20), Retry(tries=0))
        quantized = b'"quantization' in head
    except (HubError, KeyError):
        return None
    sizes = sorted(
        remote.files[n].n_bytes for n in remote.files if fnmatch(n, "model*.safetensors")
    )
    share = 1.0 if quantized else 4.5 / 16
    return int(sum(sizes) * share) + sum(sizes[-2:]) if sizes else None
