"""Write the tokenizer, the training windows and the held-out prompts for a training run.

    python -m scripts.demo_model.prepare --out .demo_data [--windows 100000] [--raw DIR]

Needs ``apt-get`` for the packages of ``text.py`` (kept in --raw). Every window has 1025 tokens:
whole dialogues, and plain text in what they leave. All of it follows from the seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from scripts.demo_model import judge, text, tokenizer
from scripts.demo_model.chat import Chat, Tokens
from scripts.demo_model.dialogues import Dialogues
from scripts.demo_model.tasks import Definition
from scripts.demo_model.windows import FILES, WINDOW, save

SHARD = 2000  # windows made from one seed
POOL = 16  # dialogues to choose the one from that fits best
PLAIN_SHARE = 0.03  # of the windows have plain text alone
N_TOKENIZER_DIALOGUES = 4000
N_HELD_OUT_WINDOWS = 128


def windows(
    chat: Chat, dialogues: Dialogues, plain: Tokens, rng: random.Random
) -> Iterator[Tokens]:
    """Endless windows of ``WINDOW`` tokens with their classes."""
    pool: list[Tokens] = []
    place = rng.randrange(len(plain))
    while True:
        window: list[Tokens] = []
        room = WINDOW if rng.random() > PLAIN_SHARE else 0
        while room:
            while len(pool) < POOL:
                tokens = chat.encode(dialogues.draw())
                if len(tokens) <= WINDOW:
                    pool.append(tokens)
            fitting = [i for i, tokens in enumerate(pool) if len(tokens) <= room]
            if not fitting:
                break
            # The first of a window is the oldest, so that short ones are not put off for ever.
            best = fitting[0] if not window else max(fitting, key=lambda i: len(pool[i]))
            window.append(pool.pop(best))
            room -= len(window[-1])
        missing = WINDOW - sum(map(len, window))
        if missing:
            window.append(np.take(plain, range(place, place + missing), mode="wrap"))
            place = (place + missing) % len(plain)
        yield np.concatenate(window)


def shard(seed: int, split: str, folder: Path, definitions: list[Definition]) -> Tokens:
    """``SHARD`` windows from one seed."""
    plain = np.load(folder / f"plain_{split}.npy")
    source = Dialogues(seed, split, definitions)  # type: ignore[arg-type]
    endless = windows(Chat(folder), source, plain, random.Random(seed))
    n = SHARD if split == "train" else N_HELD_OUT_WINDOWS
    return np.stack([next(endless) for _ in range(n)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(".demo_data"))
    parser.add_argument("--raw", type=Path, default=Path(".demo_raw"))
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    versions = text.download(args.raw)
    definitions = text.definitions(args.raw)
    paragraphs = list(text.paragraphs(args.raw))
    random.Random(args.seed).shuffle(paragraphs)
    kept = len(paragraphs) // 100  # the last hundredth is only judged on

    if not (args.out / "tokenizer.json").exists():
        source = Dialogues(args.seed - 1, "train", definitions)
        drawn = [source.draw() for _ in range(N_TOKENIZER_DIALOGUES)]
        tokenizer.write_template(args.out)
        bare = Chat(args.out, learned=False)
        texts = [bare.render(dialogue.messages, dialogue.tools) for dialogue in drawn]
        tokenizer.write(args.out, texts + paragraphs[: 4 * len(texts)])
    chat = Chat(args.out)
    for split, part in (("train", paragraphs[:-kept]), ("held_out", paragraphs[-kept:])):
        np.save(args.out / f"plain_{split}.npy", np.concatenate([*map(chat.encode_text, part)]))
    make = partial(shard, split="train", folder=args.out, definitions=definitions)
    seeds = range(args.seed, args.seed + -(-args.windows // SHARD))
    with multiprocessing.Pool(args.processes) as workers:
        made = []
        for part in workers.imap(make, seeds):
            made.append(part)
            print(
                f"{len(made)}/{len(seeds)} shards, {time.monotonic() - started:.0f} s", flush=True
            )
    tokens = np.concatenate(made)[: args.windows]
    np.random.RandomState(args.seed).shuffle(tokens)
    save(args.out / FILES[0], tokens)
    save(args.out / FILES[1], shard(args.seed, "held_out", args.out, definitions))
    judge.write(args.out / "prompts.json", args.seed)
    summary = {
        "packages": versions,
        "windows": len(tokens),
        "tokens": int(tokens.size),
        "written": float(np.mean(tokens >> 14 == 2)),
        "definitions": len(definitions),
        "plain_tokens": len(np.load(args.out / "plain_train.npy")),
        "seed": args.seed,
        "seconds": round(time.monotonic() - started),
    }
    for name in ("plain_train.npy", "plain_held_out.npy"):
        (args.out / name).unlink()
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
