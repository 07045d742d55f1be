"""Tools of the dialogues: schemas and alternative names.

``CORE`` has the tools that the demo model is trained for. ``disguise`` renames a core tool and its
parameters, so that a model must read the list in its system prompt (as for the tools of
``invented.py``).
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


def function(
    name: str, description: str, properties: Schema, required: list[str] | None = None
) -> Schema:
    """Return a tool in the format of chat templates; parameters are required by default."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties) if required is None else required,
            },
        },
    }


def text(description: str) -> Schema:
    return {"type": "string", "description": description}


def number(description: str) -> Schema:
    return {"type": "number", "description": description}


CORE: dict[str, Schema] = {
    tool["function"]["name"]: tool
    for tool in (
        function(
            "get_weather",
            "Current weather of a city.",
            {
                "city": text("Name of the city"),
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            ["city"],
        ),
        function(
            "get_time",
            "Current time and date, here or in a city.",
            {"city": text("Name of the city, left out for here")},
            [],
        ),
        function(
            "calculate",
            "Value of an arithmetic expression.",
            {"expression": text("For example 3 * (4 + 5)")},
        ),
        function(
            "convert_units",
            "Convert a value from one unit to another.",
            {
                "value": number("The value"),
                "from_unit": text("Its unit"),
                "to_unit": text("The unit wanted"),
            },
        ),
        function("search", "Search the web.", {"query": text("What to search for")}),
        function("read_file", "Contents of a text file.", {"path": text("Path of the file")}),
        function("list_files", "Names of the files in a folder.", {"path": text("The folder")}),
        function(
            "write_file",
            "Write text to a file.",
            {"path": text("Path of the file"), "text": text("What to write")},
        ),
    )
}

# Alternatives for core tools: name, description, parameter names.
_DISGUISES: dict[str, tuple[list[str], list[str], dict[str, list[str]]]] = {
    "get_weather": (
        ["weather", "current_weather", "weather_report", "forecast", "lookup_weather"],
        ["Weather report for a place.", "Tells temperature and sky.", "Get the weather."],
        {"city": ["location", "place", "town", "where", "city_name"], "unit": ["units", "scale"]},
    ),
    "get_time": (
        ["clock", "current_time", "time_now", "local_time", "world_clock"],
        ["Tells the time.", "The clock of a place.", "Time of day right now."],
        {"city": ["location", "place", "town", "where", "timezone_city"]},
    ),
    "calculate": (
        ["calculator", "compute", "math", "evaluate", "eval_expression"],
        ["Do arithmetic.", "A calculator.", "Evaluate a formula."],
        {"expression": ["formula", "input", "expr", "query", "sum"]},
    ),
    "convert_units": (
        ["convert", "unit_converter", "unit_conversion", "to_unit"],
        ["Unit conversion.", "Change the unit of a measure.", "Convert measures."],
        {
            "value": ["amount", "number", "quantity"],
            "from_unit": ["from", "source", "unit_from"],
            "to_unit": ["to", "target", "unit_to"],
        },
    ),
    "search": (
        ["web_search", "search_web", "find", "lookup", "internet_search"],
        ["Find pages about something.", "Look something up.", "Search engine."],
        {"query": ["q", "text", "terms", "keywords", "question"]},
    ),
    "read_file": (
        ["open_file", "cat", "load_file", "file_contents", "show_file"],
        ["Read a file.", "Show what a file contains.", "Return the text of a file."],
        {"path": ["file", "filename", "file_path", "name"]},
    ),
    "list_files": (
        ["ls", "list_folder", "list_directory", "dir", "folder_contents"],
        ["List a folder.", "Show which files a folder has.", "Directory listing."],
        {"path": ["folder", "directory", "dir", "folder_path"]},
    ),
    "write_file": (
        ["save_file", "create_file", "save_text", "store_file"],
        ["Save text in a file.", "Create a file.", "Put text into a file."],
        {"path": ["file", "filename", "file_path", "name"], "text": ["content", "body", "data"]},
    ),
}


@dataclass(frozen=True)
class Tool:
    """Tool in one dialogue.

    Attributes:
        core: Name in ``CORE``, or ``""`` for a foreign tool.
        schema: Schema in the system prompt.
        names: Parameter names of ``CORE`` to those of ``schema``.
    """

    core: str
    schema: Schema
    names: dict[str, str]

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])


def plain(name: str) -> Tool:
    """Return a core tool under its own name."""
    schema = CORE[name]
    return Tool(name, schema, {p: p for p in schema["function"]["parameters"]["properties"]})


def disguise(name: str, rng: random.Random) -> Tool:
    """Return a core tool under another name, description and parameter names."""
    tool_names, descriptions, parameters = _DISGUISES[name]
    schema = copy.deepcopy(CORE[name])
    inner = schema["function"]
    if rng.random() < 0.8:
        inner["name"] = rng.choice(tool_names)
    if rng.random() < 0.8:
        inner["description"] = rng.choice(descriptions)
    spec = inner["parameters"]
    names = {p: rng.choice([p, *parameters[p]]) for p in spec["properties"]}
    spec["properties"] = {names[p]: value for p, value in spec["properties"].items()}
    spec["required"] = [names[p] for p in spec["required"]]
    return Tool(name, schema, names)
