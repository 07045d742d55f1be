"""Vocabulary of a tokenizer for grammars: bytes of tokens, end tokens and markers.

Building one takes about a second for 248,000 tokens, so :func:`vocabulary_of` caches it for the
tokenizer's lifetime. A vocabulary is immutable; threads share it.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from llguidance import LLTokenizer

from flash_moe.errors import GrammarError

# A set of token ids: uint32 [ceil(ids / 32)]; bit i % 32 of word i // 32 is id i.
Words: TypeAlias = "np.ndarray[Any, np.dtype[np.uint32]]"


def words_of(ids: Collection[int], size: int) -> Words:
    """Return the set of these ids, out of ``size``."""
    flags = np.zeros(-(-size // 32) * 32, np.uint8)
    flags[np.fromiter(ids, np.int64, len(ids))] = 1
    return np.packbits(flags, bitorder="little").view(np.uint32)


def add(words: Words, ids: Iterable[int]) -> None:
    for i in ids:
        words[i // 32] |= np.uint32(1 << i % 32)


def remove(words: Words, ids: Iterable[int]) -> None:
    for i in ids:
        words[i // 32] &= ~np.uint32(1 << i % 32)


_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[Any, dict[frozenset[int], Vocabulary]]
_known = weakref.WeakKeyDictionary()


class Vocabulary:
    """Tokens of a tokenizer, for grammars.

    Markers, the tokens around reasoning and tool calls, have no text here, although the tokenizer
    decodes them: a grammar must name one by its id, and no string can contain one.

    Attributes:
        tokenizer: llguidance's form of the tokenizer.
        size: Number of ids; a model may have more logits, which no token uses.
        end_ids: End-of-sequence tokens.
        added_ids: Text of an added token to its id.
        marker_ids: The same for markers only.

    Args:
        tokenizer: mlx-lm's wrapper, or a fast tokenizer from transformers.

    Raises:
        GrammarError: Not a fast tokenizer, or one that llguidance cannot read.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.end_ids = _end_ids(tokenizer)
        described = json.loads(_backend(tokenizer).to_str())
        described["padding"] = described["truncation"] = None
        added = described.get("added_tokens", [])
        names = {name for name in _marker_texts(tokenizer) if name}
        self.added_ids = {str(a["content"]): int(a["id"]) for a in added}
        self.marker_ids = {text: i for text, i in self.added_ids.items() if text in names}
        special = {int(a["id"]) for a in added if a["special"]}
        self._textless = special | self.end_ids | set(self.marker_ids.values())
        self._beginnings: dict[bytes, list[int]] = {}
        for token in added:
            token["special"] |= token["content"] in self.marker_ids
        try:
            self.tokenizer = LLTokenizer(json.dumps(described), eos_token=sorted(self.end_ids))
        except (ValueError, RuntimeError) as error:
            raise GrammarError(
                "grammar", f"llguidance cannot read this tokenizer: {error}"
            ) from error
        self.size = int(self.tokenizer.vocab_size)

    @cached_property
    def text_words(self) -> Words:
        """Tokens of free text: all tokens with text, without markers."""
        return words_of(np.flatnonzero(self._first_bytes >= 0).tolist(), self.size)

    @cached_property
    def end_words(self) -> Words:
        return words_of(self.end_ids, self.size)

    @cached_property
    def newline_ids(self) -> dict[int, int]:
        """Tokens that are one or two newlines, with that number."""
        ids = self.beginning_with(b"\n")
        return {i: len(self.text(i)) for i in ids if self.text(i) in (b"\n", b"\n\n")}

    def text(self, token: int) -> bytes:
        """Return the bytes of a token; empty for markers, end tokens and others without text."""
        if token in self._textless or token >= self.size:
            return b""
        return bytes(self.tokenizer.decode_bytes([token]))

    def beginning_with(self, start: bytes) -> list[int]:
        """Return the text tokens that begin with these bytes, at least one."""
        if start not in self._beginnings:
            group = np.flatnonzero(self._first_bytes == start[0]).tolist()
            self._beginnings[start] = [i for i in group if self.text(i).startswith(start)]
        return self._beginnings[start]

    @property
    def spelling_ids(self) -> list[int]:
        """Text tokens that contain a whole marker; few tokenizers have any."""
        return self._scanned[1]

    @property
    def _first_bytes(self) -> np.ndarray[Any, np.dtype[np.int16]]:
        """The first byte of each token, or -1 if it has no text: int16 [size]."""
        return self._scanned[0]

    @cached_property
    def _scanned(self) -> tuple[np.ndarray[Any, np.dtype[np.int16]], list[int]]:
        markers = [text.encode() for text in self.marker_ids]
        firsts, spelling = np.full(self.size, -1, np.int16), []
        for i in range(self.size):
            text = self.text(i)
            if text:
                firsts[i] = text[0]
                if any(marker in text for marker in markers):
                    spelling.append(i)
        return firsts, spelling


def _backend(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise GrammarError(
            "grammar",
            "expected a fast tokenizer (tokenizer.json) for constrained decoding, "
            f"got {type(getattr(tokenizer, '_tokenizer', tokenizer)).__name__}",
            "Use a model that comes with a tokenizer.json.",
        )
    return backend


def _end_ids(tokenizer: Any) -> frozenset[int]:
    ends = getattr(tokenizer, "eos_token_ids", None)
    ends = [tokenizer.eos_token_id] if ends is None or isinstance(ends, int) else ends
    known = frozenset(int(i) for i in ends if i is not None)
    if not known:
        raise GrammarError(
            "grammar",
            "expected an end-of-sequence token, but this tokenizer has none",
            "Set eos_token in tokenizer_config.json.",
        )
    return known


def _marker_texts(tokenizer: Any) -> list[str | None]:
    names = ("think_start", "think_end", "tool_call_start", "tool_call_end")
    return [getattr(tokenizer, name, None) for name in names]


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Return the vocabulary of a tokenizer, built once per set of end tokens."""
    _backend(tokenizer)
    ends = _end_ids(tokenizer)
    with _lock:
        built = _known.setdefault(tokenizer, {})
        if ends not in built:
            built[ends] = Vocabulary(tokenizer)
        return built[ends]
