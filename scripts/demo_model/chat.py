"""Dialogues as text and as tokens, each token with its class for the loss.

The text equals that of ``tokenizer.apply_chat_template`` in transformers with the template of
``flash_moe.testing`` (a test compares them). The Jinja environment is compiled once for hundreds of
thousands of dialogues.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from scripts.demo_model.dialogues import Dialogue, Message
from scripts.demo_model.tools import Schema

# Loss weight classes of tokens: given by the prompt, read, written.
IGNORED, CONTEXT, WRITTEN = 0, 1, 2
CLASS_SHIFT = 14  # a token and its class in 16 bits; the vocabulary stays below 16384

Tokens = npt.NDArray[np.uint16]


class Chat:
    """The chat template and the tokenizer of one folder.

    With ``learned=False`` only ``render`` works: there is no vocabulary yet.

    Raises:
        ValueError: "assistant" is not one token, which ``classes`` relies on.
    """

    def __init__(self, folder: Path, learned: bool = True) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = _refuse
        self.template = environment.from_string((folder / "chat_template.jinja").read_text("utf-8"))
        self.start, self.end, self.separator = (
            self.tokenizer.token_to_id(t) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
        )
        self.opening = self.ids("<|im_start|>assistant\n")
        self.no_thought = self.ids("<think>\n\n</think>\n\n")
        self.thought = self.ids("<think>\n")
        if learned and (
            len(self.opening) != 3 or len(self.no_thought) != 4 or len(self.thought) != 2
        ):
            raise ValueError(f"[chat] tokens of a turn: got {self.opening}, {self.no_thought}")

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def render(
        self, messages: list[Message], tools: list[Schema], prompt: bool = False, **options: Any
    ) -> str:
        """Return a conversation as text; with ``prompt``, as a prompt for the next answer."""
        return str(
            self.template.render(
                messages=messages, tools=tools or None, add_generation_prompt=prompt, **options
            )
        )

    def encode(self, dialogue: Dialogue) -> Tokens:
        """Return the tokens of a dialogue with classes in the upper bits, and a separator."""
        text = self.render(dialogue.messages, dialogue.tools)
        ids = np.array([*self.ids(text), self.separator], np.uint16)
        return ids | (self.classes(ids) << CLASS_SHIFT).astype(np.uint16)

    def encode_text(self, text: str) -> Tokens:
        """Return the tokens of plain text, all of class WRITTEN."""
        ids = np.array([*self.ids(text), self.separator], np.uint16)
        return ids | np.uint16(WRITTEN << CLASS_SHIFT)

    def classes(self, ids: Tokens) -> npt.NDArray[np.int64]:
        """Return the class of each token: WRITTEN in assistant turns, CONTEXT elsewhere.

        An empty think block and an opening think tag belong to the prompt: IGNORED.
        """
        classes = np.full(len(ids), CONTEXT)
        ends = np.flatnonzero(ids == self.end)
        for start in np.flatnonzero(ids == self.start):
            first = int(start) + 3
            if ids[start:first].tolist() != self.opening:
                continue
            end = int(ends[np.searchsorted(ends, first)])
            classes[first : end + 1] = WRITTEN
            for given in (self.no_thought, self.thought):
                if ids[first : first + len(given)].tolist() == given:
                    classes[first : first + len(given)] = IGNORED
        return classes


def _refuse(message: str) -> None:
    raise ValueError(message)
