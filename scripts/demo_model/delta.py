"""The gated delta rule over whole windows, in few large matrix products.

The arithmetic is that of ``torch_chunk_gated_delta_rule`` in transformers (Yang and others, 2024,
"Gated Delta Networks", and 2024, "Parallelizing Linear Transformers with the Delta Rule"). Another
order makes it fast on a GPU, where sequences of small kernels cost the most:

* the triangular systems of all chunks are inverted by one kernel (``inverse.py``);
* the effect of each chunk on the state is computed for all chunks at once, as
  ``S' = d S + F - L S``; only this product and sum is sequential;
* queries and keys are not repeated for the value heads that share them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scripts.demo_model.inverse import unit_lower_inverse

CHUNK = 64


class Scan(torch.autograd.Function):
    """Return the states before each chunk, ``[N, n, dk, dv]``, float32, the first zero.

    ``S[i + 1] = decay[i] S[i] + fresh[i] - lost[i] S[i]`` with fresh ``[N, n, dk, dv]``, lost
    ``[N, n, dk, dk]`` and decay ``[N, n, 1, 1]``.
    """

    @staticmethod
    def forward(ctx: Any, fresh: Tensor, lost: Tensor, decay: Tensor) -> Tensor:
        states = [torch.zeros_like(fresh[0])]
        for i in range(fresh.shape[0] - 1):
            made = torch.baddbmm(fresh[i], lost[i], states[i], alpha=-1)
            states.append(torch.addcmul(made, decay[i], states[i]))
        all_states = torch.stack(states)
        ctx.save_for_backward(all_states, lost, decay)
        return all_states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        states, lost, decay = ctx.saved_tensors
        # later[i]: gradient of S[i + 1], which the last chunk does not produce.
        later = [torch.zeros_like(grad[0])]
        for i in range(grad.shape[0] - 2, -1, -1):
            known = torch.addcmul(grad[i + 1], decay[i + 1], later[-1])
            later.append(torch.baddbmm(known, lost[i + 1].mT, later[-1], alpha=-1))
        made = torch.stack(later[::-1])
        of_lost = -torch.bmm(made.flatten(0, 1), states.flatten(0, 1).mT).view_as(lost)
        return made, of_lost, (made * states).sum((-2, -1), keepdim=True)


def unit(x: Tensor) -> Tensor:
    """Normalize rows to length one, as ``l2norm`` in transformers."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, fine: bool = False
) -> Tensor:
    """Return the outputs of the delta rule from an empty state, with normalized queries and keys.

    Args:
        query, key: ``[B, T, Hk, dk]``; T a multiple of 64.
        value: ``[B, T, Hv, dv]``; value head i reads key head ``i // (Hv // Hk)``.
        g: Logarithm of the decay, at most 0, ``[B, T, Hv]``, float32 or float64.
        beta: ``[B, T, Hv]``.
        fine: Compute every product in the precision of ``g``; otherwise products without the state
            use the type of ``value``.

    Returns:
        ``[B, T, Hv, dv]`` in the type of ``value``.
    """
    batch, length, n_keys, dk = key.shape
    n_values, dv = value.shape[-2:]
    share, n_chunks, c = n_values // n_keys, length // CHUNK, CHUNK
    wide = g.dtype
    narrow = wide if fine else value.dtype
    heads = (batch, n_keys, n_chunks)

    def by_key_head(x: Tensor) -> Tensor:
        return unit(x.to(wide)).view(batch, n_chunks, c, n_keys, dk).permute(0, 3, 1, 2, 4)

    def by_value_head(x: Tensor) -> Tensor:
        last = x.shape[3:]
        x = x.to(wide).view(batch, n_chunks, c, n_keys, share, *last)
        return x.permute(0, 3, 1, 4, 2, *range(5, 5 + len(last)))

    q = (by_key_head(query) * dk**-0.5).reshape(-1, c, dk)
    k = by_key_head(key).reshape(-1, c, dk)
    v, b = by_value_head(value), by_value_head(beta)  # [B, Hk, N, share, c, ...]
    total = by_value_head(g).cumsum(-1)
    upper = torch.ones(c, c, dtype=torch.bool, device=g.device).triu(1)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(upper, float("-inf")).exp()
    from_start, to_end = total.exp(), (total[..., -1:] - total).exp()

    system = torch.bmm(k, k.mT).view(*heads, 1, c, c) * between * b[..., None]
    inverse = unit_lower_inverse(system.reshape(-1, c, c))
    shown = by_key_head(key)[:, :, :, None] * (b * from_start)[..., None]
    sides = torch.cat([v * b[..., None], shown], -1).to(narrow)
    solved = torch.bmm(inverse.to(narrow), sides.reshape(-1, c, dv + dk))
    solved = solved.view(*heads, share, c, dv + dk)

    # Terms that each chunk adds to and subtracts from the state.
    written = (
        (solved * to_end[..., None].to(narrow)).transpose(3, 4).reshape(-1, c, share * (dv + dk))
    )
    change = torch.bmm(k.to(narrow).mT, written).view(*heads, dk, share, dv + dk)
    change = change.permute(2, 0, 1, 4, 3, 5).reshape(n_chunks, batch * n_values, dk, dv + dk)
    change = change.to(wide)
    last = total[..., -1].exp().permute(2, 0, 1, 3).reshape(n_chunks, -1, 1, 1)
    states = Scan.apply(change[..., :dv].contiguous(), change[..., dv:].contiguous(), last)

    states = states.view(n_chunks, batch, n_keys, share, dk, dv).permute(1, 2, 0, 3, 4, 5)
    states = states.to(narrow)
    read = torch.bmm(solved[..., dv:].reshape(-1, c, dk), states.reshape(-1, dk, dv))
    news = solved[..., :dv].reshape(-1, c, dv) - read
    beside = states.transpose(3, 4).reshape(-1, dk, share * dv)
    old = torch.bmm(q.to(narrow), beside).view(*heads, c, share, dv).transpose(3, 4)
    inside = (torch.bmm(q, k.mT).view(*heads, 1, c, c) * between).to(narrow)
    new = torch.bmm(inside.reshape(-1, c, c), news).view(*heads, share, c, dv)
    out = old.to(wide) * from_start[..., None] + new.to(wide)
    return out.permute(0, 2, 4, 1, 3, 5).reshape(batch, length, n_values, dv).to(value.dtype)
