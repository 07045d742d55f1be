"""MoE fields of a model's ``config.json``; mlx-lm reads the others."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError, ModelNotFoundError, NotMoEError, UnsupportedModelError

# Names of "experts per token" and "experts per layer" over mlx-lm's models, most common first.
TOP_K_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)
N_EXPERTS_KEYS = (
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
    "moe_num_experts",
    "num_moe_experts",
)

# A config that lists the quantization of each of 100,000 modules takes 10 MB.
MAX_CONFIG_BYTES = 64_000_000
RUN_WITH_MLX_LM = "Run it with mlx-lm: python -m mlx_lm generate --model ..."
_MAX_COUNT = 2**31 - 1
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class ModelConfig:
    """The fields of ``config.json`` that streaming needs.

    Attributes:
        raw: The whole parsed file.
        model_type: mlx-lm's name of the architecture.
        n_experts: Routed experts per MoE layer.
        top_k: Routed experts per token, by the model's own config; the most of any layer.
        top_k_key: Key of ``top_k`` in the config.
        nested: Whether the fields are in ``text_config``.
        max_context: Context length in tokens; ``None`` if the config has none.
        vocab_size: Number of token ids; ``None`` if the config has none.
    """

    raw: dict[str, Any]
    model_type: str
    n_experts: int
    top_k: int
    top_k_key: str
    nested: bool
    max_context: int | None
    vocab_size: int | None = None

    @property
    def text(self) -> dict[str, Any]:
        """The fields that describe the text model."""
        fields: dict[str, Any] = self.raw["text_config"] if self.nested else self.raw
        return fields

    def checked_top_k(self, top_k: int | None) -> int:
        """Return the experts per token to use: ``top_k``, or the model's own for ``None``.

        Raises:
            ConfigError: ``top_k`` is below 1 or above the number of experts of a layer.
        """
        if top_k is not None and not 1 <= top_k <= self.n_experts:
            raise ConfigError(
                "config",
                f"top_k: expected 1 to {self.n_experts} (experts per layer), got {top_k}",
                f"The model's own is {self.top_k}.",
            )
        return self.top_k if top_k is None else top_k

    def override(self, top_k: int | None) -> dict[str, Any]:
        """Return the update of ``config.json`` that makes mlx-lm route to ``top_k`` experts."""
        if top_k is None or top_k == self.top_k:
            return {}
        own = self.text[self.top_k_key]
        value = [min(top_k, k) for k in own] if isinstance(own, list) else top_k
        if not self.nested:
            return {self.top_k_key: value}
        return {"text_config": {**self.text, self.top_k_key: value}}


def read_config(path: Path) -> dict[str, Any]:
    """Parse ``path/config.json``.

    Raises:
        ModelNotFoundError: ``path`` is not a directory, or has no readable config.json.
    """
    if not os.path.isdir(path):
        raise ModelNotFoundError("model", f"{path} is not a directory", "Pass a model directory.")
    file = path / "config.json"
    if not os.path.isfile(file):
        raise ModelNotFoundError(
            "model",
            f"{path} is not a model directory: it has no config.json",
            "Pass the directory with config.json and the weights.",
        )
    try:
        size = file.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ValueError(f"{size} bytes, expected at most {MAX_CONFIG_BYTES}")
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotFoundError("model", f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelNotFoundError("model", f"{file} is not valid JSON: {error}") from error
    name = config.get("model_type") if isinstance(config, dict) else None
    # mlx-lm imports a module of this name.
    if not isinstance(name, str) or not _MODEL_TYPE.fullmatch(name):
        raise ModelNotFoundError("model", f"{file} has no valid model_type", "Is this a model?")
    return dict(config)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MAX_COUNT


def _first_int(table: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, int] | None:
    """Return the first key with a count, and that count; of a list, one per layer, the largest."""
    for key in keys:
        value = table.get(key)
        counts = value if isinstance(value, list) and value else [value]
        if all(map(_is_count, counts)):
            return key, max(counts)
    return None


def _check_counts(table: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Raise if a number of experts is invalid. Null and 0 mean that there are no experts."""
    for key in keys:
        value = table.get(key)
        if isinstance(value, str | int | float) and value != 0 and not _is_count(value):
            raise UnsupportedModelError(
                "model", f"config.json: {key}: expected 1 to {_MAX_COUNT}, got {value!a:.40}"
            )


def model_config(config: dict[str, Any]) -> ModelConfig:
    """Read the MoE fields of a parsed config.json.

    Raises:
        NotMoEError: The config has no experts.
        UnsupportedModelError: It has experts, but no number of experts per token, or a number of
            experts is invalid.
    """
    model_type = config["model_type"]
    text = config.get("text_config")
    nested = isinstance(text, dict) and _first_int(text, N_EXPERTS_KEYS) is not None
    fields: dict[str, Any] = config["text_config"] if nested else config
    experts = _first_int(fields, N_EXPERTS_KEYS)
    if experts is None:
        for table in (fields, text):
            _check_counts(table if isinstance(table, dict) else {}, N_EXPERTS_KEYS)
        elsewhere = [
            f"{name}.{found[0]} is {found[1]}"
            for name, table in config.items()
            if isinstance(table, dict) and (found := _first_int(table, N_EXPERTS_KEYS))
        ]
        if elsewhere:
            raise UnsupportedModelError(
                "model",
                f"{model_type} has experts ({elsewhere[0]}), but not in the switch layers of "
                "mlx-lm, the only ones that flash_moe streams",
                RUN_WITH_MLX_LM,
            )
        raise NotMoEError(
            "model",
            f"this is a {model_type} model without experts, so there is nothing to stream",
            RUN_WITH_MLX_LM,
        )
    top_k = _first_int(fields, TOP_K_KEYS)
    if top_k is None:
        _check_counts(fields, TOP_K_KEYS)
        raise UnsupportedModelError(
            "model",
            f"the config of this {model_type} model has {experts[1]} experts but no known key "
            f"for experts per token ({', '.join(TOP_K_KEYS)})",
        )
    if top_k[1] > experts[1]:
        raise UnsupportedModelError(
            "model", f"config.json: {top_k[0]}: expected 1 to {experts[1]}, got {top_k[1]}"
        )

    def optional(key: str) -> int | None:
        found = _first_int(fields, (key,)) or _first_int(config, (key,))
        return found[1] if found else None

    return ModelConfig(
        raw=config,
        model_type=model_type,
        n_experts=experts[1],
        top_k=top_k[1],
        top_k_key=top_k[0],
        nested=nested,
        max_context=optional("max_position_embeddings"),
        vocab_size=optional("vocab_size"),
    )
