"""Mends a store that was made from the hub: fetches what damaged files are made of, and no more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flash_moe.errors import CorruptFileError, PackError
from flash_moe.files.atomic import write_json
from flash_moe.hub.incoming import INCOMING
from flash_moe.hub.repository import Repository
from flash_moe.hub.shards import HubShards
from flash_moe.hub.staging import stage
from flash_moe.pack.packer import rewrite
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.manifest import MANIFEST_FILE, Manifest, file_sizes, read_manifest


@dataclass(frozen=True)
class Repair:
    """A repair to be made.

    Attributes:
        source: What the damaged files are made of.
        shards: Where that comes from; has ``download_bytes``.
        damaged: Names of the files that are written anew.
    """

    root: Path
    manifest: Manifest
    source: PackSource
    shards: HubShards
    damaged: frozenset[str]

    def run(self, on_progress: Callable[[str, int], None] | None = None) -> None:
        """Write the damaged files anew. After a stop the same repair goes on with the rest.

        Raises:
            PackError: A file cannot be written.
            CorruptFileError: The hub sent other bytes than were packed.
            FlashMoEError: Something cannot be fetched.
        """
        weights = file_sizes(self.manifest)
        for name in self.damaged & weights.keys():
            # Half of it is worth nothing, and the disk may need the room.
            (self.root / name).unlink(missing_ok=True)
        manifest = rewrite(
            self.source, self.root, self.manifest, self.damaged, on_progress, self.shards
        )
        made_from = self.manifest.source
        # What is quantized on the way may get other bits on another machine; copies may not. Of
        # side files the hub's hash was compared; what is made of them may be another version's.
        if made_from.kind != "hf" and made_from.quantization.expert_bits is None:
            self._compare(manifest)
        write_json(self.root / MANIFEST_FILE, manifest.to_json())
        self.shards.finish()

    def _compare(self, manifest: Manifest) -> None:
        old = {(e.file, e.checksums) for e in self.manifest.layers}
        old |= {(r.file, (r.checksum,)) for r in self.manifest.resident}
        new = {(e.file, e.checksums) for e in manifest.layers}
        new |= {(r.file, (r.checksum,)) for r in manifest.resident}
        for name, _ in sorted(new - old):
            (self.root / name).unlink(missing_ok=True)
            raise CorruptFileError(
                "repair",
                f"{self.root / name}: the hub sent other bytes than were packed",
                "Run the same command again; if it stays so, pull the model anew.",
            )


def open_repair(
    root: Path, damaged: frozenset[str], on_bytes: Callable[[int], None] = lambda n: None
) -> Repair:
    """Find out what the damaged files of a store are made of.

    Args:
        damaged: Names as of :class:`flash_moe.store.verify.VerifyReport`.
        on_bytes: Told of bytes downloaded, in several threads.

    Raises:
        PackError: The store was not made from the hub, or the repository is another one now.
        HubError: The repository cannot be had.
    """
    manifest = read_manifest(root, sizes=False)
    made_from = manifest.source
    if not made_from.files or made_from.revision is None:
        raise PackError(
            "repair",
            f"{root} was made from {made_from.name} on a disk, not from the hub",
            "Pack it again, or copy the files back.",
        )
    try:
        return _open_repair(root, manifest, damaged, on_bytes)
    except BaseException:
        shutil.rmtree(root / INCOMING, ignore_errors=True)
        raise


def _open_repair(
    root: Path, manifest: Manifest, damaged: frozenset[str], on_bytes: Callable[[int], None]
) -> Repair:
    made_from = manifest.source
    remote = Repository(made_from.name, made_from.revision)
    checkpoint, places = stage(remote, root / INCOMING)
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, asked=made_from.asked))
    source = open_source(checkpoint, made_from.quantization)
    # Records of the original are copies of the same bytes.
    kind = "mlx" if made_from.kind == "flash-moe-original" else made_from.kind
    layers = [(e.path, e.n_experts, manifest.layouts[e.layout]) for e in manifest.layers]
    if source.source != replace(made_from, kind=kind) or layers != [
        (layer.path, layer.n_experts, layer.layout) for layer in source.layers
    ]:
        raise PackError(
            "repair",
            f"{made_from.name} at {made_from.revision} is not what {root} was made from",
            "Pull it anew.",
        )
    resident = {r.file for r in manifest.resident}
    if resident & damaged:
        damaged |= resident  # which tensor is in which of them is not noted
    files = [entry.file for entry in manifest.layers]
    source = source.with_steps(
        step
        for step in source.steps
        if (resident & damaged if step.layer is None else files[step.layer] in damaged)
    )
    entries = [entry for step in source.steps for entry in step.entries]
    origin = {"repo": remote.name, "revision": remote.commit, "commit": remote.commit}
    shards = HubShards(
        places, checkpoint.tensors, root / INCOMING, origin, on_bytes=on_bytes, only=entries
    )
    return Repair(root, manifest, source, shards, damaged)
