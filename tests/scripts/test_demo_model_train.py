"""The demo model's training: its functions against transformers, its rounding against MLX.

Needs torch and transformers with Qwen3.5-MoE, which only the recipe does: skipped without them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers.models.qwen3_5_moe")

from scripts.demo_model import delta, fast, inverse, layers, model, quantise, schedule  # noqa: E402
from scripts.demo_model.chat import CLASS_SHIFT, WRITTEN  # noqa: E402
from scripts.demo_model.optim import Masters  # noqa: E402
from scripts.demo_model.step import Step  # noqa: E402
from scripts.demo_model.stream import Stream  # noqa: E402
from scripts.demo_model.windows import WINDOW  # noqa: E402

SHAPE = model.TOY_SHAPE | {"num_experts": 12, "num_experts_per_tok": 3, "vocab_size": 128}


def by_token(q, k, v, g, beta):  # type: ignore[no-untyped-def]
    """The delta rule as it is defined, token by token."""
    share = v.shape[2] // k.shape[2]
    q, k = (delta.unit(x).repeat_interleave(share, 2) for x in (q, k))
    state = torch.zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3], dtype=v.dtype)
    outs = []
    for t in range(v.shape[1]):
        state = state * g[:, t].exp()[..., None, None]
        known = (k[:, t, :, :, None] * state).sum(-2)
        new = (v[:, t] - known) * beta[:, t, :, None]
        state = state + k[:, t, :, :, None] * new[..., None, :]
        outs.append((q[:, t, :, :, None] * state).sum(-2) * q.shape[-1] ** -0.5)
    return torch.stack(outs, 1)


@pytest.mark.parametrize("alike", [0.0, 2.0], ids=["random keys", "keys alike"])
@pytest.mark.parametrize("decay", [1.0, 0.02])
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_delta_rule_is_the_recurrence(alike: float, decay: float, dtype, most: float) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int):  # type: ignore[no-untyped-def]
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, v, target = draw(2, 192, 2, 32), draw(2, 192, 4, 16), draw(2, 192, 4, 16)
    k = draw(2, 192, 2, 32) + alike * draw(2, 1, 2, 32)
    g = -torch.nn.functional.softplus(draw(2, 192, 4)) * decay
    inputs = (q, k, v, g, draw(2, 192, 4).sigmoid())
    results = []
    for rule, kind in ((by_token, torch.float64), (delta.gated_delta_rule, dtype)):
        kinds = [kind] * 5
        kinds[3] = torch.float32 if kind == torch.bfloat16 else kind
        leaves = [x.to(t).clone().requires_grad_() for x, t in zip(inputs, kinds, strict=True)]
        out = rule(*leaves)
        (out.double() * target).sum().backward()
        results.append([out.detach().double(), *(leaf.grad.double() for leaf in leaves)])
    for expected, got in zip(*results, strict=True):
        assert float((got - expected).norm() / expected.norm()) < most


def test_inverse_and_its_gradient() -> None:
    a = torch.randn(3, 16, 16, dtype=torch.float64).requires_grad_()
    eye = torch.eye(16, dtype=torch.float64)
    made = inverse.unit_lower_inverse(a)
    assert torch.allclose(made @ (eye + a.tril(-1)), eye.expand(3, -1, -1), atol=1e-8)
    assert torch.autograd.gradcheck(inverse.unit_lower_inverse, (a[:1, :6, :6] * 0.3,))


def test_route_is_the_top_k_of_transformers() -> None:
    logits = torch.randn(500, 40)
    shares, chosen = layers.route(logits, 10)
    values, indices = logits.softmax(-1).topk(10)
    expected = torch.zeros(500, 40).scatter(1, indices, values / values.sum(-1, keepdim=True))
    assert torch.allclose(shares, expected)
    assert torch.equal(chosen, expected > 0)
    _, tied = layers.route(torch.zeros(7, 40), 10)  # equal logits: still ten, the first
    assert torch.equal(tied, (torch.arange(40) < 10).expand(7, -1))


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
def test_losses_and_gradients_are_those_of_transformers(dtype, most: float) -> None:  # type: ignore[no-untyped-def]
    net = model.build(SHAPE, 1, 0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:  # norms are ones and zeros at first: make them tell
                parameter.add_(torch.randn_like(parameter) * 0.1)
    net = model.to_bfloat16(net) if dtype == torch.bfloat16 else net.to(dtype)
    ids = torch.randint(0, 128, (2, 129))
    found = fast.differences(fast.Fast(net), ids[:, :-1], ids[:, 1:])
    assert found["losses"] < most
    assert found["gradient"] < most


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_is_that_of_mlx(bits: int, dtype: str) -> None:
    values = np.random.RandomState(bits).randn(96, 256).astype(np.float32)
    values[0, :64] = 0.0
    values[1, :64] = np.abs(values[1, :64])
    values[2, :64] = 0.5
    ours = torch.from_numpy(values).to(getattr(torch, dtype))
    theirs = mx.array(ours.float().numpy()).astype(getattr(mx, dtype))
    codes, *stored = mx.quantize(theirs, quantise.GROUP, bits)
    # Scales as they are stored, products in float32: as the kernels of MLX compute.
    exact = [part.astype(mx.float32) for part in stored]
    expected = mx.dequantize(codes, *exact, quantise.GROUP, bits).astype(theirs.dtype)
    got = quantise.affine(ours, bits).float().numpy()
    assert np.array_equal(got, np.array(expected.astype(mx.float32)))


def test_a_step_at_four_bits_moves_masters_and_shows_rounded_weights() -> None:
    net = model.build(SHAPE, 1, 0)
    masters = Masters(dict(net.named_parameters()), 0.02, 0.004)
    masters.quantised = True
    masters.publish()
    step = Step(fast.Fast(net), 1, graph=False)
    before = {n: m.clone() for n, m in masters.masters.items()}
    values = step(torch.randint(0, 128, (1, WINDOW)) | WRITTEN << CLASS_SHIFT)
    masters.step(1.0)
    assert bool(torch.isfinite(values).all())
    for name, parameter in net.named_parameters():
        master = masters.masters[name]
        assert not torch.equal(master, before[name]) or not parameter.grad.any(), name
        bits = quantise.bits_of(name, parameter)
        expected = quantise.affine(master, bits) if bits else master
        assert torch.equal(parameter, expected), name


def test_a_training_in_two_runs_has_one_schedule() -> None:
    whole = schedule.Clock((0.0, 1.0), 100.0)
    first, second = schedule.Clock((0.0, 0.5), 50.0), schedule.Clock((0.5, 1.0), 50.0)
    warm = schedule.WARM_STEPS
    for spent in (0.0, 10.0, 49.0):
        done = first.done(spent, warm)
        assert first.share(done) == pytest.approx(whole.share(whole.done(spent, warm)))
        assert second.share(done) == pytest.approx(whole.share(whole.done(50 + spent, warm)))
    assert schedule.factor(0.1, warm) == 1.0
    assert schedule.factor(schedule.FLAT, warm) == 1.0
    assert 0.0 < schedule.factor(0.9, warm) < schedule.factor(0.6, warm) < 1.0
    assert schedule.factor(1.0, warm) == 0.0
    assert schedule.factor(0.0, 0) == pytest.approx(1 / warm)
    assert schedule.Clock((0.0, 1.0), 1e9, steps=8).done(1.0, 8) == 1.0


def test_failures_of_makers_are_told(tmp_path: Path) -> None:
    stream = Stream(tmp_path, 0, 1)  # no tokenizer there
    with pytest.raises(RuntimeError, match="maker failed"):
        stream.wait(1)
    stream.close()


PAIR = """
import torch
from scripts.demo_model.group import Group
group = Group()
group.join()
values = [torch.full((2, 3), float(group.rank + 1)), torch.tensor([group.rank * 4.0])]
group.average(values)
assert values[0].unique().tolist() == [1.5] and values[1].tolist() == [2.0], values
same = [torch.tensor([float(group.rank)])]
group.copy_first(same)
assert same[0].item() == 0.0
assert group.agree(float(group.rank) + 0.25) == 0.25
group.leave()
print(f"process {group.rank} of {group.size} is done")
"""


def test_processes_of_a_group_take_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "pair.py"
    script.write_text(PAIR)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert {f"process {i} of 2 is done" for i in (0, 1)} <= set(done.stdout.splitlines())
