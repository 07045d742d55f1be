"""Write a toy Qwen3.5-MoE checkpoint with random weights, for tests and benchmarks.

    python scripts/make_checkpoint.py --preset tiny --format mlx checkpoints/tiny

Every field of the geometry is a flag that overrides the preset. ``--bits none`` is unquantised.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from flash_moe.testing import PRESETS, Geometry, write_hf_checkpoint, write_mlx_checkpoint


def bits(text: str) -> int | None:
    """A number of bits, or ``none``."""
    return None if text == "none" else int(text)


def parser() -> argparse.ArgumentParser:
    """The command line: a few options, then one flag per geometry field."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("dst", type=Path, metavar="DST", help="new or empty directory")
    result.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    result.add_argument("--format", choices=("mlx", "hf"), default="mlx")
    result.add_argument("--shard-bytes", type=int, metavar="N", help="largest weight shard")
    result.add_argument(
        "--random-packed",
        action=argparse.BooleanOptionalAction,
        help="mlx only: draw packed words, or quantise a float model (default: by size)",
    )
    group = result.add_argument_group("geometry (default: the preset's)")
    kinds: dict[str, Any] = {"bits": bits, "scale_dtype": str, "router_sigma": float}
    for field in fields(Geometry):
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(
            flag, dest=field.name, type=kinds.get(field.name, int), default=argparse.SUPPRESS
        )
    return result


def main() -> int:
    """Make the checkpoint; user errors are one line."""
    args = parser().parse_args()
    given = {f.name: getattr(args, f.name) for f in fields(Geometry) if hasattr(args, f.name)}
    if args.dst.exists() and (not args.dst.is_dir() or any(args.dst.iterdir())):
        print(f"error: {args.dst} exists and is not an empty directory", file=sys.stderr)
        return 1
    try:
        geometry = replace(PRESETS[args.preset], **given)
        if args.format == "mlx":
            write_mlx_checkpoint(
                args.dst, geometry, random_packed=args.random_packed, shard_bytes=args.shard_bytes
            )
        elif geometry.scale_dtype == "float16":
            raise ValueError("the hf format is float32 or bfloat16, got --scale-dtype float16")
        else:
            write_hf_checkpoint(
                args.dst, geometry, geometry.scale_dtype, shard_bytes=args.shard_bytes
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    n_bytes = sum(file.stat().st_size for file in args.dst.iterdir())
    print(f"{args.dst}: {n_bytes:,} bytes, {geometry.expert_bytes:,} bytes per expert")
    return 0


if __name__ == "__main__":
    sys.exit(main())
