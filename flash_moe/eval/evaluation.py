"""An evaluation: one reference, several runs, each measured on one text and one set of prompts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import open_tokenizer
from flash_moe.errors import ConfigError
from flash_moe.eval import scoring
from flash_moe.eval.answers import MAX_TOKENS, answer_prompts, call_in, supported_prompts
from flash_moe.eval.logits import Floats, ReferenceLogits, logits_of, slice_for
from flash_moe.eval.models import (
    Candidate,
    check_vocabulary,
    opened,
    other_vocabulary,
    reference,
    streamed,
)
from flash_moe.eval.prompts import kinds
from flash_moe.eval.scoring import Prompt
from flash_moe.eval.token_scores import TextScores, TextTally
from flash_moe.eval.windows import TOKENS, Window, n_scored, windows
from flash_moe.memory.system import release_free_memory


@dataclass(frozen=True)
class PromptScores:
    """Figures of a run on prompts.

    Attributes:
        asked: Prompts of each kind that the model could be asked.
        shares: Of right answers, from 0 to 1, as :func:`judge.scores` names them: ``json_valid``,
            ``json``, ``tool_name``, ``tool`` and so on. A kind that was not asked has none.
    """

    asked: Mapping[str, int]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One row of the report.

    Attributes:
        prompts: ``None`` if there were none.
    """

    candidate: Candidate
    is_reference: bool
    text: TextScores
    prompts: PromptScores | None = None


@dataclass(frozen=True)
class Plan:
    """What will be run, checked as far as it can be without loading a model.

    Attributes:
        runs: In order; the reference is not among them.
        windows: The text, as the tokenizer of all of them cuts it.
        options: Options of ``load()``, but ``top_k``.
        thinking: Whether models may think before they answer.
        max_tokens: Where an answer is cut off.
    """

    reference: Candidate
    runs: Sequence[Candidate]
    windows: Sequence[Window]
    prompts: Sequence[Prompt] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    thinking: bool = False
    max_tokens: int = MAX_TOKENS

    @property
    def candidates(self) -> list[Candidate]:
        """All that are loaded, one after another."""
        return [self.reference, *self.runs]


def make_plan(
    stores: Sequence[str],
    text: str,
    *,
    top_ks: Sequence[int] = (),
    reference_name: str | None = None,
    n_tokens: int = TOKENS,
    prompts: Sequence[Prompt] = (),
    options: Mapping[str, Any] | None = None,
    thinking: bool = False,
    max_tokens: int = MAX_TOKENS,
) -> Plan:
    """Say what will be run: each store at each top-k, by default the model's own.

    Without a reference it is the first store at its own top-k, which is not run a second time.

    Raises:
        ModelError, StoreError: A model is not there, or cannot be streamed.
        ConfigError: An option out of range, or models with different vocabularies.
        PromptError: The text is too short.
    """
    if max_tokens < 1:
        raise ConfigError("eval", f"max_tokens: expected at least 1, got {max_tokens}")
    first = streamed(stores[0]) if reference_name is None else reference(reference_name)
    found = [streamed(name, k) for name in stores for k in dict.fromkeys(top_ks or (None,))]
    runs = [run for run in dict.fromkeys(found) if reference_name is not None or run != first]
    cut = _common_windows(first, runs, text, n_tokens)
    return Plan(first, runs, cut, prompts, dict(options or {}), thinking, max_tokens)


def _common_windows(
    first: Candidate, runs: Sequence[Candidate], text: str, n_tokens: int
) -> list[Window]:
    """The windows of the text. Raises ConfigError if two models read it as different tokens."""
    cut = windows(open_tokenizer("eval", first.path), text, n_tokens)
    paths = {first.path}
    for run in runs:
        check_vocabulary(run, first)
        if run.path not in paths:
            paths.add(run.path)
            if windows(open_tokenizer("eval", run.path), text, n_tokens) != cut:
                raise other_vocabulary(run, first, "", "a tokenizer that cuts the text otherwise")
    return cut


def evaluate(
    plan: Plan, on_step: Callable[[str, int], None] = lambda what, n: None
) -> Iterator[Run]:
    """Run everything, the reference first; one model is open at a time.

    Args:
        on_step: Called with ``"tokens"`` or ``"answers"``, and how many more are done.

    Raises:
        ConfigError: The disk has no room for the logits of the reference.
        FlashMoEError: A model cannot be loaded or read.
    """
    with ExitStack() as stack:
        comparison = _Comparison(plan, stack)
        for candidate in plan.candidates:
            run = _run(plan, candidate, comparison, on_step)
            gc.collect()  # a model that hangs in a cycle would be there beside the next one
            mx.clear_cache()
            release_free_memory()
            yield run


def _run(
    plan: Plan,
    candidate: Candidate,
    comparison: _Comparison,
    on_step: Callable[[str, int], None],
) -> Run:
    with opened(candidate, plan.options) as (model, tokenizer):
        text = comparison.scores(candidate, model, tokenizer, on_step)
        prompts = None
        if plan.prompts:
            asked = supported_prompts(tokenizer, plan.prompts)
            answers = answer_prompts(
                model,
                tokenizer,
                asked,
                thinking=plan.thinking,
                max_tokens=plan.max_tokens,
                max_context=candidate.max_context,
                on_answer=lambda: on_step("answers", 1),
            )
            on_step("answers", len(plan.prompts) - len(asked))
            shares = scoring.scores(asked, answers, partial(call_in, tokenizer))
            prompts = PromptScores(kinds(asked), shares)
    return Run(candidate, candidate is plan.reference, text, prompts)


class _Comparison:
    """Measures the text. The first model is the reference: its logits are kept for the others."""

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        self._plan, self._stack = plan, stack
        self._slice = 0
        self._kept: ReferenceLogits | None = None

    def scores(
        self,
        candidate: Candidate,
        model: Any,
        tokenizer: Any,
        on_step: Callable[[str, int], None],
    ) -> TextScores:
        plan, tally, position = self._plan, TextTally(), 0
        if not self._slice:
            self._slice = slice_for(
                model,
                candidate.vocab_size or len(tokenizer.get_vocab()),
                max(len(window.inputs) for window in plan.windows),
                memory_limited=plan.options.get("memory_gb") is not None,
            )
        for rows, targets in logits_of(model, plan.windows, self._slice):
            if candidate is plan.reference:
                self._keep(rows)
                tally.add(rows, targets)
            else:
                tally.add(rows, targets, self._reference(candidate, position, rows.shape))
            position += len(targets)
            on_step("tokens", len(targets))
        return tally.scores()

    def _keep(self, rows: Floats) -> None:
        if not self._plan.runs:
            return
        if self._kept is None:
            n_positions = n_scored(self._plan.windows)
            self._kept = self._stack.enter_context(ReferenceLogits(n_positions, rows.shape[1]))
        self._kept.append(rows)

    def _reference(self, candidate: Candidate, start: int, shape: tuple[int, ...]) -> Floats:
        kept = self._kept
        assert kept is not None  # the reference came first
        if kept.vocab_size != shape[1]:
            raise other_vocabulary(
                candidate, self._plan.reference, f"{kept.vocab_size} tokens", str(shape[1])
            )
        return kept.rows(start, shape[0])
