"""Evaluation text, split into windows of tokens.

The bundled text, ``text.txt``, was written for this purpose and is in the public domain (CC0):
stories, manuals, letters, figures, some code and JSON, in short turns, so that its first thousand
tokens have all of them. A text from a model's training data flatters the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError, PromptError
from flash_moe.files.names import open_regular, regular_size

BUNDLED_TEXT = Path(__file__).with_name("text.txt")
WINDOW = 512
TOKENS = 1024
MAX_TEXT_BYTES = 64_000_000
# More characters per token than any tokenizer's average on plain text.
_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True)
class Window:
    """Piece of the text that is evaluated without preceding context.

    Attributes:
        inputs: Token ids.
        targets: The next token id at each position.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


def read_text(file: Path | None = None) -> str:
    """Return the text of a file, or the bundled text.

    Raises:
        PromptError: The file cannot be read, is too large, or is not UTF-8.
    """
    file = BUNDLED_TEXT if file is None else file
    try:
        size = regular_size(file)
        if size > MAX_TEXT_BYTES:
            raise PromptError(
                "eval",
                f"{file}: expected at most {MAX_TEXT_BYTES} bytes of text, got {size}",
                "Shorten it: a few thousand words are enough.",
            )
        with open_regular(file) as stream:
            return stream.read(size).decode("utf-8")
    except OSError as error:
        raise PromptError("eval", f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise PromptError("eval", f"{file} is not UTF-8: {error}", "Convert it first.") from None


def windows(tokenizer: Any, text: str, n_tokens: int = TOKENS, width: int = WINDOW) -> list[Window]:
    """Split the first tokens of a text into windows.

    If the tokenizer adds a BOS token, each window begins with one and all its tokens are scored;
    otherwise all but the first.

    Args:
        n_tokens: Maximum tokens of the text. A window without a scored token is left out.
        width: Tokens per window, without the BOS.

    Raises:
        ConfigError: ``n_tokens`` is below 1.
        PromptError: The text is too short.
    """
    if n_tokens < 1:
        raise ConfigError("eval", f"tokens: expected at least 1, got {n_tokens}")
    ids = _encode(tokenizer, text, n_tokens)
    bos = _bos(tokenizer)
    result = []
    for start in range(0, len(ids), width):
        piece = [*bos, *ids[start : start + width]]
        if len(piece) > 1:
            result.append(Window(tuple(piece[:-1]), tuple(piece[1:])))
    if not result:
        raise PromptError(
            "eval",
            f"the text is too short: expected at least {2 - len(bos)} tokens, got {len(ids)}",
            "Pass a longer text or more --tokens.",
        )
    return result


def n_scored(windows: Sequence[Window]) -> int:
    """Return the number of scored tokens."""
    return sum(len(window.targets) for window in windows)


def _encode(tokenizer: Any, text: str, n_tokens: int) -> list[int]:
    """Return the first token ids; of a long text only the beginning is encoded."""
    head = text[: _CHARACTERS_PER_TOKEN * n_tokens]
    ids = tokenizer.encode(head, add_special_tokens=False)
    if len(head) < len(text) and len(ids) <= 2 * n_tokens:
        # The needed ids may reach the cut, where a token may have been split.
        ids = tokenizer.encode(text, add_special_tokens=False)
    return [int(i) for i in ids[:n_tokens]]


def _bos(tokenizer: Any) -> list[int]:
    """Return the BOS token if the tokenizer adds one, else an empty list."""
    bos, ids = tokenizer.bos_token_id, tokenizer.encode("a")
    return [int(bos)] if bos is not None and len(ids) > 0 and ids[0] == bos else []
