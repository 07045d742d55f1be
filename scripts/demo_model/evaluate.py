"""Evaluation of a model: loss of held-out windows, and answers to held-out prompts.

Answers are greedy. Every token recomputes the whole text, a batch at a time: on a GPU that is fast
enough for so small a model, and needs no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scripts.demo_model import loss
from scripts.demo_model.chat import CLASS_SHIFT, WRITTEN, Chat
from scripts.demo_model.fast import Fast
from scripts.demo_model.judge import Prompt

MAX_TOKENS = 160


@torch.no_grad()
def held_out_loss(fast: Fast, windows: Tensor, batch: int = 16) -> dict[str, float]:
    """Return the mean loss in nats of WRITTEN tokens, and of all tokens."""
    sums = torch.zeros(2, 2, dtype=torch.float64)
    ones = torch.ones(4, device=windows.device)
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        inputs, targets, _ = loss.split(part, ones)
        losses = fast.losses(inputs, targets)[0].double()
        written = (part[:, 1:] >> CLASS_SHIFT) == WRITTEN
        sums[0] += torch.stack([losses[written].sum(), written.sum().double()]).cpu()
        sums[1] += torch.tensor([float(losses.sum()), losses.numel()], dtype=torch.float64)
    return {"written": float(sums[0, 0] / sums[0, 1]), "all": float(sums[1, 0] / sums[1, 1])}


@torch.no_grad()
def greedy(
    fast: Fast, prompts: Sequence[list[int]], stops: set[int], max_tokens: int = MAX_TOKENS
) -> list[list[int]]:
    """Return the continuation of each prompt up to and including its first stop token."""
    device = fast.net.lm_head.weight.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    width = -(-(int(lengths.max()) + max_tokens) // 64) * 64
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)] = torch.tensor(prompt, device=device)
    starts, rows = lengths.clone(), torch.arange(len(prompts), device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(sorted(stops), device=device)
    for step in range(max_tokens):
        used = -(-(int(lengths.max())) // 64) * 64
        hidden = fast.hidden(ids[:, :used])
        best = fast.net.lm_head(hidden[rows, lengths - 1]).argmax(-1)
        ids[rows, lengths] = torch.where(done, 0, best)
        lengths += (~done).long()
        done |= torch.isin(best, ends)
        if step % 8 == 7 and bool(done.all()):
            break
    table = ids.cpu()
    return [table[i, s:e].tolist() for i, (s, e) in enumerate(zip(starts, lengths, strict=True))]


def answers(
    fast: Fast,
    chat: Chat,
    asked: Sequence[Prompt],
    thinking: bool = False,
    batch: int = 64,
    in_time: Callable[[], bool] = lambda: True,
) -> list[str] | None:
    """Return the answer to each prompt; None if the time ran out."""
    texts = [
        chat.render(p["messages"], p["tools"], prompt=True, enable_thinking=thinking) for p in asked
    ]
    encoded = [chat.ids(text) for text in texts]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    found = [""] * len(encoded)
    for start in range(0, len(order), batch):
        if not in_time():
            return None
        part = order[start : start + batch]
        stops = {chat.end, chat.separator}
        for i, tokens in zip(part, greedy(fast, [encoded[i] for i in part], stops), strict=True):
            found[i] = chat.tokenizer.decode(tokens, skip_special_tokens=False)
    return found
