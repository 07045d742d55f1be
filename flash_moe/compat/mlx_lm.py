"""The parts of mlx-lm that flash_moe relies on.

The rest of the package imports mlx-lm's names from here. If mlx-lm lacks one of them, or a
parameter that we pass, the import of this module fails with a clear error, instead of a model
failing later. Tested with mlx-lm 0.31.3 (the last for Python 3.10) and 0.32.2.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe.errors import IncompatibleMlxLmError, ModelNotFoundError, UnsupportedModelError

TESTED = "0.31.3 to 0.32.2"

# module, name, parameters that we pass by keyword
RELIED_ON: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("mlx_lm.utils", "load_model", ("lazy", "strict", "model_config", "get_model_classes")),
    ("mlx_lm.utils", "load_tokenizer", ("tokenizer_config_extra", "eos_token_ids")),
    ("mlx_lm.utils", "_get_classes", ("config",)),
    ("mlx_lm.utils", "quantize_model", ("quant_predicate",)),
    ("mlx_lm.utils", "save_config", ()),
    ("mlx_lm.generate", "wired_limit", ()),
    (
        "mlx_lm.generate",
        "BatchGenerator",
        ("stop_tokens", "completion_batch_size", "prefill_batch_size"),
    ),
    (
        "mlx_lm.generate",
        "BatchGenerator.insert",
        ("max_tokens", "caches", "all_tokens", "samplers", "logits_processors"),
    ),
    ("mlx_lm.generate", "BatchGenerator.extract_cache", ("uids",)),
    ("mlx_lm.generate", "generation_stream", ()),
    ("mlx_lm.models.cache", "make_prompt_cache", ("max_kv_size",)),
    ("mlx_lm.models.cache", "LRUPromptCache", ("max_size", "max_bytes")),
    ("mlx_lm.models.cache", "LRUPromptCache.insert_cache", ("cache_type",)),
    ("mlx_lm.models.cache", "save_prompt_cache", ()),
    ("mlx_lm.models.cache", "load_prompt_cache", ("return_metadata",)),
    ("mlx_lm.models.base", "scaled_dot_product_attention", ("cache", "scale", "mask", "sinks")),
    ("mlx_lm.models.switch_layers", "SwitchGLU", ()),
    ("mlx_lm.models.switch_layers", "SwitchMLP", ()),
    ("mlx_lm.models.switch_layers", "SwiGLU", ()),
    ("mlx_lm.models.qwen2_moe", "Qwen2MoeSparseMoeBlock", ()),
    ("mlx_lm.models.qwen3_moe", "Qwen3MoeSparseMoeBlock", ()),
    ("mlx_lm.models.qwen3_next", "Qwen3NextSparseMoeBlock", ()),
    (
        "mlx_lm.sample_utils",
        "make_sampler",
        (
            *("temp", "top_p", "min_p", "top_k", "xtc_probability", "xtc_threshold"),
            "xtc_special_tokens",
        ),
    ),
    (
        "mlx_lm.sample_utils",
        "make_logits_processors",
        (
            *("logit_bias", "repetition_penalty", "repetition_context_size", "presence_penalty"),
            *("presence_context_size", "frequency_penalty", "frequency_context_size"),
        ),
    ),
)


def _lookup(module: str, name: str, parameters: tuple[str, ...]) -> Any:
    def incompatible(problem: str) -> IncompatibleMlxLmError:
        try:
            from importlib.metadata import version

            installed = version("mlx-lm")
        except ImportError:
            installed = "none"
        return IncompatibleMlxLmError(
            "mlx-lm",
            f"{problem}; installed: {installed}, tested: {TESTED}",
            "Install a tested version: pip install 'mlx-lm<0.33'",
        )

    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except ImportError as error:
        raise incompatible(f"expected to import {module}, got: {error}") from error
    except AttributeError:
        raise incompatible(f"expected {module}.{name}, which does not exist") from None
    if parameters:
        accepted = inspect.signature(value).parameters
        missing = [p for p in parameters if p not in accepted]
        if missing:
            raise incompatible(f"expected {module}.{name} to take {', '.join(missing)}")
    return value


def check() -> None:
    """Look up all names and parameters.

    Raises:
        IncompatibleMlxLmError: One is missing; the message has its name and the versions.
    """
    for module, name, parameters in RELIED_ON:
        _lookup(module, name, parameters)


def _optional(module: str, name: str) -> Any:
    """Return an optional class of mlx-lm, or an unused one if mlx-lm lacks it."""
    try:
        return _lookup(module, name, ())
    except IncompatibleMlxLmError:
        return type(f"No{name}", (), {})


check()
_names: dict[str, Any] = {name: _lookup(module, name, ()) for module, name, _ in RELIED_ON}

load_model: Callable[..., Any] = _names["load_model"]
load_tokenizer: Callable[..., Any] = _names["load_tokenizer"]
get_classes: Callable[..., tuple[type, type]] = _names["_get_classes"]
quantize_model: Callable[..., Any] = _names["quantize_model"]
save_config: Callable[..., None] = _names["save_config"]
wired_limit: Callable[..., Any] = _names["wired_limit"]
BatchGenerator: Any = _names["BatchGenerator"]
LRUPromptCache: Any = _names["LRUPromptCache"]
generation_stream: Any = _names["generation_stream"]
make_prompt_cache: Callable[..., list[Any]] = _names["make_prompt_cache"]
save_prompt_cache: Callable[..., None] = _names["save_prompt_cache"]
load_prompt_cache: Callable[..., list[Any]] = _names["load_prompt_cache"]
scaled_dot_product_attention: Callable[..., mx.array] = _names["scaled_dot_product_attention"]
SwitchGLU: Any = _names["SwitchGLU"]
SwitchMLP: Any = _names["SwitchMLP"]
SwiGLU: Any = _names["SwiGLU"]
Qwen2MoeSparseMoeBlock: Any = _names["Qwen2MoeSparseMoeBlock"]
Qwen3MoeSparseMoeBlock: Any = _names["Qwen3MoeSparseMoeBlock"]
Qwen3NextSparseMoeBlock: Any = _names["Qwen3NextSparseMoeBlock"]
make_sampler: Callable[..., Callable[[Any], Any]] = _names["make_sampler"]
make_logits_processors: Callable[..., list[Any]] = _names["make_logits_processors"]

# flash_moe/model/padding.py reads padding from these classes, including private attributes.
ArraysCache: Any = _optional("mlx_lm.models.cache", "ArraysCache")
KVCache: Any = _optional("mlx_lm.models.cache", "KVCache")
BatchKVCache: Any = _optional("mlx_lm.models.cache", "BatchKVCache")
BatchRotatingKVCache: Any = _optional("mlx_lm.models.cache", "BatchRotatingKVCache")
CacheList: Any = _optional("mlx_lm.models.cache", "CacheList")

# flash_moe/model/recorded.py records their passes.
DecoderLayer: Any = _optional("mlx_lm.models.qwen3_5", "DecoderLayer")
Qwen3NextDecoderLayer: Any = _optional("mlx_lm.models.qwen3_next", "Qwen3NextDecoderLayer")
GatedDeltaNet: Any = _optional("mlx_lm.models.qwen3_5", "GatedDeltaNet")
Qwen3NextGatedDeltaNet: Any = _optional("mlx_lm.models.qwen3_next", "Qwen3NextGatedDeltaNet")


def model_classes(component: str, config: dict[str, Any]) -> tuple[type, type]:
    """Return mlx-lm's ``Model`` and ``ModelArgs`` for a config.json.

    Args:
        component: Component named in the error.

    Raises:
        UnsupportedModelError: mlx-lm does not support the architecture.
    """
    try:
        return get_classes(config=config)
    except ValueError as error:
        raise UnsupportedModelError(component, f"mlx-lm: {error}", "Update mlx-lm.") from error


def open_tokenizer(
    component: str, path: Path, eos_token_ids: Any = None, options: Mapping[str, Any] | None = None
) -> Any:
    """Return mlx-lm's tokenizer of a model directory.

    Args:
        component: Component named in the errors.
        eos_token_ids: Tokens that end an answer, besides the tokenizer's own.
        options: Options that override those of the tokenizer's files.

    Raises:
        ModelNotFoundError: The tokenizer cannot be loaded.
    """
    try:
        # Without this option transformers prompts on the terminal to run code of the model.
        tokenizer = load_tokenizer(
            path, {"trust_remote_code": False, **(options or {})}, eos_token_ids=eos_token_ids
        )
    except Exception as error:  # transformers raises anything for bad files
        raise ModelNotFoundError(
            component,
            f"{path}: the tokenizer cannot be loaded: {type(error).__name__}: {error}",
            "Do tokenizer.json and tokenizer_config.json belong to the model?",
        ) from error
    if not tokenizer.vocab_size:  # transformers returns an empty one if the files are missing
        raise ModelNotFoundError(
            component, f"{path}: the tokenizer has no tokens", "Is tokenizer.json missing?"
        )
    # mlx-lm 0.31.3 leaves out the tokenizer's own end if a config names others.
    tokenizer.eos_token_ids = {*tokenizer.eos_token_ids, tokenizer.eos_token_id} - {None}
    return tokenizer


def cached_positions(cache: Sequence[Any]) -> int:
    """Return the number of positions in a prompt cache."""
    return max((_offset(c) for c in cache), default=0)


def _offset(cache: Any) -> int:
    """Return the offset of one layer's cache; for a batch that of the longest row."""
    offset = getattr(cache, "offset", 0)
    if isinstance(offset, mx.array):
        return int(offset.max().item())  # type: ignore[arg-type]
    return int(offset or 0)


def replace_gated_delta_ops(
    replacement: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Replace mlx-lm's ``gated_delta_ops`` by ``replacement`` of it, once per process.

    mlx-lm calls it where it has no kernel of its own, such as on CUDA, and has no hook there.
    Without the function (an mlx-lm without such models) nothing happens.
    """
    try:
        module: Any = importlib.import_module("mlx_lm.models.gated_delta")
        original = module.gated_delta_ops
    except (ImportError, AttributeError):
        return
    if not hasattr(original, "__wrapped__"):
        module.gated_delta_ops = functools.wraps(original)(replacement(original))


@functools.cache
def scales_normalized_keys() -> bool:
    """True if gated delta nets normalise queries and keys by ``normalize_qk`` (mlx-lm 0.32).

    Before, the norm had another epsilon.
    """
    try:
        return hasattr(importlib.import_module("mlx_lm.models.gated_delta"), "normalize_qk")
    except ImportError:
        return False


def with_attention(method: Any, attention: Callable[..., mx.array]) -> Callable[..., Any] | None:
    """Return a copy of a method that calls ``attention`` as ``scaled_dot_product_attention``.

    The method's module, which other models share, is not changed.

    Returns:
        The copy, or ``None`` if the method does not call mlx-lm's function by that name.
    """
    name = scaled_dot_product_attention.__name__
    if not isinstance(method, types.FunctionType) or name not in method.__code__.co_names:
        return None
    if method.__globals__.get(name) is not scaled_dot_product_attention:
        return None
    copied = types.FunctionType(
        method.__code__,
        {**method.__globals__, name: attention},
        argdefs=method.__defaults__,
        closure=method.__closure__,
    )
    copied.__kwdefaults__ = method.__kwdefaults__
    return functools.wraps(method)(copied)
