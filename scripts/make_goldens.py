"""Make tests/goldens/tiny.npz: answers of transformers on the tiny checkpoint, in float32.

Needs torch and transformers, which neither the library nor its tests need:

    pip install torch transformers
    python scripts/make_goldens.py

Two models answer: the float32 original, and the original with the weights of its 4-bit mlx twin,
dequantised and loaded back. So both the float path and the quantised path have a reference that
shares no code with mlx-lm. Run it again only when the generator of the checkpoint changes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
import transformers
from transformers import Qwen3_5MoeForConditionalGeneration

from flash_moe.testing import PRESETS, write_hf_checkpoint, write_mlx_checkpoint
from flash_moe.testing.shards import weights_hash

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens" / "tiny.npz"
N_GREEDY = 24
PROMPT_LENGTH = 20
NORMS = (
    *("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight"),
    *("q_norm.weight", "k_norm.weight"),
)


def load_hf(path: Path) -> Any:
    """The float32 model; every key must match, except mtp, which transformers does not have."""
    model, report = Qwen3_5MoeForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    unexpected = [key for key in report["unexpected_keys"] if not key.startswith("mtp.")]
    if report["missing_keys"] or unexpected or report["mismatched_keys"]:
        raise SystemExit(f"keys do not match: {report}")
    return model.eval()


def check_round_trip(model: Any, source: Path) -> None:
    """Check that transformers saves the checkpoint as it was: same names, same values."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=False)
        saved = load_weights(Path(folder))
    written = {k: v for k, v in load_weights(source).items() if not k.startswith("mtp.")}
    if saved.keys() != written.keys():
        raise SystemExit(f"saved keys differ: {sorted(saved.keys() ^ written.keys())[:5]}")
    for key, value in written.items():
        if not mx.array_equal(saved[key], value):
            raise SystemExit(f"saved tensor differs: {key}")


def load_weights(path: Path) -> dict[str, mx.array]:
    """All tensors of a checkpoint."""
    weights: dict[str, mx.array] = {}
    for file in sorted(path.glob("model*.safetensors")):
        weights |= mx.load(str(file))
    return weights


def dequantised_state(path: Path, bits: int, group_size: int) -> dict[str, torch.Tensor]:
    """The mlx checkpoint under transformers' names and conventions, as float32."""
    weights = load_weights(path)
    plain: dict[str, mx.array] = {}
    for key, value in weights.items():
        base = key.removesuffix(".weight")
        if key.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" in weights:
            gate = base.endswith(("mlp.gate", "shared_expert_gate"))
            parameters = {"bits": 8 if gate else bits, "group_size": 64 if gate else group_size}
            scales, biases = weights[f"{base}.scales"], weights[f"{base}.biases"]
            value = mx.dequantize(value, scales, biases, **parameters)
        if key.endswith("conv1d.weight"):
            value = value.swapaxes(1, 2)
        elif key.endswith(NORMS):
            value = value - 1.0
        plain[key.replace("language_model.model.", "model.language_model.")] = value
    plain["lm_head.weight"] = plain.pop("language_model.lm_head.weight")
    for key in [key for key in plain if key.endswith("switch_mlp.gate_proj.weight")]:
        prefix = key.removesuffix("switch_mlp.gate_proj.weight")
        gate, up, down = (
            plain.pop(f"{prefix}switch_mlp.{part}_proj.weight") for part in ("gate", "up", "down")
        )
        plain[prefix + "experts.gate_up_proj"] = mx.concatenate([gate, up], axis=1)
        plain[prefix + "experts.down_proj"] = down
    return {key: torch.from_numpy(np.array(value)) for key, value in plain.items()}


@torch.no_grad()
def answers(model: Any, ids: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Logits of all positions, greedy continuation of the first row, and its smallest margin."""
    logits = model(torch.from_numpy(ids)).logits.numpy()
    prompt = torch.from_numpy(ids[:1, :PROMPT_LENGTH])
    tokens: list[int] = []
    margins: list[float] = []
    for _ in range(N_GREEDY):
        best = model(prompt, use_cache=False).logits[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        prompt = torch.cat([prompt, best.indices[None, :1]], dim=1)
    print(f"{name}: logits std {logits.std():.3f}, smallest greedy margin {min(margins):.4f}")
    print(f"  greedy {tokens}")
    return {f"{name}_logits": logits, f"{name}_greedy": np.array(tokens, np.int32)}


def main() -> int:
    """Make the fixture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=GOLDENS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    geometry = PRESETS["tiny"]
    assert geometry.bits is not None
    ids = np.random.RandomState(1).randint(0, 256, (2, 37))
    with tempfile.TemporaryDirectory() as folder:
        hf, mlx = Path(folder) / "hf", Path(folder) / "mlx"
        write_hf_checkpoint(hf, geometry)
        write_mlx_checkpoint(mlx, geometry)
        fixture: dict[str, np.ndarray] = {
            "versions": np.array(
                f"torch {torch.__version__} transformers {transformers.__version__}"
            ),
            "hf_hash": np.array(weights_hash(hf)),
            "mlx_hash": np.array(weights_hash(mlx)),
            "ids": ids.astype(np.int32),
            "prompt_length": np.array(PROMPT_LENGTH, np.int32),
        }
        model = load_hf(hf)
        check_round_trip(model, hf)
        fixture |= answers(model, ids, "float")
        state = dequantised_state(mlx, geometry.bits, geometry.group_size)
        report = model.load_state_dict(state, strict=False)
        missing = [key for key in report.missing_keys if not key.startswith("model.visual.")]
        if missing or report.unexpected_keys:
            raise SystemExit(f"dequantised keys do not match: {missing}, {report.unexpected_keys}")
        fixture |= answers(model, ids, "q4")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **fixture)  # type: ignore[arg-type]
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
