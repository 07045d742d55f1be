"""Tools beside the core ones, each with the ways people ask for it.

A checksum of its name says whether a tool is of ``TRAIN`` or of ``HELD_OUT``; those of ``HELD_OUT``
never occur in training.
"""

from __future__ import annotations

from scripts.demo_model.corpus import (
    foreign_home,
    foreign_more,
    foreign_more2,
    foreign_more3,
    foreign_office,
    foreign_travel,
)
from scripts.demo_model.foreign_tool import Foreign, tool
from scripts.demo_model.words import is_held_out

_FIRST: tuple[Foreign, ...] = (
    tool(
        "set_timer",
        "Start a timer.",
        {"minutes": ("integer", "How long")},
        direct=(
            "[Set|Start] a timer for {minutes} minutes[| please].",
            "[Please |]wake me in {minutes} minutes.",
            "Timer, {minutes} minutes.",
        ),
    ),
    tool(
        "send_message",
        "Send a short message to a person.",
        {"name": ("name", "Who gets it"), "text": ("sentence", "The message")},
        direct=(
            '[Send|Write] {name} [a message|this]: "{text}"',
            "[Please |]tell {name}: {text}",
            "Message {name} that {text}",
        ),
    ),
    tool(
        "translate",
        "Translate a text.",
        {"text": ("sentence", "What to translate"), "language": ("language", "Into which")},
        direct=(
            '[Please |]translate "{text}" [to|into] {language}.',
            'How do you say "{text}" in {language}?',
        ),
    ),
    tool(
        "play_music",
        "Play a song.",
        {"title": ("phrase", "The song")},
        direct=(
            "[Play|Put on] {title}[| please].",
            "I want to hear {title}.",
        ),
    ),
    tool(
        "get_stock_price",
        "Latest price of a share.",
        {"symbol": ("code", "Ticker symbol")},
        direct=(
            "[What is the price of|How much is] {symbol}[| stock| today]?",
            "[Give me|Look up] the share price of {symbol}.",
        ),
    ),
    tool(
        "book_table",
        "Book a table in a restaurant.",
        {"restaurant": ("name", "Name of the restaurant"), "people": ("integer", "How many")},
        direct=(
            "[Book|Reserve] a table for {people} at {restaurant}.",
            "We are {people} and want to eat at {restaurant}.",
        ),
    ),
    tool(
        "add_note",
        "Keep a note.",
        {"title": ("noun", "Title"), "text": ("sentence", "The note")},
        direct=(
            '[Make|Add|Take] a note called {title}: "{text}"',
            "Note under {title} that {text}",
        ),
    ),
    tool(
        "set_temperature",
        "Set the heating of a room.",
        {"room": ("noun", "Which room"), "degrees": ("integer", "Degrees")},
        direct=(
            "[Set|Heat] the {room} to {degrees} degrees[| please].",
            "Make it {degrees} degrees in the {room}.",
        ),
    ),
    tool(
        "roll_dice",
        "Roll dice.",
        {"count": ("integer", "How many dice"), "sides": ("integer", "Sides of each")},
        direct=(
            "Roll {count} dice with {sides} sides[| each].",
            "[Throw|Cast] {count} dice of {sides} sides.",
        ),
    ),
    tool(
        "track_package",
        "Where a package is.",
        {"code": ("code", "Tracking code")},
        direct=(
            "Where is [my package|parcel|package] {code}?",
            "[Track|Find] [the package|my parcel] {code}.",
        ),
    ),
    tool(
        "find_recipe",
        "Find a recipe.",
        {"dish": ("phrase", "What to cook")},
        direct=(
            "[How do I cook|Find a recipe for|I want to cook] {dish}.",
            "Recipe for {dish}[| please].",
        ),
    ),
    tool(
        "get_distance",
        "Distance between two cities.",
        {"start": ("city", "From where"), "end": ("city", "To where")},
        direct=(
            "How far is it from {start} to {end}?",
            "[What is|Tell me] the distance [between {start} and {end}|from {start} to {end}].",
        ),
    ),
    tool(
        "ping_host",
        "Check whether a machine answers.",
        {"host": ("pseudo", "Name of the machine")},
        direct=(
            "[Ping|Check] the [machine|host|server] {host}.",
            "Is [the server |]{host} up?",
        ),
    ),
    tool(
        "count_words",
        "Count the words of a text.",
        {"text": ("sentence", "The text")},
        direct=(
            'How many words are in "{text}"?',
            '[Count|Tell me the number of] words in "{text}".',
        ),
    ),
    tool(
        "call_contact",
        "Call a person on the phone.",
        {"name": ("name", "Whom to call")},
        direct=(
            "[Call|Phone|Ring] {name}[| please| now].",
            "I need to talk to {name} on the phone.",
        ),
    ),
    tool(
        "turn_on",
        "Switch a device on.",
        {"device": ("noun", "Which device")},
        direct=("[Turn|Switch] [on the {device}|the {device} on].",),
    ),
    tool(
        "order_item",
        "Order something from the shop.",
        {"item": ("noun", "What"), "quantity": ("integer", "How many")},
        direct=(
            "[Order|Buy|Get me] {quantity} of the {item}[| from the shop].",
            "The {item} is used up. I need {quantity} more.",
        ),
    ),
    tool(
        "get_population",
        "How many people live in a place.",
        {"place": ("city", "The place")},
        direct=(
            "How many people live in {place}?",
            "[What is the|Tell me the] population of {place}[|?]",
        ),
    ),
    tool(
        "find_flight",
        "Find a flight between two cities.",
        {"origin": ("city", "From where"), "destination": ("city", "To where")},
        direct=("I would like to fly from {origin} to {destination}.",),
    ),
    tool(
        "lock_door",
        "Lock a door.",
        {"door": ("noun", "Which door")},
        direct=("Make sure the {door} door is locked.",),
    ),
    tool(
        "rename_user",
        "Give a user another name.",
        {"user": ("pseudo", "Name so far"), "new_name": ("pseudo", "Name from now on")},
        direct=("User {user} shall be called {new_name} from now on.",),
    ),
    tool(
        "get_lyrics",
        "Words of a song.",
        {"song": ("phrase", "Title of the song")},
        direct=("What are the words of the song {song}?",),
    ),
)
_ALL = (
    *_FIRST,
    *(*foreign_home.TOOLS, *foreign_travel.TOOLS, *foreign_office.TOOLS),
    *(*foreign_more.TOOLS, *foreign_more2.TOOLS, *foreign_more3.TOOLS),
)
TRAIN = tuple(entry for entry in _ALL if not is_held_out(entry.tool.name))
HELD_OUT = tuple(entry for entry in _ALL if is_held_out(entry.tool.name))
