"""Runs the ``flash-moe`` command with a model that writes prepared answers, one a generation.

    python spelled.py ANSWERS.json arguments of flash-moe ...

The model, its passes, its prompt cache and all of the chat are the real ones; only the choice of
the next token is forced. ANSWERS.json: {"answers": [text, ...], "delay_s": seconds a token}. When
they are used up the model chooses by itself.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe import loader
from flash_moe.cli import main


class Spell:
    """A logits processor that forces the tokens of a text, then the end of the answer."""

    def __init__(self, tokenizer: Any, text: str, delay_s: float) -> None:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.tokens = [*tokenizer.encode(text, add_special_tokens=False), end]
        self.delay_s = delay_s

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        time.sleep(self.delay_s)
        forced = mx.full(logits.shape, -1e9)
        forced[:, self.tokens.pop(0)] = 0.0
        return forced


def spell(script: dict[str, Any]) -> None:
    answers, delay_s = list(script["answers"]), float(script.get("delay_s", 0))
    plain = loader.FlashMoE.stream

    def stream(self: Any, prompt: Any, **options: Any) -> Any:
        # A prompt that is only processed has no sampling options.
        if "temperature" in options and answers:
            options["logits_processors"] = [Spell(self.tokenizer, answers.pop(0), delay_s)]
        return plain(self, prompt, **options)

    loader.FlashMoE.stream = stream  # type: ignore[method-assign]


if __name__ == "__main__":
    spell(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.exit(main(sys.argv[2:]))
