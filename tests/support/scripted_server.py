"""``flash-moe serve`` with a long context and a model that writes prepared answers.

    python -m tests.support.scripted_server SCRIPT.json MODEL arguments of flash-moe serve ...

The tokenizer, the engine, its passes, the prompt caches, the splitter and HTTP are the real ones;
only attention is cheaper, and the choice of the next token is forced. SCRIPT.json has a list of
answers for each of some tools. A request with such a tool gets the answer whose index is the number
of answers in its history, or the last one; any other request gets ``TITLE``, because agents ask
without tools for a title of the session. Where the prompt opens reasoning, ``THOUGHT`` comes first.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.support.live_server import Live

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


def force_answers(scripts: dict[str, list[str]]) -> None:
    plain = Preparer.prepare

    def prepare(self: Any, request: Any, check: Any) -> PreparedRequest:
        made = plain(self, request, check)
        tokenizer, text = self._tokenizer, TITLE
        for schema in request.spec.schemas:
            if answers := scripts.get(schema["function"]["name"]):
                text = answers[min(n_answers(request.prompt), len(answers) - 1)]
        if opens_thinking(tokenizer, made.run.ids):
            text = f"{THOUGHT}\n</think>\n\n{text}"
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        tokens = [*tokenizer.encode(text, add_special_tokens=False), end]
        run = replace(made.run, processors=lambda tokenizer: [ForcedTokens(tokens)])
        return replace(made, run=run)

    Preparer.prepare = prepare  # type: ignore[method-assign]


def n_answers(messages: list[dict[str, Any]]) -> int:
    """Number of answers in a history; one that a client splits into messages counts once."""
    return sum(role == "assistant" for role, _ in groupby(each["role"] for each in messages))


@contextmanager
def scripted_server(model: Path, folder: Path, scripts: dict[str, list[str]]) -> Iterator[Live]:
    """Run this server; its log is in ``folder``."""
    script = folder / "script.json"
    script.write_text(json.dumps(scripts), encoding="utf-8")
    command = [sys.executable, "-m", __name__, str(script)]
    server = Live(folder / "log", model=str(model), command=command)
    try:
        yield server
        assert server.stop() == 0, server.said()
        assert "Traceback" not in server.said()
    finally:
        server.close()


if __name__ == "__main__":
    qwen3_moe.scaled_dot_product_attention = own_values
    force_answers(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.exit(main(["serve", *sys.argv[2:]]))
