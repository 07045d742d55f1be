"""Whole models that decode one text side by side, a few tokens per turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.errors import BudgetError
from flash_moe.lab.bench import Bench, SkippedError
from flash_moe.lab.turns import Side
from flash_moe.loader import FlashMoE, load
from flash_moe.store.reader import supported_modes
from flash_moe.stream.stats import StreamStats

# A turn takes about this long: 12 tokens of the demo model on two cores, 1 of a large model. With
# 0.06 s intervals were twice as wide.
TURN_S = 0.25
MAX_TOKENS = 32
# Limit of the time to fill a bank before the first turn. The demo model takes 1 s for all experts.
FILL_S = 5.0


class Decoder:
    """One model and its position in the text, which is given: outputs do not change the tokens.

    Args:
        cold: Drop the experts from the page cache before each turn; reads are direct.
    """

    def __init__(self, bench: Bench, flash: FlashMoE, cold: bool) -> None:
        self.flash = flash
        self._bench, self._cold = bench, cold
        self._cache: list[Any] = make_prompt_cache(flash.model)
        self._position = 0
        self._n_tokens = 0
        self._turns: list[StreamStats] = []

    def turn(self) -> float:
        """Decode the next tokens; return milliseconds per token. The first turn sets their number.

        Raises:
            SkippedError: The experts stay in the page cache.
        """
        if not self._turns:
            self._fill_bank()
        if not self._n_tokens:
            one = min(self.decode(1), self.decode(1))
            self._n_tokens = max(1, min(round(TURN_S / one), MAX_TOKENS))
        if self._cold:
            self._drop()
        before = self.flash.stats
        seconds = self.decode(self._n_tokens)
        self._turns.append(self.flash.stats - before)
        return 1e3 * seconds / self._n_tokens

    def use_tokens_of(self, other: Decoder) -> None:
        """Decode as many tokens per turn as another one, which has had a turn."""
        self._n_tokens = self._n_tokens or other._n_tokens

    def per_token(self, name: str) -> float:
        """Return a counter of :class:`StreamStats` per token, over all turns."""
        total = sum(float(getattr(turn, name)) for turn in self._turns)
        return total / (len(self._turns) * self._n_tokens)

    def share(self, part: str, whole: Sequence[str]) -> float:
        """Return one counter in percent of the sum of others."""
        total = sum(self.per_token(name) for name in whole)
        return 100 * self.per_token(part) / total if total else 0.0

    def recall(self) -> float:
        """Return the recall of the prefetches, in percent, as a mean over the turns."""
        return 100 * sum(turn.recall for turn in self._turns) / len(self._turns)

    def decode(self, n: int) -> float:
        """Decode the next ``n`` tokens; return seconds."""
        text = self._bench.text
        started = time.perf_counter()
        for _ in range(n):
            token = text[self._position % len(text)]
            self._position += 1
            logits = self.flash.model(mx.array([[token]]), cache=self._cache)
            mx.eval(mx.argmax(logits[:, -1], axis=-1))
        return time.perf_counter() - started

    def _fill_bank(self) -> None:
        """Decode until the slots are full, or for ``FILL_S``; this compiles too."""
        started = time.perf_counter()
        self.decode(2)
        while self.flash.model.lengths.unfilled_bytes and time.perf_counter() - started < FILL_S:
            self.decode(1)

    def _drop(self) -> None:
        experts = self._bench.experts
        layers = range(len(experts.layers))
        keys = [
            (layer, self._bench.choose.randrange(experts.layers[layer].n_experts))
            for layer in layers
        ]
        self._bench.drop(experts, keys)


@contextmanager
def decoders(
    bench: Bench, sides: Mapping[str, Mapping[str, Any]], *, cold: bool
) -> Iterator[dict[str, Decoder]]:
    """Load a model per side, with its options of ``load()``; they share the resident weights.

    Raises:
        SkippedError: Direct reads are not supported, or memory is too short.
    """
    if cold and "direct" not in supported_modes(bench.experts):
        raise SkippedError("cold reads need direct reads, which are not supported here")
    common: dict[str, Any] = {"io": "direct" if cold else "buffered"}
    with ExitStack() as stack:
        loaded: dict[str, Decoder] = {}
        for name, options in sides.items():
            try:
                flash = stack.enter_context(load(bench.store, **common, **options))
            except BudgetError as error:
                raise SkippedError(f"{name}: {error.problem}") from None
            if loaded:
                first: Any = next(iter(loaded.values())).flash.model
                flash.model.update(first.parameters())
            loaded[name] = Decoder(bench, flash, cold)
        yield loaded


def turns_of(loaded: Mapping[str, Decoder]) -> dict[str, Side]:
    """Return the turns of models, all with the number of tokens of the first."""
    first = next(iter(loaded.values()))
    sides: dict[str, Side] = {}
    for name, decoder in loaded.items():

        def turn(decoder: Decoder = decoder) -> float:
            if decoder is not first:
                decoder.use_tokens_of(first)
            return decoder.turn()

        sides[name] = turn
    return sides
