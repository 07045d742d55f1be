"""``flash-moe pull``, ``pack`` and ``slice``: make a store from the hub or from this disk."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.options import add_options, given
from flash_moe.cli.progress import Bars, LayerCount
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.hub.incoming import SHARDS_ON_DISK
from flash_moe.store.part import Part
from flash_moe.store.quantization import QuantizationConfig

if TYPE_CHECKING:
    from flash_moe.pack.shard_source import ShardSource
    from flash_moe.pack.sources.base import PackSource


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    pull = commands.add_parser(
        "pull", parents=[common], help="download a model from the hub into a store"
    )
    pull.add_argument("repo", help="repository on the hub, ORG/MODEL")
    pull.add_argument(
        "dst", type=Path, nargs="?", help="directory of the store (default: in the user's cache)"
    )
    pull.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    _add_making_options(pull)
    _add_part(pull)
    pull.add_argument(
        "--max-shards",
        type=int,
        default=SHARDS_ON_DISK,
        metavar="N",
        help=f"shards on disk at a time (default: {SHARDS_ON_DISK}); more shards download ahead "
        "and take more disk",
    )
    pull.set_defaults(run=run_pull)
    pack = commands.add_parser("pack", parents=[common], help="make a store from a checkpoint")
    pack.add_argument(
        "src", help="mlx or Hugging Face checkpoint: directory, or repository in the local cache"
    )
    pack.add_argument("dst", type=Path, help="directory of the store; run again to continue")
    _add_making_options(pack)
    _add_part(pack)
    pack.add_argument(
        "--delete-source",
        action="store_true",
        help="delete each shard of SRC once it is packed, for a disk that cannot hold both",
    )
    pack.set_defaults(run=run_pack)
    cut = commands.add_parser(
        "slice", parents=[common], help="make the store of one machine of several from a store"
    )
    cut.add_argument("store", help="whole store, or a part to divide further")
    cut.add_argument("dst", type=Path, help="directory of the part; run again to continue")
    _add_part(cut, required=True)
    cut.set_defaults(run=run_slice)


def part(text: str) -> Part:
    """Read an argument like ``1/2``."""
    try:
        return Part.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.problem) from None


def _add_part(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--part",
        required=required,
        type=part,
        metavar="I/N",
        help="slice I of N of every expert, counted from 1 in the whole model: the part of machine "
        "I in a group of N",
    )


def add_keep_unused(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-unused",
        action="store_true",
        help="keep weights that mlx-lm does not load (vision towers, prediction heads), in files "
        "of their own that take no memory",
    )


def _add_making_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "quantization", QuantizationConfig)
    parser.add_argument(
        "--adopt",
        type=Path,
        metavar="DIR",
        help="packed_experts directory of the original Flash-MoE; links its files, copies nothing",
    )
    add_keep_unused(parser)


def _making(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a source, but for its quantization."""
    return {"adopt": args.adopt, "keep": args.keep_unused, "part": args.part}


def run_pull(args: argparse.Namespace) -> int:
    from huggingface_hub import constants

    from flash_moe.hub.local_stores import default_store
    from flash_moe.hub.pull import pulled_already, working_on
    from flash_moe.hub.resolve import resolve
    from flash_moe.pack.sources.open_source import open_source

    quantization = QuantizationConfig(**given(args, QuantizationConfig))
    dst = args.dst or default_store(args.repo, quantization, args.part)
    with working_on(dst):
        if constants.HF_HUB_OFFLINE:
            root = resolve(args.repo, args.revision)
            return _pack(open_source(root, quantization, **_making(args)), dst)
        commit = pulled_already(
            args.repo,
            dst,
            revision=args.revision,
            adopt=args.adopt is not None,
            keep=args.keep_unused,
            part=args.part,
            quantization=quantization,
        )
        if commit is not None:
            print(f"{dst}: complete already, from {args.repo} at {commit[:12]}")
            return 0
        return _pull(args, dst, quantization)


def _pull(args: argparse.Namespace, dst: Path, quantization: QuantizationConfig) -> int:
    from flash_moe.hub.pull import open_pull

    bars = Bars()
    pull = open_pull(
        args.repo,
        dst,
        revision=args.revision,
        quantization=quantization,
        **_making(args),
        max_shards=args.max_shards,
        on_bytes=partial(bars.add, "download"),
    )
    origin = pull.shards.origin
    to_download = format_bytes(pull.download_bytes)
    store_size = format_bytes(pull.source.expert_bytes + pull.source.resident_bytes)
    print(
        f"{args.repo} at {origin['commit'][:12]}: {to_download} to download, "
        f"a store of {store_size} in {dst}",
        file=sys.stderr,
    )
    held, _ = pull.shards.peak_disk(pull.source)
    if held > args.max_shards:
        print(
            f"up to {held} shards are on disk at a time: requantizing the experts needs tensors "
            "from several shards",
            file=sys.stderr,
        )
    bars.start("download", pull.download_bytes)
    return _pack(pull.source, dst, pull.shards, bars)


def run_pack(args: argparse.Namespace) -> int:
    from flash_moe.hub.pull import working_on
    from flash_moe.hub.resolve import resolve
    from flash_moe.pack.destination import check_destination
    from flash_moe.pack.shard_source import HEADERS_DIR, DeletedShards, check_outside
    from flash_moe.pack.sources.checkpoint import local_checkpoint
    from flash_moe.pack.sources.open_source import open_source
    from flash_moe.store.manifest import is_store

    if args.delete_source and args.adopt is not None:
        raise ConfigError(
            "pack",
            "--adopt links the original record files, so --delete-source cannot tell which files "
            "are still needed",
            "Drop --delete-source, and delete the shards after verifying the store.",
        )
    if args.delete_source and args.part is not None:
        raise ConfigError(
            "pack",
            "--delete-source would delete what the other parts are made of",
            "Drop --delete-source, or --part.",
        )
    kept = args.dst / HEADERS_DIR
    with working_on(args.dst):
        if is_store(args.dst):  # its source may be deleted
            check_destination(args.dst)
        checkpoint = local_checkpoint(resolve(args.src), kept if kept.is_dir() else None)
        quantization = QuantizationConfig(**given(args, QuantizationConfig))
        source = open_source(checkpoint, quantization, **_making(args))
        shards = None
        if args.delete_source:
            check_outside(checkpoint.shards, args.dst)
            shards = DeletedShards(checkpoint.shards, kept)
        return _pack(source, args.dst, shards)


def run_slice(args: argparse.Namespace) -> int:
    from flash_moe.hub.pull import working_on
    from flash_moe.hub.resolve import resolve_store
    from flash_moe.pack.sources.store import slice_source

    with working_on(args.dst):
        return _pack(slice_source(resolve_store(args.store), args.part), args.dst)


def _pack(
    source: PackSource, dst: Path, shards: ShardSource | None = None, bars: Bars | None = None
) -> int:
    """Write a store and add its progress to ``bars``."""
    from flash_moe.pack.packer import pack

    if source.from_bits:
        print(
            f"warning: the experts are quantized to {', '.join(map(str, source.from_bits))} bits "
            "already, and both quantization errors add up. Prefer the original checkpoint; "
            "flash-moe info shows the error",
            file=sys.stderr,
        )
    sizes: Counter[str] = Counter()
    for step in source.steps:
        if step.layer is not None:
            sizes[source.name_of(step.layer)] += step.n_bytes
    count = LayerCount(sizes)
    bars = bars or Bars()
    bars.start("pack", source.n_bytes)
    with bars:
        result = pack(
            source,
            dst,
            lambda what, n: bars.add("pack", n, f"pack, {count.add(what, n)}"),
            shards=shards,
        )
    kept = f", {result.layers_kept} already there" if result.layers_kept else ""
    print(
        f"{result.path}: {result.layers_written} layers packed{kept}; "
        f"experts {format_bytes(result.expert_bytes)}, "
        f"resident {format_bytes(result.resident_bytes)}"
    )
    return 0
