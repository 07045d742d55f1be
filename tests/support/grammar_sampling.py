"""Tokenizers of several kinds, and answers drawn at random under a constraint without a model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
from mlx_lm.tokenizer_utils import load

from flash_moe.grammar import Constraint
from flash_moe.testing import added_token_ids, write_tokenizer

VOCAB_SIZE = 640
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
PROMPT = [5, 6, 7]
# Tokens across the borders of a grammar's pieces, halves of characters, and spelled markers.
MIXED = (
    *(
        '{"',
        '":',
        '": "',
        '", "',
        '"}',
        '"]',
        '"],',
        "},",
        "}}",
        '""',
        "[]",
        "{}",
        "[[",
        ",\n",
        "\n\n",
    ),
    *(
        ">\n",
        ">\n\n",
        "</",
        "<parameter=",
        "</parameter>\n",
        "}\n</",
        "function",
        "\n</function",
    ),
    *(
        "<tool",
        "_call>",
        "call>\n",
        "<think",
        "think>",
        "</think",
        "null",
        "true",
        "false",
        "-1",
        "12",
    ),
    *("é", "ü", "日本", "😀", "\\u00", '\\"', "\\n", "ing", " the", " a", "  ", "e+", ".5"),
)
SPLIT = (b"\xe6\x97", b"\xa5\xe6", b"\xf0\x9f", b"\x98\x80", b'\xa9"', b">\xff")


def mixed_tokenizer(path: Path, parser: str = "qwen3_coder") -> Any:
    """The toy tokenizer with letter groups replaced by :data:`MIXED` and :data:`SPLIT`."""
    write_tokenizer(path, VOCAB_SIZE)
    file = path / "tokenizer.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    vocab = described["model"]["vocab"]
    from flash_moe.testing.tokenizer import _byte_alphabet

    alphabet = _byte_alphabet()
    byte_pieces = [*(text.encode() for text in MIXED), *SPLIT]
    pieces = ["".join(alphabet[byte] for byte in piece) for piece in byte_pieces]
    groups = sorted((i, piece) for piece, i in vocab.items() if len(piece) > 1)
    for (i, group), piece in zip(groups, pieces, strict=False):
        assert piece not in vocab
        del vocab[group]
        vocab[piece] = i
    described["model"] |= {"merges": [], "ignore_merges": True}
    file.write_text(json.dumps(described), encoding="utf-8")
    config = path / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"tool_parser_type": parser}
    config.write_text(json.dumps(settings), encoding="utf-8")
    ids = added_token_ids(VOCAB_SIZE)
    return load(path, eos_token_ids=[ids["<|im_end|>"], ids["<|endoftext|>"]])


def allowed(processor: Any, tokens: Sequence[int], n_logits: int = VOCAB_SIZE) -> set[int]:
    """Ids that a processor allows next."""
    logits = processor(mx.array(list(tokens)), mx.zeros((1, n_logits)))
    assert logits.shape == (1, n_logits)
    return set(np.flatnonzero(np.isfinite(np.array(logits)[0])).tolist())


def draw(
    constraint: Constraint, tokenizer: Any, seed: int, most: int = 3000, likely: float = 0.0
) -> str | None:
    """An answer of random tokens, its end left out, or ``None`` if it did not end in time.

    Args:
        likely: Added to the logits of quotes, brackets and ends, so that answers end soon.
    """
    random = np.random.RandomState(seed)
    processor, ids = constraint.processor(), list(PROMPT)
    favoured = np.zeros((1, VOCAB_SIZE), np.float32)
    for text in ('"', '"}', "}", "]", "</parameter>\n", "\n"):
        favoured[0, tokenizer.encode(text, add_special_tokens=False)] = likely
    for marker in (*tokenizer.eos_token_ids, *added_token_ids(VOCAB_SIZE).values()):
        favoured[0, marker] = likely
    while len(ids) < most:
        logits = mx.array(random.normal(size=(1, VOCAB_SIZE)).astype(np.float32) + favoured)
        scores = np.array(processor(mx.array(ids), logits))[0]
        token = int(np.argmax(scores + random.gumbel(size=VOCAB_SIZE)))
        assert np.isfinite(scores[token])
        ids.append(token)
        if token in tokenizer.eos_token_ids:
            return str(tokenizer.decode(ids[len(PROMPT) : -1]))
    return None


def follow(constraint: Constraint, tokenizer: Any, text: str) -> bool:
    """Whether a text is a whole answer that the constraint allows, longest tokens first.

    Not in the tokenizer's own cut: where only one text can follow, only one cut of it is allowed.
    """
    processor, ids, rest = constraint.processor(), list(PROMPT), text.encode()
    pieces = token_bytes(tokenizer)
    while rest:
        fitting = [i for i in allowed(processor, ids) if i in pieces and rest.startswith(pieces[i])]
        if not fitting:
            return False
        ids.append(max(fitting, key=lambda i: len(pieces[i])))
        rest = rest[len(pieces[ids[-1]]) :]
    return bool(tokenizer.eos_token_ids & allowed(processor, ids))


def token_bytes(tokenizer: Any) -> dict[int, bytes]:
    """Text of each id."""
    from flash_moe.testing.tokenizer import _byte_alphabet

    back = {piece: byte for byte, piece in _byte_alphabet().items()}
    added = {i: text.encode() for text, i in tokenizer.get_added_vocab().items()}
    vocab = {i: piece for piece, i in tokenizer.get_vocab().items() if i not in added}
    return {i: bytes(map(back.__getitem__, piece)) for i, piece in vocab.items()} | added


def check_json(text: str, schema: Any) -> None:
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


def check_calls(answer: str, tokenizer: Any, tools: list[Any], read_by: list[Any]) -> list[str]:
    """Names of the calls of an answer, after mlx-lm's parser read them and their schemas fitted."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    names = []
    for text in CALL.findall(answer):
        call = tokenizer.tool_parser(text, read_by)
        jsonschema.Draft202012Validator(
            schemas[call["name"]], format_checker=jsonschema.FormatChecker()
        ).validate(call["arguments"])
        names.append(call["name"])
    assert "<tool_call" not in CALL.sub("", answer)
    return names
