"""Plan of a store, with sizes from the code that packs and pulls; reads no weights."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flash_moe.compat.division import divided_weights
from flash_moe.compat.dtypes import SAVED_AS
from flash_moe.compat.lazy_loading import QUANT_CONFIG_FILE
from flash_moe.compat.mlx_lm import model_classes
from flash_moe.config import ModelConfig, model_config, read_config
from flash_moe.errors import FlashMoEError, PackError
from flash_moe.hub.incoming import INCOMING, downloaded_bytes
from flash_moe.hub.metadata import auxiliary_files, fetch_metadata
from flash_moe.hub.pull import shards_left, wanted_revision
from flash_moe.hub.repository import Repository
from flash_moe.hub.shards import HubShards
from flash_moe.pack.auxiliary_files import auxiliary_paths
from flash_moe.pack.destination import check_destination
from flash_moe.pack.journal import Journal
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.shard_source import HEADERS_DIR, DeletedShards, ShardSource
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.sources.open_source import open_source
from flash_moe.pack.sources.store import slice_source
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.experts import ExpertLayer, PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.part import Part
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig
from flash_moe.store.safetensors_header import INDEX_FILE, TensorEntry, read_header

SMALLER = (3, 2)  # expert bits to try if a store is too large


@dataclass(frozen=True)
class Disk:
    """Disk usage of a store, in bytes.

    Attributes:
        path: Directory of the store.
        free: Free space on its disk now.
        store: Size of the complete store.
        needed: Peak of free space needed, beyond what an earlier run already wrote.
        deleting: The same if each shard of a local checkpoint is deleted after it is packed.
        download: Bytes to download from the hub.
        shards: Peak number of shards on the disk during a pull.
    """

    path: Path
    free: int
    store: int
    needed: int = 0
    deleting: int | None = None
    download: int = 0
    shards: int = 0

    @property
    def fits(self) -> bool:
        return self.needed <= self.free


@dataclass(frozen=True)
class Planned:
    """A model as its store is, or would be.

    Attributes:
        name: Repository or directory.
        commit: Commit of a repository, if known.
        kind: Source of the store: ``"mlx"``, ``"hf"`` or ``"flash-moe-original"``.
        state: State of the store: ``"complete"``, ``"partial"`` or ``"absent"``.
        model: Fields of the store's config.json.
        layers: MoE layers.
        resident: Resident weights.
        from_bits: Bits of the quantized experts to requantize.
        smaller: If the disk is too small: pairs of (expert bits, ``Disk.needed`` with them).
        part: The part of the model that the store holds; then all sizes are of this part, and
            ``resident`` has what mlx-lm's ``shard`` leaves to one machine.
        is_slice: True if the part is to be cut from a store on this disk.
    """

    name: str
    commit: str | None
    kind: str
    state: str
    model: ModelConfig
    layers: tuple[ExpertLayer, ...]
    resident: tuple[TensorSpec, ...]
    disk: Disk
    from_bits: tuple[int, ...] = ()
    smaller: tuple[tuple[int, int], ...] = ()
    part: Part | None = None
    is_slice: bool = False

    @property
    def machines(self) -> int:
        """Machines among which the model is divided."""
        return self.part.count if self.part else 1


def plan_repository(
    repo: str,
    dst: Path,
    *,
    revision: str | None = None,
    quantization: QuantizationConfig = AS_IT_IS,
    keep: bool = False,
    part: Part | None = None,
) -> Planned:
    """Plan a pull. Downloads config.json, the index and the headers of the shards.

    Args:
        dst: Directory of the store; files of an earlier pull count as downloaded.
        keep: Keep the tensors that mlx-lm does not load.
        part: The part to store.

    Raises:
        HubError: The repository is not accessible.
        PackError: ``dst`` holds something else.
        FlashMoEError: The model cannot be packed.
    """
    journal = check_destination(dst, frozenset({INCOMING}))
    _, wanted = wanted_revision(repo, dst, revision, journal)
    remote = Repository(repo, wanted)
    with tempfile.TemporaryDirectory(prefix="flash-moe-plan-") as folder:
        checkpoint, places = fetch_metadata(
            remote,
            Path(folder),
            incoming=dst / INCOMING,
            only=("config.json", INDEX_FILE, QUANT_CONFIG_FILE),
        )
        small = sum(file.n_bytes for file in auxiliary_files(remote))

        def disk(source: PackSource) -> Disk:
            needed = {place: places[place] for place in shards_left(source, None)}
            shards = HubShards(needed, checkpoint.tensors, dst / INCOMING, {})
            with contextlib.closing(shards):
                usage = _disk(source, dst, shards, small)
            remaining = shards_left(source, journal)
            left = sum(places[s].n_bytes - downloaded_bytes(s) for s in remaining)
            return replace(usage, download=left + small, shards=shards.peak_disk(source)[0])

        open_as = partial(open_source, checkpoint, keep=keep, part=part)
        return _planned(open_as, disk, quantization, repo, remote.commit, journal)


def plan_checkpoint(
    root: Path,
    dst: Path,
    *,
    quantization: QuantizationConfig = AS_IT_IS,
    keep: bool = False,
    part: Part | None = None,
) -> Planned:
    """Plan the packing of a checkpoint on this disk.

    Args:
        keep: Keep the tensors that mlx-lm does not load.
        part: The part to store.

    Raises:
        PackError: ``dst`` holds something else.
        FlashMoEError: ``root`` is not a checkpoint, or cannot be packed.
    """
    journal = check_destination(dst)
    checkpoint = local_checkpoint(root)
    small = sum(file.stat().st_size for file in auxiliary_paths(root))
    deleted = DeletedShards(checkpoint.shards, dst / HEADERS_DIR)

    def disk(source: PackSource) -> Disk:
        usage = _disk(source, dst, ShardSource(), small)
        if part is not None:  # the other parts need the shards
            return usage
        return replace(usage, deleting=_disk(source, dst, deleted, small).needed)

    open_as, origin = partial(open_source, checkpoint, keep=keep, part=part), checkpoint.origin
    return _planned(open_as, disk, quantization, origin.name, origin.revision, journal)


def plan_store(root: Path) -> Planned:
    """Describe a complete store.

    Raises:
        ManifestError: ``root`` is not a complete store.
        CorruptFileError: A resident file is damaged.
    """
    manifest = read_manifest(root)
    config = read_config(root)
    model_classes("plan", config)
    files = [root / r.file for r in manifest.resident if r.file.endswith(".safetensors")]
    entries = [entry for file in files for entry in read_header(file).values()]
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    return Planned(
        name=manifest.source.name,
        commit=manifest.source.revision,
        kind=manifest.source.kind,
        state="complete",
        model=model_config(config),
        layers=PackedExperts(root, manifest).layers,
        resident=_resident(config, entries, root, manifest.part),
        disk=Disk(root, _free(root), size),
        part=manifest.part,
    )


def plan_slice(root: Path, dst: Path, part: Part) -> Planned:
    """Plan the part that ``flash-moe slice`` cuts from a store on this disk.

    Raises:
        PackError: ``dst`` holds something else.
        FlashMoEError: ``root`` is not a complete store, or does not divide.
    """
    source = slice_source(root, part, check=False)
    small = sum(file.stat().st_size for file in auxiliary_paths(root))

    def disk(source: PackSource) -> Disk:
        return _disk(source, dst, ShardSource(), small)

    origin, journal = source.source, check_destination(dst)
    made = _planned(
        lambda quantization: source, disk, AS_IT_IS, origin.name, origin.revision, journal
    )
    return replace(made, is_slice=True)


def _resident(
    config: dict[str, Any],
    tensors: Iterable[TensorSpec | TensorEntry],
    root: Path,
    part: Part | None,
) -> tuple[TensorSpec, ...]:
    """Return the resident tensors of a store, or what one machine of several loads of them."""
    specs = tuple(TensorSpec(t.name, t.dtype, t.shape) for t in tensors)
    if part is None:
        return specs
    weights = divided_weights(config, specs, root, part.count)
    return tuple(TensorSpec(n, SAVED_AS[a.dtype], a.shape) for n, a in weights.items())


def _planned(
    open_as: Callable[[QuantizationConfig], PackSource],
    disk_of: Callable[[PackSource], Disk],
    quantization: QuantizationConfig,
    name: str,
    commit: str | None,
    journal: Journal | None,
) -> Planned:
    source = open_as(quantization)
    disk = disk_of(source)
    if journal is not None and journal.fingerprint not in ("", source.fingerprint):
        raise PackError(
            "plan",
            f"{disk.path} is a partial store of another source or with other settings",
            "Choose another destination, or delete it.",
        )
    smaller = []
    if not disk.fits and journal is None:
        for bits in SMALLER:
            with contextlib.suppress(FlashMoEError):  # not every width divides
                needed = disk_of(open_as(replace(quantization, expert_bits=bits))).needed
                if needed < disk.needed:
                    smaller.append((bits, needed))
    return Planned(
        name=name,
        commit=commit,
        kind=source.source.kind,
        state="absent" if journal is None else "partial",
        model=model_config(source.config),
        layers=source.layers,
        resident=_resident(source.config, source.resident, source.root, source.part),
        disk=disk,
        part=source.part,
        from_bits=source.from_bits,
        smaller=tuple(smaller),
    )


def _disk(source: PackSource, dst: Path, shards: ShardSource, small: int) -> Disk:
    files = StoreFiles(dst, source.layers, source.resident, source.kept)
    store = sum(map(files.bytes_of, [None, *range(len(source.layers))])) + small
    needed = files.missing_bytes() + small + shards.extra_disk(source, files)
    return Disk(dst, _free(dst), store, max(0, needed))


def existing(path: Path) -> Path:
    """Return the directory itself, or its nearest existing parent."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _free(path: Path) -> int:
    return shutil.disk_usage(existing(path)).free
