"""Options of one generation: sampling, and the other options of ``generate`` and ``stream``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_moe.generation.output_spec import AnyTool
from flash_moe.options.declare import option
from flash_moe.options.sampling import SamplingParams


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(SamplingParams):
    """Options of ``model.generate`` and ``model.stream``."""

    prefill_step: int | None = option(
        None,
        "prompt tokens of one prefill chunk",
        "--prefill-step",
        unit="tokens",
        minimum=1,
        default="as many as memory allows, 64 to 8192, or 2048 where all experts are cached; "
        "several chunks run layer by layer",
    )
    prompt_cache: Sequence[Any] | None = option(
        None,
        "prompt cache of mlx-lm (make_prompt_cache(model)) to continue from; updated in place",
    )
    on_prefill: Callable[[int, int], None] | None = option(
        None,
        "function called after each chunk, or layer by layer, with the prompt tokens processed (in "
        "the middle of a pass the share of its layers) and their total",
    )
    template_args: Mapping[str, Any] = option(
        {}, 'arguments of the chat template, such as {"enable_thinking": False}'
    )
    tools: Sequence[AnyTool] = option(
        (),
        "functions with type hints, flash_moe.tools.Tool objects, or schemas in OpenAI's form, "
        "for the chat template; Generation.calls contains the model's calls, which are not run",
    )
    tool_choice: str = option(
        "auto", "auto, none, required (only calls), or the name of the tool to call"
    )
    strict: bool = option(
        False, "constrain calls to the schemas of their tools (docs/constrained.md)"
    )
    response_format: Mapping[str, Any] | None = option(
        None,
        'constrain the answer to JSON, in OpenAI\'s form: {"type": "json_object"} or {"type": '
        '"json_schema", "json_schema": {"schema": ...}}; with tools: either calls or such JSON',
        default="free text",
    )
    logits_processors: Sequence[Callable[[Any, Any], Any]] = option(
        (), "additional logits processors, as mlx-lm's: (tokens, logits) -> logits"
    )
