"""Models under test: their properties before loading, and loading.

A candidate is a streamed store (or mlx checkpoint) at some number of experts per token. A reference
may also be a directory that mlx-lm loads into memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe.compat.dtypes import computed_dtype
from flash_moe.compat.mlx_lm import load_model, open_tokenizer
from flash_moe.config import model_config, read_config
from flash_moe.errors import ConfigError, FlashMoEError, ModelError
from flash_moe.errors import UnsupportedModelError as Unsupported
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load
from flash_moe.model.open import open_streaming
from flash_moe.model.top_k_warning import TopKWarning
from flash_moe.options.loading import LoadOptions
from flash_moe.store.experts import ExpertLayer, token_bytes
from flash_moe.store.manifest import is_store


@dataclass(frozen=True)
class Candidate:
    """One model at one number of experts per token.

    Attributes:
        name: Name that the user gave.
        resident: mlx-lm loads it into memory completely.
        top_k: Routed experts per token; ``None`` if a resident model has none.
        own_top_k: ``top_k`` of the model's config.
        bytes_per_token: Bytes of the experts that one token uses, in all layers: read from disk if
            none is cached. The expert cache changes the bytes read, never the quality. ``None`` if
            the experts are unknown.
        bits_per_weight: Bits per expert weight, with scales and biases, without record padding.
        vocab_size: Logits per token; ``None`` if the config has no value.
        max_context: Context length; ``None`` if the config has no value.
    """

    name: str
    path: Path
    resident: bool
    top_k: int | None
    own_top_k: int | None
    bytes_per_token: int | None
    bits_per_weight: float | None
    vocab_size: int | None
    max_context: int | None


def streamed(name: str, top_k: int | None = None) -> Candidate:
    """Describe a store or an mlx checkpoint at ``top_k``, by default its own.

    Raises:
        ModelError, StoreError: It does not exist or cannot be streamed.
        ConfigError: It has fewer than ``top_k`` experts.
    """
    path = resolve(name)
    with no_top_k_warning():
        streaming = open_streaming(path, LoadOptions(top_k=top_k))
    model = streaming.model
    layers = streaming.experts.layers
    k = streaming.top_k
    return Candidate(
        name=name,
        path=path,
        resident=False,
        top_k=k,
        own_top_k=model.top_k,
        bytes_per_token=token_bytes(layers, k),
        bits_per_weight=bits_per_weight(layers),
        vocab_size=model.vocab_size,
        max_context=model.max_context,
    )


def reference(name: str) -> Candidate:
    """Describe a reference: a store at its own top-k, or a model that mlx-lm loads completely.

    Raises:
        ModelError, StoreError: It does not exist.
    """
    path = resolve(name)
    if is_store(path):
        return streamed(name)
    config = read_config(path)
    top_k, n_bytes, bits = None, None, None
    try:
        top_k = model_config(config).top_k
        known = streamed(name)
        n_bytes, bits = known.bytes_per_token, known.bits_per_weight
    except FlashMoEError:  # dense, or its experts are not in mlx format
        pass
    return Candidate(
        name=name,
        path=path,
        resident=True,
        top_k=top_k,
        own_top_k=top_k,
        bytes_per_token=n_bytes,
        bits_per_weight=bits,
        vocab_size=_count(config, "vocab_size"),
        max_context=_count(config, "max_position_embeddings"),
    )


@contextmanager
def no_top_k_warning() -> Iterator[None]:
    """Suppress the warning about fewer experts: the evaluation measures their cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TopKWarning)
        yield


def _count(config: Mapping[str, Any], key: str) -> int | None:
    """Return a positive integer of config.json or of its ``text_config``."""
    text = config.get("text_config")
    for table in (text if isinstance(text, Mapping) else {}, config):
        value = table.get(key)
        if type(value) is int and value > 0:
            return value
    return None


def bits_per_weight(layers: Sequence[ExpertLayer]) -> float:
    """Return bits per expert weight."""
    stored = sum(8 * layer.layout.payload_bytes for layer in layers)
    return stored / sum(la.layout.n_weights for la in layers)


def check_vocabulary(candidate: Candidate, reference: Candidate) -> None:
    """Raise ConfigError if the vocabulary sizes differ."""
    got, expected = candidate.vocab_size, reference.vocab_size
    if got is not None and expected is not None and got != expected:
        raise other_vocabulary(candidate, reference, f"{expected} tokens", str(got))


def other_vocabulary(
    candidate: Candidate, reference: Candidate, expected: str, got: str
) -> ConfigError:
    """Return the error for models with different vocabularies."""
    which = f" ({expected})" if expected else ""
    return ConfigError(
        "eval",
        f"{candidate.name}: expected the vocabulary of the reference {reference.name}{which}, "
        f"got {got}",
        "Only probabilities of the same tokens can be compared.",
    )


@contextmanager
def opened(candidate: Candidate, options: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Open a model and its tokenizer inside a ``with`` block.

    Args:
        options: Options of ``load()``; a resident model ignores them.

    Raises:
        FlashMoEError: The model cannot be loaded.
    """
    if candidate.resident:
        yield _load_resident(candidate.path)
    else:
        chosen = {**options, "top_k": candidate.top_k}
        with no_top_k_warning():
            flash = load(candidate.path, **chosen)
        with flash:
            yield flash.model, flash.tokenizer


def _load_resident(path: Path) -> tuple[Any, Any]:
    try:
        # Run no code of the directory.
        model, config = load_model(path, model_config={"model_file": None})
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # mlx-lm's classes raise anything on odd configs
        raise Unsupported(
            "eval", f"{path}: mlx-lm cannot load it: {type(error).__name__}: {error}"
        ) from error
    model.apply(lambda weight: weight.astype(computed_dtype(weight.dtype)))  # as in streamed models
    mx.eval(model.parameters())
    return model, open_tokenizer("eval", path, config.get("eos_token_id"))
