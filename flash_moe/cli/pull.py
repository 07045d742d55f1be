"""``flash-moe pull`` and ``pack``: from the hub or from this disk to a store."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.progress import LayerCount, progress
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes

if TYPE_CHECKING:
    from flash_moe.pack.packer import PackResult
    from flash_moe.pack.shard_supply import Shards
    from flash_moe.pack.sources.base import PackSource


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    pull = commands.add_parser(
        "pull", parents=[common], help="download a model from the hub into a store"
    )
    pull.add_argument("repo", help="repository at the hub, ORG/MODEL")
    pull.add_argument(
        "dst", type=Path, nargs="?", help="directory of the store (default: in the user's cache)"
    )
    pull.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    _add_quantization(pull)
    pull.add_argument(
        "--jobs",
        type=int,
        default=2,
        help="shards on the disk at a time (2); each more takes the disk of one more",
    )
    pull.set_defaults(run=run_pull)
    pack = commands.add_parser("pack", parents=[common], help="make a store from a checkpoint")
    pack.add_argument(
        "src",
        help="mlx or Hugging Face checkpoint: directory, or repository in the local cache",
    )
    pack.add_argument("dst", type=Path, help="directory of the store; run again to continue")
    _add_quantization(pack)
    pack.add_argument(
        "--delete-source",
        action="store_true",
        help="delete each shard of SRC when it is packed, where the disk does not hold both",
    )
    pack.set_defaults(run=run_pack)


def _add_quantization(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bits", type=int, help="quantize the weights (default 4 if they are not)")
    parser.add_argument("--group-size", type=int, help="weights that share a scale (default 64)")
    parser.add_argument(
        "--expert-bits",
        type=int,
        metavar="N",
        help="quantize the experts to 2, 3, 4, 6 or 8 bits with searched scales, also anew",
    )
    parser.add_argument(
        "--adopt",
        type=Path,
        metavar="DIR",
        help="packed_experts directory of the original Flash-MoE: its files are linked, not copied",
    )


def run_pull(args: argparse.Namespace) -> int:
    from huggingface_hub import constants

    from flash_moe.hub.local_stores import default_store
    from flash_moe.hub.pull import pulled_already, working_on
    from flash_moe.hub.resolve import resolve
    from flash_moe.pack.sources.open_source import open_source

    quantization = {
        "bits": args.bits, "group_size": args.group_size, "expert_bits": args.expert_bits
    }  # fmt: skip
    variant = [f"{n.replace('_', '-')}-{v}" for n, v in quantization.items() if v is not None]
    dst = args.dst or default_store(args.repo, *variant)
    with working_on(dst):
        if constants.HF_HUB_OFFLINE:
            root = resolve(args.repo, args.revision)
            source = open_source(root, **quantization, adopt=args.adopt)
            return _pack(source, dst, None, 0)
        adopts = args.adopt is not None
        commit = pulled_already(
            args.repo, dst, revision=args.revision, adopt=adopts, **quantization
        )
        if commit is not None:
            print(f"{dst}: complete already, of {args.repo} at {commit[:12]}")
            return 0
        return _pull(args, dst, quantization)


def _pull(args: argparse.Namespace, dst: Path, quantization: dict[str, int | None]) -> int:
    from flash_moe.hub.pull import open_pull

    downloaded: Counter[str] = Counter()
    report = [lambda n: downloaded.update(bytes=n)]  # until there are bars
    pull = open_pull(
        args.repo,
        dst,
        revision=args.revision,
        adopt=args.adopt,
        jobs=args.jobs,
        on_bytes=lambda n: report[0](n),
        **quantization,
    )
    origin = pull.shards.origin
    to_come = format_bytes(pull.download_bytes)
    print(
        f"{args.repo} at {origin['commit'][:12]}: {to_come} to download, "
        f"{format_bytes(pull.source.expert_bytes + pull.source.resident_bytes)} of store in {dst}",
        file=sys.stderr,
    )
    held, _ = pull.shards.held_at_peak(pull.source)
    if held > args.jobs:
        print(
            f"up to {held} shards are on the disk at a time: experts are quantized anew from "
            "tensors in several of them",
            file=sys.stderr,
        )
    return _pack(pull.source, dst, pull.shards, pull.download_bytes, report)


def run_pack(args: argparse.Namespace) -> int:
    from flash_moe.hub.pull import working_on

    with working_on(args.dst):
        return _pack_local(args)


def _pack_local(args: argparse.Namespace) -> int:
    from flash_moe.hub.resolve import resolve
    from flash_moe.pack.shard_supply import KEPT, DeletedShards, check_beside
    from flash_moe.pack.sources.checkpoint import local_checkpoint
    from flash_moe.pack.sources.open_source import open_source

    if args.delete_source and args.adopt is not None:
        raise ConfigError(
            "pack",
            "--adopt links the record files of the original: --delete-source would not know what "
            "of it may go",
            "Drop --delete-source, and delete the shards when the store is verified.",
        )
    kept = args.dst / KEPT
    checkpoint = local_checkpoint(resolve(args.src), kept if kept.is_dir() else None)
    source = open_source(
        checkpoint,
        bits=args.bits,
        group_size=args.group_size,
        expert_bits=args.expert_bits,
        adopt=args.adopt,
    )
    shards = None
    if args.delete_source:
        check_beside(checkpoint.shards, args.dst)
        shards = DeletedShards(checkpoint.shards, kept)
    return _pack(source, args.dst, shards, 0)


def _pack(
    source: PackSource,
    dst: Path,
    shards: Shards | None,
    download_bytes: int,
    report_download: list[Any] | None = None,
) -> int:
    from flash_moe.pack.packer import pack
    from flash_moe.pack.sources.open_source import RequantizedCheckpoint

    if isinstance(source, RequantizedCheckpoint) and source.from_bits:
        bits = ", ".join(map(str, source.from_bits))
        print(
            f"warning: the experts are quantized to {bits} bits already; what that lost adds to "
            "what is lost now. Quantize the original where you can; flash-moe info shows the loss",
            file=sys.stderr,
        )
    sizes: Counter[str] = Counter()
    for work in source.works:
        if work.layer is not None:
            sizes[f"layer {source.layers[work.layer].number}"] += work.n_bytes
    count = LayerCount(sizes)
    totals = {"download": download_bytes} if report_download else {}
    with progress({**totals, "pack": source.n_bytes}) as bars:
        if report_download:
            report_download[0] = lambda n: bars.add("download", n)
        result = pack(
            source,
            dst,
            lambda what, n: bars.add("pack", n, f"pack, {count.add(what, n)}"),
            shards=shards,
        )
    return _say(result)


def _say(result: PackResult) -> int:
    kept = f", {result.layers_kept} were there already" if result.layers_kept else ""
    print(
        f"{result.path}: {result.layers_written} layers packed{kept}; "
        f"experts {format_bytes(result.expert_bytes)}, "
        f"resident {format_bytes(result.resident_bytes)}"
    )
    return 0
