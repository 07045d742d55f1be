"""Export the output of ``train.py`` as a checkpoint in the original layout.

    python -m scripts.demo_model.export RUN --data .demo_data --out CHECKPOINT [--dtype bfloat16]

RUN has weights-N.safetensors and report.json. The checkpoint has the names and the nested config
of the published ones (without a vision tower), so ``mlx_lm convert -q`` and
``flash-moe pack --bits 4`` accept it. Needs MLX, but not torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import Tokenizer

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"),
)


def config(shape: dict[str, Any], tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Return ``config.json`` for a shape of ``model.py``."""
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("im_end", "endoftext")}
    pads = {name: tokenizer.token_to_id(f"<|{name}_pad|>") for name in ("image", "video")}
    third, rest = divmod(shape["head_dim"] // 8, 3)
    n_layers = shape["num_hidden_layers"]
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "image_token_id": pads["image"],
        "video_token_id": pads["video"],
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_5_moe_text",
            **shape,
            "dtype": dtype,
            "hidden_act": "silu",
            "full_attention_interval": 4,
            "layer_types": [
                "full_attention" if (i + 1) % 4 == 0 else "linear_attention"
                for i in range(n_layers)
            ],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 4096,
            "eos_token_id": ids["im_end"],
            "pad_token_id": ids["endoftext"],
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000_000,
                "partial_rotary_factor": 0.25,
                "mrope_section": [third + (rest > i) for i in range(3)],
                "mrope_interleaved": True,
            },
        },
    }


def export(run: Path, data: Path, out: Path, dtype: str) -> int:
    """Write the checkpoint; return its number of weights."""
    report = json.loads((run / "report.json").read_text("utf-8"))
    weights: dict[str, mx.array] = {}
    for path in sorted(run.glob("weights-*.safetensors")):
        weights |= mx.load(str(path))
    renamed = {}
    for name, value in weights.items():
        name = name.replace("model.", "model.language_model.", 1)
        renamed[name] = value if name.endswith("A_log") else value.astype(getattr(mx, dtype))
    out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(out / "model.safetensors"), renamed, {"format": "pt"})
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    made = config(report["shape"], tokenizer, dtype)
    (out / "config.json").write_text(json.dumps(made, indent=2) + "\n")
    for file in TOKENIZER_FILES:
        shutil.copyfile(data / file, out / file)
    return sum(value.size for value in renamed.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".demo_data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    print(f"{export(args.run, args.data, args.out, args.dtype):,} weights in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
