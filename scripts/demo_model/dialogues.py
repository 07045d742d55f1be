"""Complete conversations: listed tools, questions, reasoning, calls and answers.

``Dialogues(seed, split)`` is an endless, reproducible source. The split includes the words:
``train`` draws from the wordings of ``corpus`` and values with a checksum of that split,
``held_out`` from ``held_out.py`` and the other values.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.demo_model import foreign, json_tasks, results, tasks
from scripts.demo_model.invented import invent
from scripts.demo_model.patterns import expand
from scripts.demo_model.phrasing import utter
from scripts.demo_model.requests import CORE_NAMES, ask
from scripts.demo_model.tools import Schema, Tool, disguise, plain
from scripts.demo_model.words import Split, Words

Message = dict[str, Any]

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Keep answers short.",
    "Answer in short sentences.",
    "You help people. Use the tools.",
    "Be brief.",
    "Use a tool when it helps.",
)


@dataclass
class Dialogue:
    """Messages for a chat template, and the tools of its system prompt.

    ``thinking``: the last answers have reasoning; otherwise an empty think block.
    """

    messages: list[Message] = field(default_factory=list)
    tools: list[Schema] = field(default_factory=list)
    thinking: bool = False


class Dialogues:
    """Endless source of dialogues; the same arguments give the same sequence."""

    def __init__(
        self, seed: int, split: Split, definitions: Sequence[tasks.Definition] = ()
    ) -> None:
        self.rng = random.Random(f"{split} {seed}")
        self.words = Words(self.rng, split)
        self.split = split
        self.definitions = definitions
        self.remarks = [
            e.example[0].upper() + e.example[1:] + "." for e in definitions if e.example
        ]
        self.foreign = foreign.TRAIN if split == "train" else foreign.HELD_OUT

    def draw(self) -> Dialogue:
        """Return the next dialogue: one to four questions with one system prompt."""
        rng = self.rng
        dialogue = Dialogue(thinking=rng.random() < 0.5)
        offered = self.tool_list() if rng.random() < 0.8 else []
        dialogue.tools = [tool.schema for tool, _ in offered]
        if rng.random() < 0.25:
            dialogue.messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
        for _ in range(rng.choices((1, 2, 3, 4), (45, 25, 15, 15))[0]):
            # The chat template drops the reasoning of earlier questions.
            if offered and rng.random() < 0.78:
                self._tool_turn(dialogue, offered)
            else:
                self._plain_turn(dialogue, offered)
        return dialogue

    def tool_list(self) -> list[tuple[Tool, foreign.Foreign | None]]:
        """Draw tools in random order; in a quarter of the lists core tools are disguised."""
        rng = self.rng
        cores = rng.sample(CORE_NAMES, rng.choice((1, 2, 3, 4, 4, 5, 6, 8)))
        hidden = rng.random() < 0.25
        offered: list[tuple[Tool, foreign.Foreign | None]] = [
            (disguise(core, rng) if hidden and rng.random() < 0.7 else plain(core), None)
            for core in cores
        ]
        strangers = rng.sample(self.foreign, rng.choice((0, 0, 1, 1, 2, 3)))
        if self.split == "train":
            strangers = [s if rng.random() < 0.5 else invent(rng) for s in strangers]
        offered += [(stranger.tool, stranger) for stranger in strangers]
        rng.shuffle(offered)
        names = [tool.name for tool, _ in offered]
        return [pair for i, pair in enumerate(offered) if pair[0].name not in names[:i]]

    def _tool_turn(
        self, dialogue: Dialogue, offered: list[tuple[Tool, foreign.Foreign | None]]
    ) -> None:
        rng = self.rng
        tool, stranger = rng.choice(offered)
        if stranger is not None:
            self._foreign_turn(dialogue, tool, stranger)
            return
        here = {tool.core for tool, _ in offered}
        missing = [core for core in CORE_NAMES if core not in here]
        if missing and rng.random() < 0.06:
            core = rng.choice(missing)
            request = ask(core, self.words, self.remarks)
            thought = f"The user wants me to use {core}. None of my tools can do that."
            self._say(dialogue, request.text, results.refusal(core, rng), thought)
            return
        request = ask(tool.core, self.words, self.remarks)
        arguments = {tool.names[p]: value for p, value in request.arguments.items()}
        result, sentence = results.invent(tool.core, request.arguments, self.words)
        text, final = request.text, sentence
        if "error" not in result and rng.random() < 0.08:
            keys = rng.sample(list(result), min(len(result), rng.randint(1, 3)))
            final = json.dumps({key: result[key] for key in keys}, ensure_ascii=False)
            text += f" Answer in JSON with the keys {json_tasks.named(keys, rng)}."
        shown = results.as_text(result, rng)
        self._call(dialogue, text, tool, arguments, shown, final)

    def _foreign_turn(self, dialogue: Dialogue, tool: Tool, stranger: foreign.Foreign) -> None:
        rng = self.rng
        arguments = {name: self.words.make(maker) for name, maker in stranger.makers.items()}
        if self.split == "train":
            text = utter(stranger.ways, rng, arguments, self.remarks)
        else:
            text = expand(rng.choice(stranger.ways.direct), rng, arguments)
        if rng.random() < 0.7:
            result: Schema = {"status": rng.choice(("ok", "done"))}
            final = rng.choice(("Done.", "It is done.", "That worked."))
        else:
            value = rng.choice((self.words.integer(), self.words.phrase(), self.words.code()))
            result = {"result": value}
            final = rng.choice((f"The answer is {value}.", f"I got this: {value}."))
        self._call(dialogue, text, tool, arguments, json.dumps(result), final)

    def _call(
        self,
        dialogue: Dialogue,
        text: str,
        tool: Tool,
        arguments: dict[str, str],
        shown: str,
        final: str,
    ) -> None:
        rng = self.rng
        listed = ", ".join(f"{name} {value}" for name, value in arguments.items())
        with_what = f" with {listed}" if listed else ""
        thought = rng.choice(
            (
                f"I call {tool.name}{with_what}.",
                f"The tool {tool.name} can do that. I call it{with_what}.",
                f"The user needs {tool.name}{with_what}.",
            )
        )
        call = {"function": {"name": tool.name, "arguments": arguments}}
        dialogue.messages += [
            {"role": "user", "content": text},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": thought if dialogue.thinking else "",
                "tool_calls": [call],
            },
            {"role": "tool", "content": shown},
            {
                "role": "assistant",
                "content": final,
                "reasoning_content": (
                    rng.choice(("I have the result and can answer.", "The tool has answered."))
                    if dialogue.thinking
                    else ""
                ),
            },
        ]

    def _plain_turn(self, dialogue: Dialogue, offered: list[Any]) -> None:
        rng = self.rng
        chance = rng.random()
        if chance < 0.52:
            task = json_tasks.json_task(self.words)
            self._say(dialogue, task.text, task.answer, "The user wants JSON. No tool is needed.")
        elif chance < 0.75 and self.definitions:
            question, answer = tasks.definition(self.words, self.definitions)
            self._say(dialogue, question, answer, "I can explain that word.")
        elif chance < 0.83 and not any(tool.core == "calculate" for tool, _ in offered):
            question, answer = tasks.small_sum(self.words)
            self._say(dialogue, question, answer, "This is a small sum. I can do it.")
        else:
            question, answer = tasks.chat(self.words)
            self._say(dialogue, question, answer, "I can answer that without a tool.")

    def _say(self, dialogue: Dialogue, question: str, answer: str, thought: str) -> None:
        dialogue.messages += [
            {"role": "user", "content": question},
            {
                "role": "assistant",
                "content": answer,
                "reasoning_content": thought if dialogue.thinking else "",
            },
        ]
