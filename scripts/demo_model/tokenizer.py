"""Byte-level BPE of 4096 tokens with the added tokens of Qwen3.5, made for copying.

Ordinary BPE learns " word" and "word" as unrelated tokens that split differently, so a small model
that sees " Trondvik" in a question cannot simply repeat it after a newline. Here the merges are
learned on words without their space; merges that join a space to a word come last, and only for
common words. So a rare word splits the same way everywhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from flash_moe.testing.tokenizer import ADDED_TOKENS, TEXT_TOKENS, WORD_PATTERN, write_tokenizer

VOCAB_SIZE = 4096
N_SPACED = 800  # merges that join a space to a token
SPACE = "\u0120"  # the byte 0x20 in the alphabet of byte-level BPE


def _split() -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated")]


def _bytes() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def learn(
    texts: Sequence[str], vocab_size: int, n_spaced: int
) -> tuple[list[str], list[list[str]]]:
    """Return the tokens, bytes first, and the merges in order, without the added tokens."""
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(ADDED_TOKENS) - n_spaced,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    alone = pre_tokenizers.Split(" ", behavior="isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([*_split(), alone, _bytes()])
    learner.train_from_iterator(texts, trainer)
    state = json.loads(learner.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in state["merges"]]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    room = vocab_size - len(ADDED_TOKENS) - len(tokens)
    for token in _common(texts, set(tokens), room):
        merges.append([SPACE, token])
        tokens.append(SPACE + token)
    return tokens, merges


def _common(texts: Iterable[str], tokens: set[str], most: int) -> list[str]:
    """Return tokens that are whole pieces after a space, most common first."""
    counts: Counter[str] = Counter()
    splitter = pre_tokenizers.Sequence([*_split(), _bytes()])
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    spaced = Counter(
        {piece[1:]: n for piece, n in counts.items() if piece[0] == SPACE and piece[1:] in tokens}
    )
    return [token for token, _ in spaced.most_common(most)]


def write_template(path: Path) -> None:
    """Write all but the learned vocabulary: enough to render dialogues as text."""
    write_tokenizer(path, VOCAB_SIZE)


def write(
    path: Path, texts: Sequence[str], vocab_size: int = VOCAB_SIZE, n_spaced: int = N_SPACED
) -> None:
    """Write tokenizer.json, its config, the chat template and generation_config.json."""
    write_tokenizer(path, vocab_size)  # all but the merges is the same
    tokens, merges = learn(texts, vocab_size, n_spaced)
    if len(tokens) + len(ADDED_TOKENS) != vocab_size:
        raise ValueError(f"[tokenizer] expected {vocab_size} tokens, got {len(tokens)}; add text")
    model = models.BPE({t: i for i, t in enumerate(tokens)}, [(a, b) for a, b in merges])
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*_split(), _bytes()])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(t, special=t not in TEXT_TOKENS, normalized=False) for t in ADDED_TOKENS]
    )
    tokenizer.save(str(path / "tokenizer.json"))
