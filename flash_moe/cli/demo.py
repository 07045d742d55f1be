"""``flash-moe demo``: the whole way on a toy model, in seconds and without a download."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

PROMPT = "Tell me how a mixture of experts works."
N_TOKENS = 64


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "demo", parents=[common], help="write, pack and stream a toy model on this machine"
    )
    parser.add_argument("--dir", type=Path, help="where to keep it (default: the user's cache)")
    parser.add_argument(
        "--share", type=float, default=0.25, help="expert budget, as a share of all experts"
    )
    parser.add_argument("--max-tokens", "-n", type=int, default=N_TOKENS)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from flash_moe.errors import ConfigError
    from flash_moe.loader import load
    from flash_moe.memory import peak_memory
    from flash_moe.store.manifest import read_manifest

    if not 0 < args.share <= 1:
        raise ConfigError("demo", f"--share: expected above 0 and at most 1, got {args.share}")
    store = prepare(args.dir or _default_dir())
    manifest = read_manifest(store)
    expert_bytes = sum(
        e.n_experts * manifest.layouts[e.layout].record_bytes for e in manifest.layers
    )
    with load(store, cache_gb=args.share * expert_bytes / 1e9) as flash:
        answer = flash.generate([{"role": "user", "content": PROMPT}], max_tokens=args.max_tokens)
    stats = answer.stats
    figures = {
        "tokens_per_s": stats.generation_tps,
        "prompt_tokens_per_s": stats.prompt_tps,
        "bytes_read": stats.stream.bytes_read,
        "hit_rate": stats.stream.hit_rate,
        "expert_budget_bytes": stats.stream.bank_bytes,
        "expert_bytes": stats.stream.expert_bytes,
        "peak_memory_bytes": peak_memory(),
    }
    if args.json:
        print(json.dumps({"text": answer.text, "token_ids": answer.token_ids, **figures}))
        return 0
    print(f"prompt: {PROMPT}")
    print(f"answer: {answer.text!r}")
    print("(The toy model has random weights, so the text is noise. The way it took is real.)")
    print(f"tokens/s        {stats.generation_tps:.1f} (prompt {stats.prompt_tps:.1f})")
    print(f"bytes read      {stats.stream.bytes_read / 1e6:.1f} MB")
    print(f"hit rate        {stats.stream.hit_rate:.0%}")
    print(
        f"expert budget   {stats.stream.bank_bytes / 1e6:.2f} MB "
        f"of {stats.stream.expert_bytes / 1e6:.2f} MB of experts"
    )
    print(f"peak memory     {peak_memory() / 1e6:.0f} MB, mostly Python, MLX and mlx-lm")
    return 0


def prepare(root: Path) -> Path:
    """Find or make the toy checkpoint and its store under ``root``; return the store."""
    from flash_moe.convert import open_source
    from flash_moe.errors import ManifestError
    from flash_moe.store.manifest import read_manifest
    from flash_moe.store.packer import pack
    from flash_moe.testing import PRESETS, write_mlx_checkpoint

    checkpoint, store = root / "tiny-mlx", root / "tiny-store"
    try:
        read_manifest(store)
        return store
    except ManifestError:
        # Nothing there, or a run that was stopped. Both take a second to make.
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(store, ignore_errors=True)
    write_mlx_checkpoint(checkpoint, PRESETS["tiny"])
    pack(open_source(checkpoint), store)
    return store


def _default_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("flash_moe")) / "demo"
