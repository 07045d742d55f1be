"""Write the inputs of a training run: tokenizer, plain text, definitions, held-out data.

    python -m scripts.demo_model.prepare --out .demo_data [--raw DIR]

Needs ``apt-get`` for the packages of ``text.py`` (kept in --raw). The training windows are
generated from seeds during training (``stream.py``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from pathlib import Path

import numpy as np

from scripts.demo_model import judge, text, tokenizer
from scripts.demo_model.chat import Chat, Tokens
from scripts.demo_model.dialogues import Dialogues
from scripts.demo_model.packing import DEFINITIONS, PLAIN, windows
from scripts.demo_model.windows import HELD_OUT, save

N_TOKENIZER_DIALOGUES = 4000
N_HELD_OUT_WINDOWS = 128


def encoded(chat: Chat, paragraphs: list[str]) -> Tokens:
    return np.concatenate([*map(chat.encode_text, paragraphs)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(".demo_data"))
    parser.add_argument("--raw", type=Path, default=Path(".demo_raw"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    versions = text.download(args.raw)
    definitions = text.definitions(args.raw)
    paragraphs = list(text.paragraphs(args.raw))
    random.Random(args.seed).shuffle(paragraphs)
    kept = len(paragraphs) // 100  # the last hundredth is for evaluation only

    if not (args.out / "tokenizer.json").exists():
        source = Dialogues(args.seed - 1, "train", definitions)
        drawn = [source.draw() for _ in range(N_TOKENIZER_DIALOGUES)]
        tokenizer.write_template(args.out)
        bare = Chat(args.out, learned=False)
        texts = [bare.render(dialogue.messages, dialogue.tools) for dialogue in drawn]
        tokenizer.write(args.out, texts + paragraphs[: 4 * len(texts)])
    chat = Chat(args.out)
    plain = encoded(chat, paragraphs[:-kept])
    save(args.out / PLAIN, plain[:, None])
    entries = [dataclasses.astuple(entry) for entry in definitions]
    (args.out / DEFINITIONS).write_text(json.dumps(entries, indent=0) + "\n", "utf-8")
    held_out = windows(
        chat,
        Dialogues(args.seed, "held_out", definitions),
        encoded(chat, paragraphs[-kept:]),
        random.Random(args.seed),
    )
    save(args.out / HELD_OUT, np.stack([next(held_out) for _ in range(N_HELD_OUT_WINDOWS)]))
    judge.write(args.out / "prompts.json", args.seed)
    summary = {
        "packages": versions,
        "definitions": len(definitions),
        "plain_tokens": len(plain),
        "seed": args.seed,
        "seconds": round(time.monotonic() - started),
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
