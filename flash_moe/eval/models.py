"""The models that are compared: what they are, known before any is loaded; and the loading.

A candidate is a store (or an mlx checkpoint) at some number of experts a token, streamed; or, as a
reference only, a directory that mlx-lm itself holds in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import load_model, load_tokenizer
from flash_moe.config import model_config, read_config
from flash_moe.errors import ConfigError, FlashMoEError, ModelError, ModelNotFoundError
from flash_moe.errors import UnsupportedModelError as Unsupported
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load
from flash_moe.model.open import open_streaming
from flash_moe.model.top_k_warning import TopKWarning
from flash_moe.options.loading import LoadOptions
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.manifest import is_store


@dataclass(frozen=True)
class Candidate:
    """One model at one number of experts a token.

    Attributes:
        name: As the user wrote it.
        resident: Loaded by mlx-lm as a whole.
        top_k: Routed experts a token; ``None`` if a resident model has none.
        own_top_k: The same, by the model's own config.
        bytes_per_token: Size of the records of the experts that one token uses, of all layers:
            what is read for it if none is in memory. A bank changes what is read, and none of the
            qualities. ``None`` where the experts are not known.
        bits_per_weight: Of the experts, with scales and biases, without the padding of records.
        vocab_size: Numbers that the model gives for each token; ``None`` if its config is silent.
        max_context: Positions the model was made for; ``None`` if its config is silent.
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
    """A store or an mlx checkpoint at ``top_k``, by default its own.

    Raises:
        ModelError, StoreError: It is not there or cannot be streamed.
        ConfigError: It has not so many experts.
    """
    path = resolve(name)
    with _no_notice():
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
        bytes_per_token=bytes_per_token(layers, k),
        bits_per_weight=bits_per_weight(layers),
        vocab_size=model.vocab_size,
        max_context=model.max_context,
    )


def reference(name: str) -> Candidate:
    """A model to compare with: a store at its own top-k, or what mlx-lm loads as a whole.

    Raises:
        ModelError, StoreError: It is not there.
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
def _no_notice() -> Iterator[None]:
    """What fewer experts cost is measured here: no notice that it is not known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TopKWarning)
        yield


def _count(config: Mapping[str, Any], key: str) -> int | None:
    """A number of config.json or of its ``text_config``."""
    text = config.get("text_config")
    for table in (text if isinstance(text, Mapping) else {}, config):
        value = table.get(key)
        if type(value) is int and value > 0:
            return value
    return None


def bytes_per_token(layers: Sequence[ExpertLayer], top_k: int) -> int:
    """Bytes of the experts of one token: ``top_k`` records of each layer."""
    return top_k * sum(layer.layout.record_bytes for layer in layers)


def bits_per_weight(layers: Sequence[ExpertLayer]) -> float:
    """Bits of the experts for each of their weights: three matrices, hidden by width, an expert."""
    stored = sum(8 * layer.layout.payload_bytes for layer in layers)
    return stored / sum(3 * la.layout.hidden_size * la.layout.expert_width for la in layers)


def tokenizer_of(path: Path, eos_token_ids: Any = None) -> Any:
    """mlx-lm's tokenizer of a directory.

    Raises:
        ModelNotFoundError: There is none that works.
    """
    try:
        # Unless it is told, transformers asks on the terminal whether to run foreign code.
        return load_tokenizer(path, {"trust_remote_code": False}, eos_token_ids=eos_token_ids)
    except Exception as error:  # whatever a file makes of transformers' classes
        raise ModelNotFoundError(
            "eval",
            f"{path}: the tokenizer cannot be loaded: {type(error).__name__}: {error}",
            "Are tokenizer.json and tokenizer_config.json those of the model?",
        ) from error


def check_vocabulary(candidate: Candidate, reference: Candidate) -> None:
    """Raise ConfigError if the two give their numbers for other tokens."""
    got, expected = candidate.vocab_size, reference.vocab_size
    if got is not None and expected is not None and got != expected:
        raise other_vocabulary(candidate, reference, f"{expected} tokens", str(got))


def other_vocabulary(
    candidate: Candidate, reference: Candidate, expected: str, got: str
) -> ConfigError:
    """The error for models that cannot be compared."""
    which = f" ({expected})" if expected else ""
    return ConfigError(
        "eval",
        f"{candidate.name}: expected the vocabulary of the reference {reference.name}{which}, "
        f"got {got}",
        "Probabilities can be compared only where they are of the same tokens.",
    )


@contextmanager
def opened(candidate: Candidate, options: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """A model and its tokenizer, for the length of a ``with``.

    Args:
        options: Options of ``load()``; a resident model has none.

    Raises:
        FlashMoEError: It cannot be loaded.
    """
    if candidate.resident:
        yield _load_resident(candidate.path)
    else:
        chosen = {**options, "top_k": candidate.top_k}
        with _no_notice():
            flash = load(candidate.path, **chosen)
        with flash:
            yield flash.model, flash.tokenizer


def _load_resident(path: Path) -> tuple[Any, Any]:
    try:
        # No code of the directory is run.
        model, config = load_model(path, model_config={"model_file": None})
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # whatever a config makes of mlx-lm's classes
        raise Unsupported(
            "eval", f"{path}: mlx-lm cannot load it: {type(error).__name__}: {error}"
        ) from error
    if mx.default_device().type == mx.cpu:
        # As streamed models do: bf16 products of MLX on a CPU are slow and lose 5 % of precision.
        model.set_dtype(mx.float32)
        mx.eval(model.parameters())
    return model, tokenizer_of(path, config.get("eos_token_id"))
