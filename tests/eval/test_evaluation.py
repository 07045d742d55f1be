"""Whole evaluations of tiny models, against numbers worked out from mlx-lm's models."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.utils import load_model

from flash_moe.errors import BudgetError, ConfigError, NotMoEError, PromptError
from flash_moe.eval.evaluation import Plan, Run, evaluate, make_plan
from flash_moe.eval.models import reference, streamed
from flash_moe.eval.report import short_names, to_json
from flash_moe.eval.windows import Window, read_text
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.testing import PRESETS, write_hf_checkpoint, write_mlx_checkpoint

N_TOKENS = 200
SMALL = {"cache_gb": 0.002}
RECORD = 16384


def runs(stores: list[Path], options: dict[str, Any] | None = None, **how: Any) -> list[Run]:
    plan = make_plan(
        [str(store) for store in stores],
        read_text(),
        n_tokens=how.pop("n_tokens", N_TOKENS),
        options=options or SMALL,
        **how,
    )
    return list(evaluate(plan))


def log_probabilities(checkpoint: Path, windows: list[Window], **override: Any) -> np.ndarray:
    """Of mlx-lm's model, a window at once without a cache, float64 [tokens, vocabulary]."""
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    model, _ = load_model(checkpoint, model_config={"text_config": {**text, **override}})
    rows = [np.array(model(mx.array([w.inputs]))[0]).astype(np.float64) for w in windows]
    x = np.concatenate(rows)
    top = x.max(1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(1, keepdims=True))


def test_against_mlx_lm(tiny_mlx: Path, tiny_store: Path) -> None:
    plan = make_plan([str(tiny_store)], read_text(), top_ks=(2, 4), n_tokens=600)
    full, fewer = evaluate(dataclasses.replace(plan, options=SMALL))
    windows = list(plan.windows)
    assert [len(w.inputs) for w in windows] == [511, 87]
    targets = [t for w in windows for t in w.targets]
    log_p = log_probabilities(tiny_mlx, windows)
    log_q = log_probabilities(tiny_mlx, windows, num_experts_per_tok=2)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert kl.mean() > 1e-3
    for run, log in ((full, log_p), (fewer, log_q)):
        nll = -log[range(len(targets)), targets].mean()
        assert run.text.n_tokens == len(targets) == 598
        assert run.text.mean_nll == pytest.approx(nll, rel=1e-6)
        assert run.text.perplexity == pytest.approx(math.exp(nll), rel=1e-5)
    assert (full.is_reference, full.candidate.top_k, full.text.mean_kl) == (True, 4, None)
    assert (fewer.is_reference, fewer.candidate.top_k) == (False, 2)
    assert fewer.text.mean_kl == pytest.approx(kl.mean(), rel=1e-4)
    assert fewer.text.p99_kl == pytest.approx(np.percentile(kl, 99), rel=1e-4)
    same = (log_p.argmax(1) == log_q.argmax(1)).mean()
    assert abs((fewer.text.agreement or 0) - same) <= 2 / 598  # but for near ties
    assert same < 1


@pytest.mark.parametrize("slots", [0.001, 0.01])
def test_a_run_with_itself(tiny_store: Path, slots: float) -> None:
    first, again = runs([tiny_store], {"cache_gb": slots}, reference_name=str(tiny_store))
    assert (again.text.mean_kl, again.text.p99_kl, again.text.agreement) == (0, 0, 1)
    assert again.text.mean_nll == first.text.mean_nll


def test_streamed_and_resident_give_the_same(tiny_mlx: Path, tiny_store: Path) -> None:
    resident, packed, direct = runs([tiny_store, tiny_mlx], reference_name=str(tiny_mlx))
    assert resident.candidate.resident
    assert not packed.candidate.resident
    for run in (packed, direct):
        assert (run.text.mean_kl, run.text.p99_kl, run.text.agreement) == (0, 0, 1)
        assert run.text.mean_nll == resident.text.mean_nll


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    geometry = dataclasses.replace(PRESETS["tiny"], scale_dtype="bfloat16")
    write_mlx_checkpoint(tmp_path / "mlx", geometry)
    pack(open_source(tmp_path / "mlx"), tmp_path / "store")
    resident, streamed_run = runs(
        [tmp_path / "store"], reference_name=str(tmp_path / "mlx"), n_tokens=200
    )
    assert streamed_run.text.mean_kl < 1e-9
    assert streamed_run.text.mean_nll == pytest.approx(resident.text.mean_nll, rel=1e-6)


def test_a_dense_reference(tiny_store: Path, tmp_path: Path) -> None:
    """Anything that mlx-lm runs may be the reference, if it has the vocabulary."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-5,
        "vocab_size": 512,
    }
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.save_weights(str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_store / name, tmp_path / name)
    dense, streamed_run = runs([tiny_store], reference_name=str(tmp_path), n_tokens=60)
    assert (dense.candidate.top_k, dense.candidate.bytes_per_token) == (None, None)
    assert (streamed_run.text.mean_kl or 0) > 0.1


def test_fewer_bits(tiny_hf: Path, tiny_store: Path, tmp_path: Path) -> None:
    """Of the same weights: the fewer bits, the farther from the model that is not quantized."""
    for bits in (8, 4, 2):
        pack(open_source(tiny_hf, QuantizationConfig(bits)), tmp_path / str(bits))
    stores = [tmp_path / str(bits) for bits in (8, 4, 2)]
    exact, *packed = runs(stores, reference_name=str(tiny_hf), n_tokens=100)
    assert exact.candidate.resident
    assert exact.candidate.top_k == 4
    assert exact.candidate.bytes_per_token is None  # not stacked, so not known
    distances = [run.text.mean_kl for run in packed]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert [run.candidate.bits_per_weight for run in packed] == [9.0, 5.0, 3.0]


def test_what_is_run(tiny_store: Path, tiny_mlx: Path) -> None:
    def plan(**how: Any) -> list[tuple[str, int | None, bool]]:
        made = make_plan([str(tiny_store), str(tiny_mlx)], read_text(), **how)
        assert made.candidates[0] is made.reference
        return [(Path(c.name).name[:7], c.top_k, c.resident) for c in made.candidates]

    a, b = "tiny-st", "tiny-ml"
    assert plan() == [(a, 4, False), (b, 4, False)]
    assert plan(top_ks=(4, 2, 2)) == [(a, 4, False), (a, 2, False), (b, 4, False), (b, 2, False)]
    assert plan(top_ks=(3,)) == [(a, 4, False), (a, 3, False), (b, 3, False)]
    assert plan(reference_name=str(tiny_mlx))[0] == (b, 4, True)
    assert len(plan(reference_name=str(tiny_store), top_ks=(4,))) == 3


def test_bytes_and_bits(tiny_store: Path, tiny_mlx: Path) -> None:
    for found in (streamed(str(tiny_store), 3), streamed(str(tiny_mlx), 3)):
        assert found.bytes_per_token == 3 * 4 * RECORD
        # 4 bits, and a float32 scale and bias for 64 of them.
        assert found.bits_per_weight == 5.0
        assert (found.top_k, found.own_top_k) == (3, 4)
    assert reference(str(tiny_mlx)).bytes_per_token == 4 * 4 * RECORD


def test_bad_plans(tiny_store: Path, tmp_path: Path) -> None:
    def plan(store: Path = tiny_store, **how: Any) -> Plan:
        return make_plan([str(store)], how.pop("text", read_text()), **how)

    for k in (0, 33, -1):
        with pytest.raises(ConfigError, match=r"top_k: expected 1 to 32 .*own is 4"):
            plan(top_ks=(4, k))
    with pytest.raises(PromptError, match="too short"):
        plan(text="e")
    with pytest.raises(ConfigError, match="max_tokens"):
        plan(max_tokens=0)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(NotMoEError):
        plan(store=tmp_path)
    with pytest.raises(BudgetError):
        list(evaluate(plan(options={"cache_gb": 1e-6})))


@pytest.mark.parametrize("as_reference", [False, True])
def test_different_vocabularies(
    tiny_store: Path, tiny_mlx: Path, tmp_path: Path, as_reference: bool
) -> None:
    larger = dataclasses.replace(PRESETS["tiny"], vocab=600)
    write_mlx_checkpoint(tmp_path / "larger", larger)
    names = [str(tiny_store), str(tmp_path / "larger")]
    with pytest.raises(ConfigError, match=r"vocabulary of the reference .* \(512 tokens\), got 60"):
        make_plan(names, read_text())
    if as_reference:
        with pytest.raises(ConfigError, match=r"\(600 tokens\), got 512"):
            make_plan(names[:1], read_text(), reference_name=names[1])


def test_tokenizers_that_differ(tiny_store: Path, mlx_copy: Path) -> None:
    """The vocabularies have one size, but the ids mean other texts."""
    file = mlx_copy / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="a tokenizer that splits the text differently"):
        make_plan([str(tiny_store), str(mlx_copy)], read_text())


def test_config_that_hides_the_vocabulary(tiny_store: Path, tiny_mlx: Path) -> None:
    """What config.json does not say is found when the logits come."""
    plan = make_plan([str(tiny_store)], read_text(), reference_name=str(tiny_mlx), n_tokens=40)
    unknown = [dataclasses.replace(c, vocab_size=None) for c in plan.candidates]
    plan = dataclasses.replace(plan, reference=unknown[0], runs=unknown[1:], options=SMALL)
    assert [run.text.mean_kl for run in evaluate(plan)] == [None, 0]


def test_prompts_are_asked_and_judged(tiny_store: Path, tiny_mlx: Path) -> None:
    said = [{"role": "user", "content": "hi"}]
    call = {"name": "f", "arguments": {}}
    prompts = [
        {"kind": "tool", "messages": said, "tools": [], "expected": call},
        {"kind": "json", "messages": said, "tools": [], "expected": {}},
        {"kind": "answer", "messages": said, "tools": [], "expected": []},
    ]
    steps: list[tuple[str, int]] = []
    plan = make_plan(
        [str(tiny_store)],
        read_text(),
        reference_name=str(tiny_mlx),
        n_tokens=40,
        prompts=prompts,
        options=SMALL,
        max_tokens=4,
    )
    found = list(evaluate(plan, lambda what, n: steps.append((what, n))))
    for run in found:
        assert run.prompts is not None
        assert run.prompts.asked == {"tool": 1, "json": 1, "answer": 1}
        # Random weights call nothing; an answer that needs no text is right.
        expected = {"tool": 0, "tool_name": 0, "tool_f": 0, "json": 0, "json_valid": 0, "answer": 1}
        assert run.prompts.shares == expected
    assert sum(n for what, n in steps if what == "tokens") == 2 * 39
    assert sum(n for what, n in steps if what == "answers") == 2 * 3
    table = to_json(plan, found)
    assert table["complete"]
    assert not to_json(plan, found[:1])["complete"]
    assert table["runs"][1]["prompts"]["shares"]["answer"] == 1
    assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_nothing_stays_in_the_temporary_directory(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = make_plan([str(tiny_store)], read_text(), top_ks=(2,), n_tokens=60, options=SMALL)
    stopped: Iterator[Run] = evaluate(plan)
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]

    def fail(what: str, n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(evaluate(plan, fail))
    assert len(list(evaluate(plan))) == 2
    assert list(tmp_path.iterdir()) == []


def test_short_names(tiny_store: Path) -> None:
    one = streamed(str(tiny_store))
    names = ["/a/b/store", "/a/c/store", "/a/b/other", "org/model"]
    found = short_names([dataclasses.replace(one, name=name) for name in names])
    assert list(found.values()) == ["/a/b/store", "/a/c/store", "other", "model"]


def test_an_hf_checkpoint_is_no_store(tmp_path: Path) -> None:
    from flash_moe.errors import UnsupportedModelError

    write_hf_checkpoint(tmp_path, PRESETS["tiny"])
    with pytest.raises(UnsupportedModelError, match="Pack it first"):
        make_plan([str(tmp_path)], read_text())
