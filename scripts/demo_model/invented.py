"""Tools invented for one dialogue, so that the tool list must be read, not memorized.

A tool combines one of many actions with one of many objects and has up to three parameters of many
kinds; the question has all of them in its own order. Names and parameters of held-out tools
(``foreign.HELD_OUT``) never occur.
"""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.demo_model.corpus import entries
from scripts.demo_model.foreign import HELD_OUT
from scripts.demo_model.foreign_tool import Foreign
from scripts.demo_model.tools import function, number, text
from scripts.demo_model.ways import Ways
from scripts.demo_model.words import NOUNS

VERBS = [
    *"""
open close start stop delete copy print share book cancel check find buy sell rent order mute update
install remove pause resume scan measure clean water feed charge park paint fix record register
report approve reject sort count pay invite remind email archive download upload reset test schedule
move send show hide add edit merge split save load create build label track rate review assign
collect deliver describe enable disable export import inspect join leave mark monitor open pack
""".split(),
    *entries("lexicon/verbs.txt"),
]
OBJECTS = (
    """
account address alarm album article bill blog booking calendar channel chart chat comment course
customer dashboard device document email event folder form game group heater image invoice item
job lamp list log map member menu note order page parcel password payment plan player playlist
poll post printer process profile project queue radio record reminder report reservation room
route schedule screen server session shelf shipment sign slide spreadsheet subscription survey
table task team template thermostat thread ticket timer token trip vehicle version visitor volume
""".split()
    + NOUNS
)


@dataclass(frozen=True)
class Slot:
    """Parameter: possible names, maker in ``Words``, description, phrases in questions.

    ``{v}`` in a phrase is the value. A pair of slots shares one phrase with ``{v}`` and ``{w}``.
    """

    names: tuple[str, ...]
    maker: str
    about: str
    phrases: tuple[str, ...]


SLOTS = (
    Slot(("city", "place", "town", "location"), "city", "Where", ("in {v}", "at {v}", "near {v}")),
    Slot(("name", "person", "who", "owner"), "name", "Name of a person", ("for {v}", "of {v}")),
    Slot(("user", "account", "login"), "pseudo", "User name", ("of user {v}", "for user {v}")),
    Slot(("count", "number", "amount"), "integer", "How many", ("{v} times", "with number {v}")),
    Slot(("minutes", "duration"), "integer", "Minutes", ("for {v} minutes",)),
    Slot(("percent", "level"), "integer", "Per cent", ("at {v} percent", "to {v} percent")),
    Slot(("price", "limit"), "number", "Price in euros", ("for {v} euros", "below {v} euros")),
    Slot(("code", "id", "reference"), "code", "Code", ("with code {v}", "{v}", "number {v}")),
    Slot(("title", "label", "topic"), "phrase", "Title", ("called {v}", "about {v}")),
    Slot(("text", "message", "content"), "sentence", "Text", ('with "{v}"', 'saying "{v}"')),
    Slot(("path", "file"), "path", "A file", ("from {v}", "in the file {v}")),
    Slot(("folder", "directory"), "folder", "A folder", ("in the folder {v}",)),
    Slot(("time", "start_time"), "clock", "Time of day", ("at {v}", "for {v}")),
    Slot(("kind", "type", "category"), "noun", "Which kind", ("of kind {v}", "for the {v}")),
    Slot(("word", "tag"), "pseudo", "A word", ("tagged {v}", "with the word {v}")),
)
PAIRS = (
    Slot(("source target", "from_city to_city", "start end"), "city", "", ("from {v} to {w}",)),
    Slot(("first second", "left right"), "noun", "", ("between {v} and {w}",)),
    Slot(("old_text new_text", "before after"), "pseudo", "", ("from {v} to {w}",)),
    Slot(("old_code new_code",), "code", "", ("from {v} to {w}", "with {w} instead of {v}")),
    Slot(("low high", "least most"), "integer", "", ("between {v} and {w}", "from {v} to {w}")),
)
STYLES = ("{v}_{o}", "{v}_{o}", "{v}_{o}", "{o}_{v}", "{v}{O}", "{o}.{v}", "do_{v}_{o}")
ABOUT = ("{V} a {o}.", "{V} the {o}.", "{V} one {o} of the user.", "Lets you {v} a {o}.", "{V} {o}")
# {d}: the action; {x}: the phrases of the parameters.
QUESTIONS = (
    "[Please |Can you |Could you |]{v} [the|my|a|this] {o}{x}[.|]",
    "I [want|need|would like] to {v} [the|a|my] {o}{x}.",
    "{v} {o}{x}",
    "[The|My] {o} [must|has to|should] be done: {v} it{x}.",
    "[Help me|I want you] to {v} [the|my|a] {o}{x}.",
    "It is time to {v} the {o}{x}.",
    "What about the {o}? {v} it{x}.",
    "Go and {v} the {o}{x}, please.",
)
_HELD_OUT = {tool.schema["function"]["name"] for tool in HELD_OUT}


def invent(rng: random.Random) -> Foreign:
    """Return an invented tool with its wordings."""
    while True:
        verb, thing = rng.choice(VERBS), rng.choice(OBJECTS)
        fill = {"v": verb, "V": verb.capitalize(), "o": thing, "O": thing.capitalize()}
        name = rng.choice(STYLES).format(**fill)
        if name not in _HELD_OUT and verb != thing:
            break
    makers: dict[str, str] = {}
    properties: dict[str, dict[str, str]] = {}
    phrases: list[str] = []
    kinds = rng.sample(SLOTS, rng.choice((0, 1, 1, 1, 2, 2, 3)))
    if rng.random() < 0.2:
        kinds = [*kinds[:1], rng.choice(PAIRS)]
    for slot in kinds:
        names = rng.choice(slot.names).split()
        if any(n in makers for n in names) or slot.maker in makers.values():
            continue
        for position, n in enumerate(names):
            numeric = slot.maker in ("integer", "number")
            about = slot.about or ("The first of both", "The second of both")[position]
            makers[n] = slot.maker
            properties[n] = (number if numeric else text)(about)
        phrase = rng.choice(slot.phrases)
        phrase = phrase.replace("{v}", f"{{{names[0]}}}")
        phrases.append(phrase.replace("{w}", f"{{{names[-1]}}}"))
    schema = function(name, rng.choice(ABOUT).format(**fill), properties)
    rng.shuffle(phrases)
    said = "".join(f" {phrase}" for phrase in phrases)
    wordings = tuple(
        _begin(q.replace("{v}", verb).replace("{o}", thing).replace("{x}", said)) for q in QUESTIONS
    )
    return Foreign(schema, makers, Ways(direct=wordings, do=(f"{verb} [the|my|a] {thing}{said}",)))


def _begin(pattern: str) -> str:
    return pattern if pattern.startswith("[") else pattern[0].upper() + pattern[1:]
