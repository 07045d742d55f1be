"""Fewer experts a token than a model's own are told, once, with what is known of their price."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from flash_moe import load
from flash_moe.config import model_config, read_config
from flash_moe.demo_model import STORE
from flash_moe.model import top_k_warning
from flash_moe.model.top_k_warning import KNOWN, TopKWarning, describe, warn_of_top_k

DEMO = model_config(read_config(STORE))


def test_it_says_the_price_where_it_is_known_and_how_to_measure_it() -> None:
    said = describe(DEMO, 4)
    for part in ("4 of the model's own 10", "0.052", "flash-moe eval", "10,4"):
        assert part in said
    assert "was not measured" in describe(DEMO, 5)


def test_load_warns_once_and_never_at_the_models_own(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_k_warning, "_warned", set())  # whatever other tests have loaded
    with pytest.warns(TopKWarning, match="own 4 experts"):
        load(tiny_store, top_k=3).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tiny_store, top_k=3).close()
        load(tiny_store, top_k=4).close()
        load(tiny_store, top_k=5).close()  # more than its own: slower, nothing is cut
        load(tiny_store).close()
        warn_of_top_k(DEMO, None)


def test_the_prices_of_the_demo_model_are_those_of_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "quality.md").read_text()
    for price in KNOWN[(40, 10)].values():
        value = price.split("per token: ")[1].split(",")[0]
        assert f"{float(value):.3f}" in text
