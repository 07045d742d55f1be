"""Says once what fewer experts a token cost, where that is known.

Figures of other people are public ones, with who published them; ``docs/quality.md`` has ours and
how to measure a model of one's own.
"""

from __future__ import annotations

import warnings
from threading import Lock

from flash_moe.config import ModelConfig

HINT = "To measure it: flash-moe eval STORE --top-k-experts {own},{given}"
_DEMO = "measured, KL from the float32 model in nats a token: {}, where all 10 give 0.025"
# n_experts and own top-k of a model, then experts used to what was seen.
KNOWN: dict[tuple[int, int], dict[int, str]] = {
    # Qwen3.5-397B-A17B
    (512, 10): {
        4: "for this many the authors of Flash-MoE saw no loss, by eye; nobody published a figure",
        3: "public: perplexity 6.54 on WikiText-2 where all give 3.64 (Anemll's fork); answers end "
        "at once (Flash-MoE)",
        2: "public: answers that end at once (Flash-MoE)",
    },
    # The model in the package: docs/quality.md
    (40, 10): {
        k: _DEMO.format(kl) for k, kl in {8: 0.027, 6: 0.032, 4: 0.052, 3: 0.104, 2: 0.334}.items()
    },
    # Qwen3.5-35B-A3B and its like
    (256, 8): {4: "public: 2.3 points less of GSM8K on a 35B of this family (clausius, p = 0.004)"},
}


class TopKWarning(UserWarning):
    """A model routes to fewer experts a token than it was trained with."""


_lock = Lock()
_warned: set[tuple[str, int, int]] = set()


def warn_of_top_k(model: ModelConfig, top_k: int | None) -> None:
    """Warn, once a process for a kind of model and a number, if ``top_k`` is below its own."""
    if top_k is None or top_k >= model.top_k:
        return
    kind = (model.model_type, model.top_k, top_k)
    with _lock:
        if kind in _warned:
            return
        _warned.add(kind)
    warnings.warn(describe(model, top_k), TopKWarning, stacklevel=3)


def describe(model: ModelConfig, top_k: int) -> str:
    """What is known of ``top_k`` experts a token where the model's own number is larger."""
    known = KNOWN.get((model.n_experts, model.top_k), {})
    price = known.get(top_k, "what that costs in quality was not measured for this model")
    return (
        f"flash_moe: {top_k} of the model's own {model.top_k} experts a token are used: less to "
        f"read, not exact; {price}. {HINT.format(own=model.top_k, given=top_k)}"
    )
