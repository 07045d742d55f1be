"""Windows of training text: whole dialogues, filled up with plain text."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scripts.demo_model import windows as files
from scripts.demo_model.chat import Chat, Tokens
from scripts.demo_model.dialogues import Dialogues
from scripts.demo_model.tasks import Definition
from scripts.demo_model.windows import WINDOW

DEFINITIONS, PLAIN = "definitions.json", "plain.xz"
SHARD = 256  # windows made from one seed
POOL = 16  # dialogues among which the best-fitting one is chosen
PLAIN_SHARE = 0.03  # share of windows with plain text only


def windows(
    chat: Chat, dialogues: Dialogues, plain: Tokens, rng: random.Random
) -> Iterator[Tokens]:
    """Yield endless windows of ``WINDOW`` tokens with their classes."""
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
            # A window begins with the oldest, so that short ones are not postponed forever.
            best = fitting[0] if not window else max(fitting, key=lambda i: len(pool[i]))
            window.append(pool.pop(best))
            room -= len(window[-1])
        missing = WINDOW - sum(map(len, window))
        if missing:
            window.append(np.take(plain, range(place, place + missing), mode="wrap"))
            place = (place + missing) % len(plain)
        yield np.concatenate(window)


def definitions(folder: Path) -> list[Definition]:
    """Read the definitions that ``prepare.py`` wrote."""
    return [Definition(*entry) for entry in json.loads((folder / DEFINITIONS).read_text("utf-8"))]


def shard(seed: int, folder: Path, n: int = SHARD) -> Tokens:
    """Return the ``n`` training windows of a seed, ``[n, WINDOW]``."""
    if folder not in _SOURCES:
        _SOURCES[folder] = (
            Chat(folder),
            files.load(folder / PLAIN, 1).ravel(),
            definitions(folder),
        )
    chat, plain, known = _SOURCES[folder]
    endless = windows(chat, Dialogues(seed, "train", known), plain, random.Random(seed))
    return np.stack([next(endless) for _ in range(n)])


_SOURCES: dict[Path, tuple[Chat, Tokens, list[Definition]]] = {}
