"""Write the tables of docs/options.md from the declared options, or check that they are current.

python scripts/options_table.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import generated_page

from flash_moe.env import Environment
from flash_moe.generation.conversation import ConversationOptions
from flash_moe.generation.options import GenerationOptions
from flash_moe.options.declare import Declared, declared
from flash_moe.options.loading import LoadOptions
from flash_moe.options.sampling import SamplingParams

FILE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
HEAD = """# Options

All options of the package, made from their declarations by `scripts/options_table.py`.

`load()`, `model.generate()`, `model.stream()` and `Conversation()` take them by name. The commands
`generate`, `chat`, `serve` and `eval` take the flags. An argument or a flag wins over a variable of
the environment, and a field of a request over a flag of `serve`. A value out of range is an error
that names the option. `None` stands for the default.
"""


def cell(text: str) -> str:
    return text.replace("|", r"\|")


def table(rows: Iterable[Declared]) -> str:
    lines = [
        "| option | meaning | range | default | flag | variable |",
        "|---|---|---|---|---|---|",
    ]
    for each in rows:
        o = each.option
        flags = " ".join(f"`{flag}`" for flag in o.flags)
        variable = f"`{each.variable}`" if o.env else ""
        limits = ", ".join(filter(None, (o.unit, o.expected)))
        cells = (f"`{each.name}`", o.help, limits, each.default_text, flags, variable)
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


def page() -> str:
    sampling = declared(SamplingParams)
    generation = declared(GenerationOptions)
    beyond = [each for name, each in generation.items() if name not in sampling]
    turns = declared(ConversationOptions)
    conversation = [each for name, each in turns.items() if name not in generation]
    sections = {
        "Loading": declared(LoadOptions).values(),
        "Sampling": sampling.values(),
        "Generation": beyond,
        "Conversations": conversation,
        "Environment alone": declared(Environment).values(),
    }
    tables = (f"## {title}\n\n{table(rows)}\n" for title, rows in sections.items())
    return "\n".join([HEAD, *tables])


if __name__ == "__main__":
    sys.exit(generated_page.main(FILE, page, __doc__))
