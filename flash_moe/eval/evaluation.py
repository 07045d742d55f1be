"""Evaluation: a reference and several runs, measured on one text and one set of prompts."""

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
    """Scores of a run on prompts.

    Attributes:
        asked: Number of supported prompts of each kind.
        shares: Shares of correct answers, from 0 to 1, by the names of :func:`scoring.scores`:
            ``json_valid``, ``json``, ``tool_name``, ``tool`` and so on. Kinds without a supported
            prompt are left out.
    """

    asked: Mapping[str, int]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One row of the report.

    Attributes:
        prompts: ``None`` without prompts.
    """

    candidate: Candidate
    is_reference: bool
    text: TextScores
    prompts: PromptScores | None = None


@dataclass(frozen=True)
class Plan:
    """Evaluation plan, validated as far as possible without loading a model.

    Attributes:
        runs: Runs in order, without the reference.
        windows: The text, as the tokenizer of all models splits it.
        options: Options of ``load()`` except ``top_k``.
        thinking: Models may reason before they answer.
        max_tokens: Maximum tokens per answer.
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
        """The reference and the runs, in the order in which they are loaded."""
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
    """Plan a run of each store at each top-k, by default the model's own.

    The default reference is the first store at its own top-k, which is not run a second time.

    Raises:
        ModelError, StoreError: A model does not exist or cannot be streamed.
        ConfigError: An option is out of range, or the models have different vocabularies.
        PromptError: The text is too short.
    """
    if max_tokens < 1:
        raise ConfigError("eval", f"max_tokens: expected at least 1, got {max_tokens}")
    first = streamed(stores[0]) if reference_name is None else reference(reference_name)
    planned = [streamed(name, k) for name in stores for k in dict.fromkeys(top_ks or (None,))]
    runs = [run for run in dict.fromkeys(planned) if reference_name is not None or run != first]
    cut = _common_windows(first, runs, text, n_tokens)
    return Plan(first, runs, cut, prompts, dict(options or {}), thinking, max_tokens)


def _common_windows(
    first: Candidate, runs: Sequence[Candidate], text: str, n_tokens: int
) -> list[Window]:
    """Return the windows of the text. Raises ConfigError if two models tokenize it differently."""
    cut = windows(open_tokenizer("eval", first.path), text, n_tokens)
    paths = {first.path}
    for run in runs:
        check_vocabulary(run, first)
        if run.path not in paths:
            paths.add(run.path)
            if windows(open_tokenizer("eval", run.path), text, n_tokens) != cut:
                raise other_vocabulary(
                    run, first, "", "a tokenizer that splits the text differently"
                )
    return cut


def evaluate(
    plan: Plan, on_step: Callable[[str, int], None] = lambda what, n: None
) -> Iterator[Run]:
    """Run the reference, then the runs; one model is loaded at a time.

    Args:
        on_step: Called with ``"tokens"`` or ``"answers"`` and the number completed since.

    Raises:
        ConfigError: The disk is too small for the logits of the reference.
        FlashMoEError: A model cannot be loaded or read.
    """
    with ExitStack() as stack:
        comparison = _Comparison(plan, stack)
        for candidate in plan.candidates:
            run = _run(plan, candidate, comparison, on_step)
            gc.collect()  # a model in a reference cycle would still be in memory
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
    """Scores of the text. The first model is the reference, whose logits are stored."""

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        self._plan, self._stack = plan, stack
        self._slice = 0
        self._stored: ReferenceLogits | None = None

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
                self._store(rows)
                tally.add(rows, targets)
            else:
                tally.add(rows, targets, self._reference(candidate, position, rows.shape))
            position += len(targets)
            on_step("tokens", len(targets))
        return tally.scores()

    def _store(self, rows: Floats) -> None:
        if not self._plan.runs:
            return
        if self._stored is None:
            n_positions = n_scored(self._plan.windows)
            self._stored = self._stack.enter_context(ReferenceLogits(n_positions, rows.shape[1]))
        self._stored.append(rows)

    def _reference(self, candidate: Candidate, start: int, shape: tuple[int, ...]) -> Floats:
        stored = self._stored
        assert stored is not None  # the reference runs first
        if stored.vocab_size != shape[1]:
            raise other_vocabulary(
                candidate, self._plan.reference, f"{stored.vocab_size} tokens", str(shape[1])
            )
        return stored.rows(start, shape[0])
