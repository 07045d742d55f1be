"""Tools beside the core ones, each with the ways people ask for it.

A wording is a pattern (``patterns.py``); its slots are the parameters of the tool, filled by the
maker named after the parameter. The tools of ``HELD_OUT`` never occur in training.
"""

from __future__ import annotations

from dataclasses import dataclass

from scripts.demo_model.tools import Schema, Tool, function, number, text


@dataclass(frozen=True)
class Foreign:
    """A tool, the makers of its parameters (methods of ``Words``), and its wordings."""

    schema: Schema
    makers: dict[str, str]
    wordings: tuple[str, ...]

    @property
    def tool(self) -> Tool:
        return Tool("", self.schema, {name: name for name in self.makers})


def _foreign(
    name: str, description: str, parameters: dict[str, tuple[str, str]], *wordings: str
) -> Foreign:
    """``parameters``: name to (maker, description); integers and numbers get the number type."""
    makers = {p: maker for p, (maker, _) in parameters.items()}
    properties = {
        p: number(about) if maker in ("integer", "number") else text(about)
        for p, (maker, about) in parameters.items()
    }
    return Foreign(function(name, description, properties), makers, wordings)


TRAIN: tuple[Foreign, ...] = (
    _foreign(
        "set_timer",
        "Start a timer.",
        {"minutes": ("integer", "How long")},
        "[Set|Start] a timer for {minutes} minutes[| please].",
        "[Please |]wake me in {minutes} minutes.",
        "Timer, {minutes} minutes.",
    ),
    _foreign(
        "send_message",
        "Send a short message to a person.",
        {"name": ("name", "Who gets it"), "text": ("sentence", "The message")},
        '[Send|Write] {name} [a message|this]: "{text}"',
        "[Please |]tell {name}: {text}",
        "Message {name} that {text}",
    ),
    _foreign(
        "translate",
        "Translate a text.",
        {"text": ("sentence", "What to translate"), "language": ("language", "Into which")},
        '[Please |]translate "{text}" [to|into] {language}.',
        'How do you say "{text}" in {language}?',
    ),
    _foreign(
        "play_music",
        "Play a song.",
        {"title": ("phrase", "The song")},
        "[Play|Put on] {title}[| please].",
        "I want to hear {title}.",
    ),
    _foreign(
        "get_stock_price",
        "Latest price of a share.",
        {"symbol": ("code", "Ticker symbol")},
        "[What is the price of|How much is] {symbol}[| stock| today]?",
        "[Give me|Look up] the share price of {symbol}.",
    ),
    _foreign(
        "book_table",
        "Book a table in a restaurant.",
        {"restaurant": ("name", "Name of the restaurant"), "people": ("integer", "How many")},
        "[Book|Reserve] a table for {people} at {restaurant}.",
        "We are {people} and want to eat at {restaurant}.",
    ),
    _foreign(
        "add_note",
        "Keep a note.",
        {"title": ("noun", "Title"), "text": ("sentence", "The note")},
        '[Make|Add|Take] a note called {title}: "{text}"',
        "Note under {title} that {text}",
    ),
    _foreign(
        "set_temperature",
        "Set the heating of a room.",
        {"room": ("noun", "Which room"), "degrees": ("integer", "Degrees")},
        "[Set|Heat] the {room} to {degrees} degrees[| please].",
        "Make it {degrees} degrees in the {room}.",
    ),
    _foreign(
        "roll_dice",
        "Roll dice.",
        {"count": ("integer", "How many dice"), "sides": ("integer", "Sides of each")},
        "Roll {count} dice with {sides} sides[| each].",
        "[Throw|Cast] {count} dice of {sides} sides.",
    ),
    _foreign(
        "track_package",
        "Where a package is.",
        {"code": ("code", "Tracking code")},
        "Where is [my package|parcel|package] {code}?",
        "[Track|Find] [the package|my parcel] {code}.",
    ),
    _foreign(
        "find_recipe",
        "Find a recipe.",
        {"dish": ("phrase", "What to cook")},
        "[How do I cook|Find a recipe for|I want to cook] {dish}.",
        "Recipe for {dish}[| please].",
    ),
    _foreign(
        "get_distance",
        "Distance between two cities.",
        {"start": ("city", "From where"), "end": ("city", "To where")},
        "How far is it from {start} to {end}?",
        "[What is|Tell me] the distance [between {start} and {end}|from {start} to {end}].",
    ),
    _foreign(
        "ping_host",
        "Check whether a machine answers.",
        {"host": ("pseudo", "Name of the machine")},
        "[Ping|Check] the [machine|host|server] {host}.",
        "Is [the server |]{host} up?",
    ),
    _foreign(
        "count_words",
        "Count the words of a text.",
        {"text": ("sentence", "The text")},
        'How many words are in "{text}"?',
        '[Count|Tell me the number of] words in "{text}".',
    ),
    _foreign(
        "call_contact",
        "Call a person on the phone.",
        {"name": ("name", "Whom to call")},
        "[Call|Phone|Ring] {name}[| please| now].",
        "I need to talk to {name} on the phone.",
    ),
    _foreign(
        "turn_on",
        "Switch a device on.",
        {"device": ("noun", "Which device")},
        "[Turn|Switch] [on the {device}|the {device} on].",
    ),
    _foreign(
        "order_item",
        "Order something from the shop.",
        {"item": ("noun", "What"), "quantity": ("integer", "How many")},
        "[Order|Buy|Get me] {quantity} of the {item}[| from the shop].",
        "The {item} is used up. I need {quantity} more.",
    ),
    _foreign(
        "get_population",
        "How many people live in a place.",
        {"place": ("city", "The place")},
        "How many people live in {place}?",
        "[What is the|Tell me the] population of {place}[|?]",
    ),
)

HELD_OUT: tuple[Foreign, ...] = (
    _foreign(
        "find_flight",
        "Find a flight between two cities.",
        {"origin": ("city", "From where"), "destination": ("city", "To where")},
        "I would like to fly from {origin} to {destination}.",
    ),
    _foreign(
        "lock_door",
        "Lock a door.",
        {"door": ("noun", "Which door")},
        "Make sure the {door} door is locked.",
    ),
    _foreign(
        "rename_user",
        "Give a user another name.",
        {"user": ("pseudo", "Name so far"), "new_name": ("pseudo", "Name from now on")},
        "User {user} shall be called {new_name} from now on.",
    ),
    _foreign(
        "get_lyrics",
        "Words of a song.",
        {"song": ("phrase", "Title of the song")},
        "What are the words of the song {song}?",
    ),
)
