"""Warning about the quality loss of fewer experts per token, with measurements if known.

Published figures name their source; ``docs/quality.md`` has ours and describes how to measure your
own model.
"""

from __future__ import annotations

import warnings
from threading import Lock

from flash_moe.config import ModelConfig

HINT = "To measure it: flash-moe eval STORE --top-k-experts {own},{given}"
_DEMO = "measured, KL from the float32 model in nats per token: {}, against 0.025 with all 10"
# (n_experts, own top-k) of a model to {experts per token: measurement}.
KNOWN: dict[tuple[int, int], dict[int, str]] = {
    # Qwen3.5-397B-A17B
    (512, 10): {
        4: "with this many the authors of Flash-MoE saw no loss, by eye; no figure was published",
        3: "public: perplexity 6.54 on WikiText-2, 3.64 with all (Anemll's fork); answers end "
        "at once (Flash-MoE)",
        2: "public: answers that end at once (Flash-MoE)",
    },
    # The model in the package: docs/quality.md
    (40, 10): {
        k: _DEMO.format(kl) for k, kl in {8: 0.027, 6: 0.032, 4: 0.052, 3: 0.104, 2: 0.334}.items()
    },
    # Qwen3.5-35B-A3B and similar
    (256, 8): {4: "public: 2.3 points less of GSM8K on a 35B of this family (clausius, p = 0.004)"},
}


class TopKWarning(UserWarning):
    """A model routes to fewer experts per token than it was trained with."""


_lock = Lock()
_warned: set[tuple[str, int, int]] = set()


def warn_of_top_k(model: ModelConfig, top_k: int | None) -> None:
    """Warn if ``top_k`` is below the model's own, once per process, model type and number."""
    if top_k is None or top_k >= model.top_k:
        return
    kind = (model.model_type, model.top_k, top_k)
    with _lock:
        if kind in _warned:
            return
        _warned.add(kind)
    warnings.warn(describe(model, top_k), TopKWarning, stacklevel=3)


def describe(model: ModelConfig, top_k: int) -> str:
    """Return the warning for ``top_k`` experts per token, fewer than the model's own number."""
    known = KNOWN.get((model.n_experts, model.top_k), {})
    price = known.get(top_k, "the loss of quality was not measured for this model")
    return (
        f"flash_moe: using {top_k} of the model's own {model.top_k} experts per token: less to "
        f"read, not exact; {price}. {HINT.format(own=model.top_k, given=top_k)}"
    )
