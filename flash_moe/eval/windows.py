"""The text that runs are compared on, cut into windows of tokens.

The bundled text, ``text.txt``, was written for this purpose and may be used by anyone for anything
(CC0): stories, manuals, letters, figures, some code and JSON, in short turns, so that its first
thousand tokens hold all of them. A text that a model was trained on flatters it.
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
# No tokenizer makes a token of so many characters of plain text on average.
_CHARACTERS_A_TOKEN = 64


@dataclass(frozen=True)
class Window:
    """A piece of the text that a model reads without anything before it.

    Attributes:
        inputs: Token ids.
        targets: For each of them the id that comes next, which the model should foresee.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


def read_text(file: Path | None = None) -> str:
    """The text of a file, or the bundled one.

    Raises:
        PromptError: It cannot be read, is too large, or not UTF-8.
    """
    file = BUNDLED_TEXT if file is None else file
    try:
        size = regular_size(file)
        if size > MAX_TEXT_BYTES:
            raise PromptError(
                "eval",
                f"{file}: expected at most {MAX_TEXT_BYTES} bytes of text, got {size}",
                "Cut it: some thousand words are enough.",
            )
        with open_regular(file) as stream:
            return stream.read(size).decode("utf-8")
    except OSError as error:
        raise PromptError("eval", f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise PromptError("eval", f"{file} is not UTF-8: {error}", "Convert it first.") from None


def windows(tokenizer: Any, text: str, n_tokens: int = TOKENS, width: int = WINDOW) -> list[Window]:
    """Cut the first tokens of a text into windows.

    Where the tokenizer puts a token before each text (BOS), each window begins with one, and all
    of its tokens are foreseen; else all but its first.

    Args:
        n_tokens: Tokens of the text, at most; a window that has nothing to foresee is left out.
        width: Tokens of a window, without the BOS.

    Raises:
        ConfigError: ``n_tokens`` is below 1.
        PromptError: The text is too short.
    """
    if n_tokens < 1:
        raise ConfigError("eval", f"tokens: expected at least 1, got {n_tokens}")
    ids = _encode(tokenizer, text, n_tokens)
    bos = _bos(tokenizer)
    found = []
    for start in range(0, len(ids), width):
        piece = [*bos, *ids[start : start + width]]
        if len(piece) > 1:
            found.append(Window(tuple(piece[:-1]), tuple(piece[1:])))
    if not found:
        raise PromptError(
            "eval",
            f"the text is too short: expected at least {2 - len(bos)} tokens, got {len(ids)}",
            "Give a longer one, or more --tokens.",
        )
    return found


def n_scored(windows: Sequence[Window]) -> int:
    """How many tokens are foreseen."""
    return sum(len(window.targets) for window in windows)


def _encode(tokenizer: Any, text: str, n_tokens: int) -> list[int]:
    """The first ids of a text; a long text is not encoded as a whole."""
    head = text[: _CHARACTERS_A_TOKEN * n_tokens]
    ids = tokenizer.encode(head, add_special_tokens=False)
    if len(head) < len(text) and len(ids) <= 2 * n_tokens:
        # Most of what was encoded may be needed, and at the cut a token may have been split.
        ids = tokenizer.encode(text, add_special_tokens=False)
    return [int(i) for i in ids[:n_tokens]]


def _bos(tokenizer: Any) -> list[int]:
    """The token that the tokenizer puts before each text, if it does."""
    bos, ids = tokenizer.bos_token_id, tokenizer.encode("a")
    return [int(bos)] if bos is not None and len(ids) > 0 and ids[0] == bos else []
