"""Program of each rank in ``tests/ranks/test_two_ranks.py``; prints JSON.

python -m tests.support.rank_program ROOT
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.nn.layers.distributed import shard_inplace
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import sharded_load

from flash_moe import FlashMoE, FlashMoEError, load
from flash_moe.compat.mlx_lm import cached_positions
from flash_moe.generation.prompt_cache_dir import properties_of
from flash_moe.memory.system import usable_memory
from flash_moe.model import prompt_lengths
from flash_moe.model.recorded import record_delta_nets, record_held_layers
from flash_moe.model.switch import StreamedExperts
from flash_moe.ranks.host import threads
from tests.support.resident import prompt_ids

# Bytes for the experts of a rank: the smallest bank, a middle one, and more than all.
BUDGETS = {"small": 0.6e6, "middle": 3e6, "full": 20e6}
CHUNK = 80
LONG = 110  # two chunks
PROMPTS = ((1, 1), (1, 37), (1, LONG), (3, 20))  # rows, tokens
N_TOKENS = 24


def logits(
    model: Any,
    rows: list[list[int]],
    chunk: int = CHUNK,
    n_tokens: int = 4,
    *,
    layered: bool = False,
) -> Any:
    """Logits of a prompt in chunks, then of greedy tokens, of a batch of rows.

    Args:
        layered: Run the chunks layer by layer; their logits are not computed.
    """
    cache, ids = make_prompt_cache(model), mx.array(rows)
    made, done = [], 0
    if layered:
        n = len(rows[0]) - 1
        tiles = [min(chunk, n - begin) for begin in range(0, n, chunk)]
        passes = model.layer_pass(rows[0][:-1], cache, tiles, [])
        assert passes is not None
        done = n if list(passes) else 0
    while done < ids.shape[1] - 1:
        end = min(done + chunk, ids.shape[1] - 1)
        made.append(np.array(model(ids[:, done:end], cache=cache)))
        done = end
    tokens = ids[:, -1:]
    for _ in range(n_tokens):
        out = model(tokens, cache=cache)
        made.append(np.array(out))
        tokens = mx.argmax(out[:, -1:], axis=-1)
    return np.concatenate([each.reshape(-1) for each in made])


def batch(rows: int, n: int) -> list[list[int]]:
    return [prompt_ids(n, seed) for seed in range(rows)]


def raised(flash: FlashMoE, prompt: list[int], **options: Any) -> str:
    try:
        flash.generate(prompt, max_tokens=4, **options)
    except FlashMoEError as error:
        return f"{type(error).__name__} {error}"
    return ""


def only_experts_divided(root: Path, group: Any) -> list[Any]:
    """Logits of resident mlx-lm whose MoE blocks alone are divided, as its ``shard()`` does it."""
    model: Any = mlx_lm.load(str(root / "mlx"))[0]
    for layer in model.layers:
        layer.mlp.sharding_group = group
        for part in (layer.mlp.shared_expert, layer.mlp.switch_mlp):
            shard_inplace(part.gate_proj, "all-to-sharded", group=group)
            shard_inplace(part.down_proj, "sharded-to-all", group=group)
            shard_inplace(part.up_proj, "all-to-sharded", group=group)
    return [logits(model, batch(*shape)) for shape in PROMPTS]


def same_bits(root: Path, group: Any) -> dict[str, Any]:
    """Streamed parts against resident mlx-lm on the same ranks, for each bank and prompt."""
    reference, _ = sharded_load(str(root / "mlx"), None, group)
    expected = [logits(reference, batch(*shape)) for shape in PROMPTS]
    long = expected[PROMPTS.index((1, LONG))]
    same: dict[str, Any] = {}
    for name, n_bytes in BUDGETS.items():
        with load(root / "parts", group=group, cache_gb=n_bytes / 1e9) as flash:
            got = [logits(flash.model, batch(*shape)) for shape in PROMPTS]
            layered = logits(flash.model, batch(1, LONG), layered=True)
        pairs = [*zip(got, expected, strict=True), (layered, long[-len(layered) :])]
        same[name] = [bool((a == b).all()) for a, b in pairs]
    # Only layers with kernels are recorded in a model.
    StreamedExperts.held_layer = lambda self: self.bank.held_layer(self.layer)
    full = BUDGETS["full"] / 1e9
    with load(root / "parts", group=group, cache_gb=full, preload=True) as flash:
        record_delta_nets(flash.model)
        record_held_layers(flash.model)
        got = [logits(flash.model, batch(*shape)) for shape in PROMPTS]
        recorded = [m for m in flash.model.modules() if type(m).__name__.startswith("Recorded")]
        same["recorded"] = [bool((a == b).all()) for a, b in zip(got, expected, strict=True)]
        same["recorded"].append(len(recorded) > 1)
    return same


def experts_divided(root: Path, group: Any) -> dict[str, Any]:
    """The same if only the experts are divided, and a rank that divides all."""
    options: dict[str, Any] = {"group": group, "cache_gb": BUDGETS["small"] / 1e9}
    with load(root / "parts", divide="experts", **options) as flash:
        got = [logits(flash.model, batch(*shape)) for shape in PROMPTS]
        key = properties_of(flash.model)["divide"]  # of prompt caches on disk
        resident = flash.model.lengths.plan.resident_bytes
        loaded = sum(a.nbytes for _, a in tree_flatten(flash.model.parameters()))  # type: ignore
    expected = only_experts_divided(root, group)
    same = [bool((a == b).all()) for a, b in zip(got, expected, strict=True)]
    try:
        load(root / "parts", divide=("all", "experts")[group.rank()], **options)
    except FlashMoEError as error:
        return {
            "same": same,
            "key": key,
            "resident": resident,
            "loaded": loaded,
            "error": str(error),
        }
    raise AssertionError


def disagreements(flash: FlashMoE, rank: int) -> dict[str, Any]:
    """Requests that differ between the ranks, and those after them."""
    report: dict[str, Any] = {"prompts": raised(flash, prompt_ids(50, seed=rank))}
    report["lengths"] = raised(flash, prompt_ids(50 - 20 * rank))
    report["after"] = flash.generate(prompt_ids(9), max_tokens=4).token_ids
    report["sampled"] = flash.generate(prompt_ids(9), max_tokens=12, temperature=1.0).token_ids
    chunk_tokens = prompt_lengths.chunk_tokens
    prompt_lengths.chunk_tokens = lambda *a, **k: 33 if rank else 50  # memory of other machines
    report["chunks"] = flash.model.lengths.chunks_of(100, ())
    report["other memory"] = flash.generate(prompt_ids(100), max_tokens=4).token_ids
    prompt_lengths.chunk_tokens = chunk_tokens
    return report


def read_error(root: Path, group: Any, rank: int) -> dict[str, Any]:
    """A damaged part on rank 1, and the same processes after it is mended."""
    parts = Path(shutil.copytree(root / "parts", root / f"damaged{rank}", dirs_exist_ok=True))
    file = parts / "part-2-of-2" / "experts" / "layer_002.bin"
    data = file.read_bytes()
    if rank:
        file.write_bytes(bytes(b ^ 1 for b in data))
    with load(parts, group=group, cache_gb=BUDGETS["small"] / 1e9, verify_reads=True) as flash:
        report: dict[str, Any] = {"error": raised(flash, prompt_ids(20))}
        model, cache = flash.model, make_prompt_cache(flash.model)
        passes = model.layer_pass(prompt_ids(100), cache, [50, 50], [])
        try:
            list(passes or ())
        except FlashMoEError as error:
            report["layer by layer"] = [str(error), cached_positions(cache)]
        file.write_bytes(data)
        report["mended"] = flash.generate(prompt_ids(9), max_tokens=4).token_ids
    return report


def main() -> None:
    root = Path(sys.argv[1])
    group = mx.distributed.init(strict=True)
    rank = group.rank()
    report: dict[str, Any] = {"same bits": same_bits(root, group)}
    report["experts divided"] = experts_divided(root, group)
    report["read error"] = read_error(root, group, rank)
    with load(root / "parts", group=group, cache_gb=BUDGETS["middle"] / 1e9) as flash:
        answer = flash.generate(prompt_ids(37), max_tokens=N_TOKENS)
        report["tokens"] = answer.token_ids
        report["stats"] = answer.stats.stream.to_json()
        report["cores"] = sorted(
            {core for thread in threads() for core in os.sched_getaffinity(thread)}
        )
        report["memory share"] = flash.model.streaming.memory_share()[0] / usable_memory()
        report["resident"] = flash.model.lengths.plan.resident_bytes
        report |= disagreements(flash, rank)
    print(json.dumps(report), flush=True)
    with load(root / "parts", group=group, cache_gb=0.02, peer_timeout=2.0) as flash:
        for n, _ in enumerate(flash.stream(prompt_ids(9), max_tokens=200)):
            if n == 20 and rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    main()
