"""Runs the ``flash-moe`` command with a model that writes prepared answers, one per generation.

    python scripted_chat.py ANSWERS.json arguments of flash-moe ...

The model, its passes, its prompt cache and all of the chat are the real ones; only the choice of
the next token is forced. ANSWERS.json is a list of texts. When they are used up the model chooses
by itself. At a ``PAUSE`` in a text the model stands still: ``ANSWERS.held-N`` appears beside the
list (N counts the pauses from 1), and it goes on when ``ANSWERS.go-N`` is there, or after Ctrl-C.
A text that ends with ``PAUSE_KEEPING`` has the chat stand still when the answer is whole, before it
is kept.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe import loader
from flash_moe.chat.autosave import Autosave
from flash_moe.cli import main
from tests.support.timeout import TIMEOUT_S

PAUSE, PAUSE_KEEPING = "\0", "\1"


def pauses(script: Path) -> Callable[[], None]:
    """A function that blocks until it is released, or Ctrl-C."""
    numbers = count(1)

    def stand_still() -> None:
        number = next(numbers)
        going = script.with_suffix(f".go-{number}").exists
        interrupted = False

        def interrupt(number: int, frame: Any) -> None:
            nonlocal interrupted
            interrupted = True
            if callable(before):
                before(number, frame)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            script.with_suffix(f".held-{number}").touch()
            limit = time.monotonic() + 2 * TIMEOUT_S
            while not (going() or interrupted) and time.monotonic() < limit:
                time.sleep(0.01)
        finally:
            signal.signal(signal.SIGINT, before)

    return stand_still


class ForcedAnswer:
    """A logits processor that forces the tokens of a text, then the end of the answer."""

    def __init__(self, tokenizer: Any, text: str, stand_still: Callable[[], None]) -> None:
        parts = [tokenizer.encode(part, add_special_tokens=False) for part in text.split(PAUSE)]
        last = parts.pop()
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.tokens = [t for part in parts for t in (*part, None)] + [*last, end]
        self.stand_still = stand_still

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if not self.tokens:
            sys.exit("scripted chat: the answer goes on after <|im_end|>")
        while (token := self.tokens.pop(0)) is None:
            self.stand_still()
        forced = mx.full(logits.shape, -1e9)
        forced[:, token] = 0.0
        return forced


def force_answers(script: Path) -> None:
    answers = list(json.loads(script.read_text(encoding="utf-8")))
    stand_still = pauses(script)
    plain, keep = loader.FlashMoE.stream, Autosave.after_turn
    keeping = [False]  # whether to stand still after this answer

    def after_turn(self: Any, conversation: Any) -> None:
        if keeping[0]:
            stand_still()
        keep(self, conversation)

    def stream(self: Any, prompt: Any, **options: Any) -> Any:
        # A prompt that is only processed has no sampling options.
        if "temperature" in options and answers:
            text = answers.pop(0)
            keeping[0] = text.endswith(PAUSE_KEEPING)
            forced = ForcedAnswer(self.tokenizer, text.removesuffix(PAUSE_KEEPING), stand_still)
            options["logits_processors"] = [forced]
        return plain(self, prompt, **options)

    loader.FlashMoE.stream = stream  # type: ignore[method-assign]
    Autosave.after_turn = after_turn  # type: ignore[method-assign]


if __name__ == "__main__":
    force_answers(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
