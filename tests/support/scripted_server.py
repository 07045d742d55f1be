"""Runs ``flash-moe serve`` with a model that writes prepared answers.

    python -m tests.support.scripted_server SCRIPT.json MODEL arguments of flash-moe serve ...

The tokenizer, the engine, its passes, the prompt caches, the splitter and HTTP are the real ones;
only attention is cheaper, and the choice of the next token forced. SCRIPT.json is a list of texts. A request with tools
gets the text whose index is the number of answers in its history, the last text if there are more;
a request without tools (agents ask for titles so) gets ``TITLE``. Where the prompt opens reasoning,
``THOUGHT`` comes first.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models import qwen3_moe

from flash_moe.cli import main
from flash_moe.demo_model import STORE
from flash_moe.generation.prepare import PreparedRequest, Preparer
from flash_moe.tools.splitter import opens_thinking
from tests.support.architectures import write_model

TITLE, THOUGHT = "A title", "The next step is clear."


def write_long_model(path: Path) -> None:
    """A random model with a long context, and the tokenizer and template of the demo model."""
    write_model(
        path,
        "qwen3_moe",
        vocab_size=4096,
        max_position_embeddings=262_144,
        num_hidden_layers=1,
        mlp_only_layers=[],
        num_attention_heads=1,
        num_key_value_heads=1,
        num_experts=2,
        num_experts_per_tok=1,
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(STORE / name, path / name)


def own_values(queries: mx.array, keys: mx.array, values: mx.array, **_: Any) -> mx.array:
    """Attention of each token to itself: a CPU takes a minute for all of 40,000 tokens."""
    return values[..., -queries.shape[2] :, :]


class ForcedTokens:
    """A logits processor that forces tokens; the batch computes one token after the last."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = list(tokens)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        forced = mx.full(logits.shape, -1e9)
        forced[:, self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]] = 0.0
        return forced


def force_answers(script: Path) -> None:
    answers = json.loads(script.read_text(encoding="utf-8"))
    plain = Preparer.prepare

    def prepare(self: Any, request: Any, check: Any) -> PreparedRequest:
        made = plain(self, request, check)
        tokenizer = self._tokenizer
        text = answers[-1]
        if not request.spec.schemas:
            text = TITLE
        elif (n := n_answers(request.prompt)) < len(answers):
            text = answers[n]
        if opens_thinking(tokenizer, made.run.ids):
            text = f"{THOUGHT}\n</think>\n\n{text}"
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        tokens = [*tokenizer.encode(text, add_special_tokens=False), end]
        run = replace(made.run, processors=lambda: [ForcedTokens(tokens)])
        return replace(made, run=run)

    Preparer.prepare = prepare  # type: ignore[method-assign]


def n_answers(messages: list[dict[str, Any]]) -> int:
    """Number of answers in a history; one that a client splits into messages counts once."""
    return sum(role == "assistant" for role, _ in groupby(each["role"] for each in messages))


if __name__ == "__main__":
    qwen3_moe.scaled_dot_product_attention = own_values
    force_answers(Path(sys.argv[1]))
    sys.exit(main(["serve", *sys.argv[2:]]))
