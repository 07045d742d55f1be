"""Stores of one checkpoint with experts of 8, 6, 4, 3 and 2 bits, and of 2 bits by min-max.

    python -m scripts.demo_model.quality_stores CHECKPOINT OUT
    cd OUT; flash-moe eval 8 6 4 3 2 2-min-max --reference CHECKPOINT --text dialogues.txt

All other weights have 4 bits in each (routers 8). Scales of experts are searched
(``--expert-bits``); those of ``2-min-max`` are the plain ones of ``mx.quantize``. The dialogues are
held out and in the model's domain, unlike the bundled text of ``eval``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from mlx_lm import convert

from flash_moe.demo_model import STORE
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.quantization import QuantizationConfig
from scripts.demo_model.chat import Chat
from scripts.demo_model.dialogues import Dialogues

BITS = (8, 6, 4, 3, 2)
EXPERTS = "switch_mlp"


def min_max(checkpoint: Path, out: Path) -> None:
    """Convert the checkpoint by mlx-lm, with experts of 2 bits."""

    def predicate(path: str, module: Any) -> bool | dict[str, int]:
        if not hasattr(module, "to_quantized"):
            return False
        if path.endswith(("mlp.gate", "shared_expert_gate")):
            return {"group_size": 64, "bits": 8}
        return {"group_size": 64, "bits": 2 if EXPERTS in path else 4}

    convert(str(checkpoint), mlx_path=str(out), quantize=True, quant_predicate=predicate)


def dialogues(n_characters: int = 20_000) -> str:
    """Return held-out dialogues as chat-template text."""
    chat, source, texts = Chat(STORE), Dialogues(1, "held_out"), [""]
    while sum(map(len, texts)) < n_characters:
        drawn = source.draw()
        texts.append(chat.render(drawn.messages, drawn.tools))
    return "".join(texts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for bits in BITS:
        quantization = QuantizationConfig(bits=4, expert_bits=bits)
        pack(open_source(args.checkpoint, quantization), args.out / str(bits))
    (args.out / "dialogues.txt").write_text(dialogues(), "utf-8")
    plain = args.out / "2-min-max.mlx"
    min_max(args.checkpoint, plain)
    pack(open_source(plain), args.out / "2-min-max")
    shutil.rmtree(plain)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
