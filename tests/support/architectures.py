"""Tiny random models of other mlx-lm architectures, made as by mlx-lm's convert."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache
from mlx_lm.utils import _get_classes, save_model

from flash_moe.testing import write_tokenizer
from tests.support.config_fields import BASE, VOCAB
from tests.support.model_configs import CONFIGS


def skip_on_old_mlx_lm(what: str) -> None:
    """Skip a test of something that mlx-lm 0.31.3, the last for Python 3.10, lacks."""
    if version("mlx-lm").startswith("0.31."):
        pytest.skip(f"mlx-lm 0.31 has no {what}")


def classes_of(config: dict[str, Any]) -> tuple[Any, Any]:
    """mlx-lm's ``Model`` and ``ModelArgs``."""
    try:
        return _get_classes(config)
    except ValueError:
        skip_on_old_mlx_lm(config["model_type"])
        raise


def write_model(path: Path, model_type: str, *, mode: str = "affine", **changes: Any) -> None:
    """A random quantized model of this architecture; ``changes`` replace values of its config."""
    config = {"model_type": model_type, **BASE, **CONFIGS[model_type], **changes}
    mx.random.seed(0)
    model_class, args_class = classes_of(config)
    model = model_class(args_class.from_dict(json.loads(json.dumps(config))))
    # Some routers start as zeros, which would send every token to the same experts.
    model.update(
        tree_map(
            lambda w: mx.random.normal(w.shape) * 0.1 if not w.any() else w, model.parameters()
        )
    )
    group_size = 64 if mode == "affine" else 32
    paths: dict[str, Any] = {}

    def predicate(name: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % group_size:
            return False
        if name.endswith("embed_tokens") or ("switch_mlp" not in name and mode != "affine"):
            return False
        paths[name] = {"group_size": group_size, "bits": 4, "mode": mode}
        return paths[name]

    nn.quantize(model, class_predicate=predicate)
    config["quantization"] = {"group_size": group_size, "bits": 4, "mode": mode, **paths}
    save_model(path, model)
    write_tokenizer(path, VOCAB)
    (path / "config.json").write_text(json.dumps(config))


def masks_new_prompts() -> bool:
    """mlx-lm 0.31.3 computes padding into the states of new prompts, and so do we then."""
    cache = ArraysCache.merge([ArraysCache(1), ArraysCache(1)])
    cache.prepare(lengths=[1, 2])
    return not np.array(cache.make_mask(2)).all()
