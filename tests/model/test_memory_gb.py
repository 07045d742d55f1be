"""``memory_gb``: what the whole process may take; and the defaults on machines of any kind."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import load
from flash_moe.errors import BudgetError
from flash_moe.memory.system import resident_memory
from flash_moe.model import prompt_lengths, streaming
from tests.support.architectures import masks_new_prompts
from tests.support.processes import in_process, run_python
from tests.support.resident import Resident, budget_gb, prompt_ids


@pytest.fixture(scope="module")
def resident(tiny_mlx: Path) -> Resident:
    return Resident(tiny_mlx)


def test_the_minimum_in_the_message_is_enough(tiny_store: Path, tiny_mlx: Path) -> None:
    with pytest.raises(BudgetError, match=r"memory_gb.*taken already.*Raise memory_gb") as caught:
        load(tiny_store, memory_gb=0.01)
    found = re.search(r"expected at least (\S+) GB", str(caught.value))
    assert found is not None
    # The process may have grown since.
    with load(tiny_store, memory_gb=float(found[1]) + 0.02) as flash:
        tokens = flash.generate(prompt_ids(100), max_tokens=8).token_ids
    assert list(tokens) == Resident(tiny_mlx).tokens(prompt_ids(100), 8)


def test_bank_and_prompts_share_what_is_left(tiny_store: Path) -> None:
    with load(tiny_store, memory_gb=100) as flash:
        plan = flash.model.lengths.plan
        assert flash.stats.bank_bytes == flash.stats.expert_bytes == plan.bank_bytes
        assert plan.prompt_bytes is not None
        rest = 100 * 10**9 - plan.bank_bytes - plan.resident_bytes - plan.prompt_bytes
        assert abs(rest - resident_memory()) < 100_000_000


CODE = """
import sys
from mlx_lm import batch_generate, stream_generate
from flash_moe import load
from flash_moe.memory.system import peak_memory
with load(sys.argv[1], memory_gb=float(sys.argv[2])) as flash:
    for n in (50, 1100):  # mlx-lm by itself cuts prompts at 2048 tokens
        list(stream_generate(flash.model, flash.tokenizer, [65] * n, max_tokens=2))
    batch_generate(flash.model, flash.tokenizer, [[65] * 200, [66] * 400], max_tokens=2)
    for n in (300, 50):
        flash.generate([65] * n, max_tokens=2)
print(peak_memory())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process")
def test_a_process_stays_below_its_limit(tiny_store: Path) -> None:
    out = run_python(CODE, tiny_store, "0.22")
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 220_000_000


@pytest.mark.parametrize("n", [64, 65, 150])
def test_a_prompt_that_is_cut_by_mlx_lm_gives_the_tokens(
    tiny_store: Path, resident: Resident, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_lengths, "chunk_tokens", lambda *args, **options: 64)
    with load(tiny_store, memory_gb=100) as flash:
        before = flash.stats.layers[0].calls
        found = mlx_lm.stream_generate(flash.model, flash.tokenizer, prompt_ids(n), max_tokens=8)
        assert [each.token for each in found] == resident.tokens(prompt_ids(n), 8)
        passes = flash.stats.layers[0].calls - before
        assert 0 <= passes - 8 - -(-(n - 1) // 64) <= 1  # mlx-lm begins a token more


@pytest.mark.skipif(not masks_new_prompts(), reason="mlx-lm computes padding into states")
def test_a_batch_that_is_cut(
    tiny_store: Path, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_lengths, "chunk_tokens", lambda *args, **options: 64)
    prompts = [prompt_ids(n) for n in (150, 7, 70)]
    whole = mlx_lm.batch_generate(resident.model, resident.tokenizer, prompts, max_tokens=6)
    with load(tiny_store, memory_gb=100) as flash:
        cut = mlx_lm.batch_generate(flash.model, flash.tokenizer, prompts, max_tokens=6)
    assert cut.texts == whole.texts


def test_logits_of_a_pass_that_is_cut_are_all_there(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = mx.array([prompt_ids(200)])
    with load(tiny_store, memory_gb=100) as flash:
        whole = flash.model(ids, cache=make_prompt_cache(flash.model))
        monkeypatch.setattr(prompt_lengths, "chunk_tokens", lambda *args, **options: 64)
        cut = flash.model(ids, cache=make_prompt_cache(flash.model))
        calls = flash.stats.layers[0].calls
        without_cache = flash.model(ids)  # cannot be cut
        assert flash.stats.layers[0].calls == calls + 1
    assert cut.shape == whole.shape == without_cache.shape
    assert mx.allclose(cut, whole, atol=1e-4)


def test_the_command(tiny_store: Path) -> None:
    arguments = ("generate", tiny_store, "-p", "hello", "-n", 2)
    both = in_process(*arguments, "--memory-gb", 1, "--cache-gb", 1)
    assert both.returncode == 2
    assert "not allowed with" in both.stderr
    small = in_process(*arguments, "--memory-gb", 0.01)
    assert small.returncode == 1
    assert re.fullmatch(r"flash-moe: \[memory\] memory_gb of 0\.01: .*\n", small.stderr)
    enough = in_process(*arguments, "--memory-gb", 1, "--json")
    stats = json.loads(enough.stdout)["stats"]["stream"]
    assert stats["bank_bytes"] == stats["expert_bytes"]


@pytest.mark.parametrize(
    ("machine", "available", "share"),
    [
        (10**12, None, "all"),
        (10**12, 10**12, "all"),
        (10**9, 0, "layer"),  # full: the smallest bank, not an error
    ],
)
def test_the_default_bank(
    machine: int,
    available: int | None,
    share: str,
    tiny_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "usable_memory", lambda: machine)
    monkeypatch.setattr(streaming, "available_to_model", lambda: available)
    with load(tiny_store) as flash:
        assert flash.stats.bank_bytes == round(budget_gb(tiny_store, share) * 1e9)


def test_a_machine_that_is_too_small_for_any_bank(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "usable_memory", lambda: 10_000)
    with pytest.raises(BudgetError, match=r"budget of .* expected at least"):
        load(tiny_store)
