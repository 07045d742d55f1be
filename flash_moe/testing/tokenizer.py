"""Small byte-level tokenizer with the added tokens of Qwen3.5.

Normaliser, pre-tokeniser, decoder, added tokens and chat rules are those of the real one, but the
vocabulary is 256 bytes. Short letter groups fill a larger vocabulary, so that every id a model can
sample decodes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

# In the order of their ids, after the byte and letter tokens.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# Added, but not "special": a decoder must keep them, since parsers search for them in the text.
TEXT_TOKENS = (
    *("<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
)
AUDIO_TOKENS = (
    *("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"),
    *("<tts_text_bos_single>", "<|audio_pad|>"),
)
ADDED_TOKENS = (*SPECIAL_TOKENS, *TEXT_TOKENS, *AUDIO_TOKENS)
MIN_VOCAB_SIZE = 256 + len(ADDED_TOKENS)

# Words keep their combining marks, each digit is a piece, a run of newlines ends a piece.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # most frequent first, so that small vocabularies help


def added_token_ids(vocab_size: int = MIN_VOCAB_SIZE) -> dict[str, int]:
    """Return ids of the added tokens, the last ones of the vocabulary as in the real tokenizer."""
    first = vocab_size - len(ADDED_TOKENS)
    return {token: first + i for i, token in enumerate(ADDED_TOKENS)}


def write_tokenizer(path: Path, vocab_size: int = MIN_VOCAB_SIZE) -> None:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json.

    Raises:
        ValueError: ``vocab_size`` has no room for the bytes and the added tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"[tokenizer] vocab_size: expected >= {MIN_VOCAB_SIZE}, got {vocab_size}")
    path.mkdir(parents=True, exist_ok=True)
    _build(vocab_size).save(str(path / "tokenizer.json"))
    shutil.copyfile(Path(__file__).with_name("chat_template.jinja"), path / "chat_template.jinja")
    ids = added_token_ids(vocab_size)
    _save(path / "tokenizer_config.json", _tokenizer_config(ids))
    _save(
        path / "generation_config.json",
        {
            "bos_token_id": ids["<|endoftext|>"],
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        },
    )


def _build(vocab_size: int) -> Tokenizer:
    alphabet = _byte_alphabet()
    merges = list(islice(_merges(alphabet[ord(" ")]), vocab_size - MIN_VOCAB_SIZE))
    # Vocabulary order of the GPT-2 family: printable bytes first.
    pieces = [*sorted(alphabet.values()), *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([_added(token) for token in ADDED_TOKENS])
    return tokenizer


def _added(token: str) -> AddedToken:
    return AddedToken(token, special=token not in TEXT_TOKENS, normalized=False)


def _byte_alphabet() -> dict[int, str]:
    """Map each byte to a printable character: itself if visible, else the next from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = count(0x100)
    return {byte: chr(byte) if byte in visible else chr(next(spare)) for byte in range(256)}


def _merges(space: str) -> Iterator[tuple[str, str]]:
    """Yield endless letter groups, shorter first; each extends an existing group."""
    groups = [space, *_LETTERS]
    while True:
        longer = []
        for group in groups:
            for letter in _LETTERS:
                yield group, letter
                longer.append(group + letter)
        groups = longer


def _tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    decoder = {
        str(i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token not in TEXT_TOKENS,
        }
        for token, i in ids.items()
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _save(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
