"""Whole models as on a Mac: the code path, the launches and the Metal text, with the CPU below.

Only three things are not as on a Mac: where MLX's own operations run, that our kernels run at the
call instead of lazily, and that they run in the emulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from flash_moe import load
from flash_moe.errors import UnsupportedModelError
from flash_moe.model.padding import Padding
from flash_moe.ops import dispatch, self_test_cache
from flash_moe.ops import kernel as kernel_module
from flash_moe.ops.forms import Forms
from flash_moe.ops.kernel import Kernel
from tests.support.architectures import masks_new_prompts, write_model
from tests.support.metal_emulator import emulated_metal
from tests.support.resident import Resident, budget_gb, prompt_ids

N_TOKENS = 12
# Both sides compute in float32 and add up in another order; logits have a standard deviation of 1.
LOGITS_BOUND = 1e-4


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Counter[str]]:
    """As on a Mac whose self-test was never run; counts the launches of each kernel."""
    counted: Counter[str] = Counter()
    launch = Kernel.__call__

    def counting(self: Kernel, *arrays: mx.array, **options: Any) -> list[mx.array]:
        counted[self.name] += 1
        return launch(self, *arrays, **options)

    monkeypatch.setattr(Kernel, "__call__", counting)
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")
    monkeypatch.setattr(self_test_cache, "cache_file", lambda: tmp_path / "self-test.json")
    kernel_module._build.cache_clear()
    with emulated_metal():
        yield counted
    kernel_module._build.cache_clear()


@pytest.mark.parametrize("share", ["layer", "token", "all"])
def test_qwen3_5_generates_the_resident_tokens(
    tiny_mlx: Path, tiny_store: Path, launches: Counter[str], share: str
) -> None:
    """A slab shared by the layers, slots for one token, and all experts."""
    resident = Resident(tiny_mlx)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, share), kernels="require") as flash:
        tested = launches.copy()
        answer = flash.generate(prompt_ids(9), max_tokens=N_TOKENS)
        assert list(answer.token_ids) == resident.tokens(prompt_ids(9), N_TOKENS)
    # Every layer of every token that was fed back; the prompt's rows may go another way.
    n_layers = 4
    for name in ("router_topk", "moe_gate_up", "moe_down"):
        assert launches[name] - tested[name] >= n_layers * (N_TOKENS - 1)


def test_logits(tiny_mlx: Path, tiny_store: Path) -> None:
    with load(tiny_store, kernels="require") as flash:
        got = np.array(flash.model(mx.array([prompt_ids(20)])))
    assert np.abs(got - Resident(tiny_mlx).logits(prompt_ids(20))).max() < LOGITS_BOUND


def test_bits_do_not_depend_on_what_the_bank_holds(
    tiny_store: Path, launches: Counter[str]
) -> None:
    """The same token with no expert, some and all of them in slots."""
    prompt, found, counted = prompt_ids(1), [], []
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half"), kernels="require") as flash:
        for others in ([], [prompt_ids(1, seed) for seed in range(1, 4)], [prompt]):
            for other in others:
                mx.eval(flash.model(mx.array([other])))
            before, stats = launches.copy(), flash.stats
            found.append(np.array(flash.model(mx.array([prompt]))))
            stats = flash.stats - stats
            counted.append((stats.hits, stats.misses))
            split = launches["moe_gate_up"] - before["moe_gate_up"] > 4
            if any(0 < layer.hits < 4 for layer in stats.layers):
                assert split
            if not stats.misses:  # what is read may come in one piece or in several
                assert not split
            if len(found) == 1:  # the next round begins with other experts
                for seed in range(4, 24):
                    mx.eval(flash.model(mx.array([prompt_ids(1, seed)])))
    assert [0 < hits < 16 for hits, _ in counted] == [False, True, False]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


ROUTED = {"moe_gate_up", "moe_down"}


@pytest.mark.parametrize(
    ("n_tokens", "forms", "expected"),
    [
        (16, Forms(), {"router_topk", *ROUTED}),  # few rows per expert in the mean: kernels and MLX
        (16, Forms(many=True), {"router_topk", *ROUTED}),
        (16, Forms(few=False), set()),  # mlx-lm's own block
        (60, Forms(), ROUTED),  # experts with less than 4 rows
        (1, Forms(one=False), set()),
        (1, Forms(few=False), {"router_topk", *ROUTED}),
    ],
)
def test_forms(
    tiny_mlx: Path,
    tiny_store: Path,
    launches: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    n_tokens: int,
    forms: Forms,
    expected: set[str],
) -> None:
    """Any mixture of forms has the logits of resident mlx-lm, and no bit depends on the bank."""
    monkeypatch.setattr(dispatch, "DEFAULT", forms)
    prompt = prompt_ids(n_tokens)
    resident = Resident(tiny_mlx).logits(prompt)
    found = set()
    for share in ("token", "all"):
        with load(tiny_store, cache_gb=budget_gb(tiny_store, share), kernels="require") as flash:
            before = launches.copy()
            for _ in range(1 + (share == "all")):  # with no expert in slots, then with all
                got = np.array(flash.model(mx.array([prompt])))
                found.add(got.tobytes())
        assert np.abs(got - resident).max() < LOGITS_BOUND
        assert {name for name in launches if launches[name] > before[name]} == expected
    assert len(found) == 1


@pytest.mark.parametrize(
    ("model_type", "fused"),
    [
        ("qwen2_moe", True),
        ("qwen3_moe", True),
        ("qwen3_next", True),
        ("olmoe", False),
        ("mixtral", False),
        ("deepseek_v3", False),
    ],
)
def test_architectures(
    model_type: str, fused: bool, tmp_path: Path, launches: Counter[str]
) -> None:
    """Known blocks with their router, others with the experts alone."""
    path = tmp_path / "model"
    write_model(path, model_type)
    resident = Resident(path)
    with load(path, cache_gb=budget_gb(path, "half"), kernels="require") as flash:
        tested = launches.copy()
        answer = flash.generate(prompt_ids(5), max_tokens=6)
        assert list(answer.token_ids) == resident.tokens(prompt_ids(5), 6)
    assert launches["moe_down"] > tested["moe_down"]
    assert (launches["router_topk"] > tested["router_topk"]) == fused


def test_experts_that_the_kernels_do_not_take(tmp_path: Path, launches: Counter[str]) -> None:
    """mxfp4: plain MLX computes, or an error names the reason."""
    path = tmp_path / "model"
    write_model(path, "qwen3_moe", mode="mxfp4")
    with pytest.raises(UnsupportedModelError, match="expected the same affine quantization"):
        load(path, kernels="require")
    tokens = Resident(path).tokens(prompt_ids(5), 6)
    with load(path) as flash:
        tested = launches.copy()
        assert list(flash.generate(prompt_ids(5), max_tokens=6).token_ids) == tokens
    assert launches == tested


def test_an_activation_that_the_kernels_do_not_have(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_model(path, "gpt_oss")
    with pytest.raises(UnsupportedModelError, match="expected SwiGLU experts"):
        load(path, kernels="require")


def test_off(tiny_store: Path, launches: Counter[str]) -> None:
    with load(tiny_store, kernels="off") as flash:
        flash.generate(prompt_ids(3), max_tokens=2)
    assert not launches


def test_padding_of_a_batch_reads_nothing(
    tiny_mlx: Path,
    tiny_store: Path,
    launches: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ids go to the kernels row by row, and padding has those of a real row."""
    prompts = [prompt_ids(n, seed=n) for n in (2, 4, 3)]
    resident = Resident(tiny_mlx)
    expected = mlx_lm.batch_generate(resident.model, resident.tokenizer, prompts, max_tokens=4)
    read = []
    for _ in range(2):
        with load(tiny_store, cache_gb=budget_gb(tiny_store, "all"), kernels="require") as flash:
            tested = launches.copy()
            found = mlx_lm.batch_generate(flash.model, flash.tokenizer, prompts, max_tokens=4)
            read.append(flash.stats.bytes_read)
        assert found.texts == expected.texts
        assert launches["moe_down"] - tested["moe_down"] >= 8
        monkeypatch.setattr(Padding, "find", lambda self, tokens, cache: None)
    assert (read[0] < read[1]) == masks_new_prompts()
