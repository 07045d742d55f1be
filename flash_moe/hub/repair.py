"""Repair of a pulled store: fetches only the tensors of its damaged files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flash_moe.errors import CorruptFileError, PackError
from flash_moe.files.atomic import write_json
from flash_moe.hub.incoming import INCOMING
from flash_moe.hub.metadata import fetch_metadata
from flash_moe.hub.repository import Repository
from flash_moe.hub.shards import HubShards
from flash_moe.pack.packer import rewrite
from flash_moe.pack.sources.base import PackSource, as_older_versions
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import MANIFEST_FILE, Manifest, file_sizes, read_manifest


@dataclass(frozen=True)
class Repair:
    """A repair that is ready to run.

    Attributes:
        source: Source with the steps that write the damaged files.
        shards: Shard source for them; has ``download_bytes``.
        damaged: Names of the files to rewrite.
    """

    root: Path
    manifest: Manifest
    source: PackSource
    shards: HubShards
    damaged: frozenset[str]

    def run(self, on_progress: Callable[[str, int], None] | None = None) -> None:
        """Rewrite the damaged files. If interrupted, the same repair continues with the rest.

        Raises:
            PackError: A file cannot be written.
            CorruptFileError: The hub sent bytes that differ from the packed ones.
            FlashMoEError: A download failed.
        """
        weights = file_sizes(self.manifest)
        for name in self.damaged & weights.keys():
            # A damaged file is useless, and its space may be needed.
            (self.root / name).unlink(missing_ok=True)
        manifest = rewrite(
            self.source, self.root, self.manifest, self.damaged, on_progress, self.shards
        )
        made_from = self.manifest.source
        # Quantized weights may differ between machines; copies may not. Auxiliary files were
        # compared with the hub's hash; another version of flash_moe may derive other ones.
        if made_from.kind != "hf" and made_from.quantization.expert_bits is None:
            self._compare(manifest)
        write_json(self.root / MANIFEST_FILE, manifest.to_json())
        self.shards.finish()

    def _compare(self, manifest: Manifest) -> None:
        old = {(e.file, e.checksums) for e in self.manifest.layers}
        old |= {(f.file, (f.checksum,)) for f in self.manifest.tensor_files}
        new = {(e.file, e.checksums) for e in manifest.layers}
        new |= {(f.file, (f.checksum,)) for f in manifest.tensor_files}
        for name, _ in sorted(new - old):
            (self.root / name).unlink(missing_ok=True)
            raise CorruptFileError(
                "repair",
                f"{self.root / name}: the hub sent bytes that differ from the packed ones",
                "Run the same command again; if the error persists, pull the model again.",
            )


def open_repair(
    root: Path, damaged: frozenset[str], on_bytes: Callable[[int], None] = lambda n: None
) -> Repair:
    """Plan the repair of the damaged files of a store.

    Args:
        damaged: File names, as in :class:`flash_moe.store.verify.VerifyReport`.
        on_bytes: Called with the bytes downloaded, from several threads.

    Raises:
        PackError: The store was not pulled from the hub, or the repository changed.
        HubError: The repository is not accessible.
    """
    manifest = read_manifest(root, sizes=False)
    made_from = manifest.source
    if not made_from.files or made_from.revision is None:
        raise PackError(
            "repair",
            f"{root} was packed from the local directory {made_from.name}, not pulled from the hub",
            f"{_again(root, manifest)}, or copy the files back.",
        )
    try:
        return _open_repair(root, manifest, damaged, on_bytes)
    except BaseException:
        shutil.rmtree(root / INCOMING, ignore_errors=True)
        raise


def _again(root: Path, manifest: Manifest) -> str:
    if manifest.part is None:
        return "Pack it again"
    return f"Delete it and run: flash-moe slice STORE {root} --part {manifest.part}"


def _open_repair(
    root: Path, manifest: Manifest, damaged: frozenset[str], on_bytes: Callable[[int], None]
) -> Repair:
    made_from = manifest.source
    remote = Repository(made_from.name, made_from.revision)
    checkpoint, places = fetch_metadata(remote, root / INCOMING)
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, asked=made_from.asked))
    unused = manifest.unused
    source = open_source(
        checkpoint,
        made_from.quantization,
        keep=unused is not None and bool(unused.kept),
        part=manifest.part,
    )
    if unused is None and source.source.kind == "mlx":
        source = as_older_versions(source, checkpoint)
    # Adopted records have the same bytes as an mlx checkpoint.
    kind = "mlx" if made_from.kind == "flash-moe-original" else made_from.kind
    layers = [(e.path, e.n_experts, manifest.layouts[e.layout]) for e in manifest.layers]
    if source.source != replace(made_from, kind=kind) or layers != [
        (layer.path, layer.n_experts, layer.layout) for layer in source.layers
    ]:
        raise PackError(
            "repair",
            f"{made_from.name} at {made_from.revision} is not what {root} was made from",
            "Pull the model again.",
        )
    resident = {f.file for f in manifest.tensor_files}
    if resident & damaged:
        damaged |= resident  # the manifest does not record which tensor is in which file
    files = [entry.file for entry in manifest.layers]
    steps = (
        step
        for step in source.steps
        if (resident & damaged if step.layer is None else files[step.layer] in damaged)
    )
    source = replace(source, steps=tuple(steps))
    entries = [entry for step in source.steps for entry in step.entries]
    origin = {"repo": remote.name, "revision": remote.commit, "commit": remote.commit}
    shards = HubShards(
        places, checkpoint.tensors, root / INCOMING, origin, on_bytes=on_bytes, only=entries
    )
    return Repair(root, manifest, source, shards, damaged)
