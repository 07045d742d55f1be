"""Held-out wordings for evaluation; training draws none of them and nothing that matches them.

``tests/scripts/test_demo_model_split.py`` proves that no text of these patterns matches a pattern
of training; ``split.py`` ensures that no training text contains one.
"""

from __future__ import annotations

WEATHER = (
    "I'm packing my bags for {city}, so what weather should I expect?",
    "Before I leave for {city}: is it cold out there?",
    "Would an umbrella be useful in {city} this afternoon?",
    "Describe today's weather conditions in {city}.",
    "Any chance of rain around {city}?",
    "Is {city} sunny at this hour?",
    "How does the weather in {city} look?",
    "Please report the temperature at {city}.",
    "Could it be snowing in {city}?",
    "My plane lands in {city} soon and I wonder about the weather.",
    "They say {city} is windy. Is that so?",
    "Outside temperature, {city}?",
)
WEATHER_UNIT = (
    "I think in {unit}. How warm is {city} at present?",
    "Report the temperature at {city}, measured in {unit}.",
    "{city}: temperature in {unit}, please!",
)
TIME_CITY = (
    "If I call {city} this minute, what hour will it be for them?",
    "Do you happen to know the time over at {city}?",
    "In {city}, what time is it?",
    "My flight is in {city} and I must set my watch. The time there?",
    "What would a clock on the wall in {city} show?",
    "Has midnight passed in {city}?",
    "Please report the local time at {city}.",
    "Is it too early to phone somebody in {city}?",
    "Say what time people in {city} have.",
)
TIME_HERE = (
    "Do you have the time?",
    "My watch has stopped. How late is it by now?",
    "Please report the current time!",
    "Say, what hour is it?",
)
CALCULATE = (
    ("Please tell me how much {a} plus {b} makes.", "{a} + {b}"),
    ("If you add {a} to {b}, what comes out?", "{a} + {b}"),
    ("Could you do {a} minus {b} for me?", "{a} - {b}"),
    ("From {a} I take {b}. What remains?", "{a} - {b}"),
    ("Would you multiply {a} and {b} for me?", "{a} * {b}"),
    ("Every one of {a} boxes holds {b} pens. What is the total?", "{a} * {b}"),
    ("I must know what {a} times {b} gives.", "{a} * {b}"),
    ("Could you divide {a} by {b} for me?", "{a} / {b}"),
    ("{a} euros, shared by {b} friends: how much for each?", "{a} / {b}"),
    ("Tell me what {a} percent of {b} amounts to.", "{b} * {a} / 100"),
    ("Which number is the square root of {a}?", "sqrt({a})"),
    ("Evaluate ({a} + {b}) * {c} for me.", "({a} + {b}) * {c}"),
    ("I need the result of {a} * {b} + {c}.", "{a} * {b} + {c}"),
    ("The total of {a}, {b} and {c} would be?", "{a} + {b} + {c}"),
)
CONVERT = (
    "Say {value} {from} in {to} for me.",
    "For a friend abroad I must turn {value} {from} into {to}.",
    "Would you convert {value} {from} to {to} for me?",
    "Please help: {value} {from}, but expressed in {to}.",
    "The label reads {value} {from}; I only understand {to}.",
    "Measured in {to}, how much would {value} {from} be?",
    "I only know {value} {from}. And in {to}?",
    "Do the conversion of {value} {from} to {to}.",
)
SEARCH = (
    "Use the internet and tell me about {query}.",
    "Somebody mentioned {query}; look that up on the internet.",
    "Be so kind and search the internet for {query}.",
    "Would you do some research on {query}?",
    "Let's see what the internet knows about {query}.",
    "Go online and find out about {query}.",
    "A web search on {query} would help me.",
)
READ_FILE = (
    "I forgot what I wrote in {path}; read it out.",
    "Would you please open up {path} and show me the text?",
    "The text inside {path}, please.",
    "Please tell me the contents of the file at {path}.",
    "Somewhere I have a file {path}. Read it for me.",
    "Output the file {path}.",
    "Does {path} say anything?",
)
LIST_FILES = (
    "I would like to see which files the folder {path} has.",
    "Go to the directory {path} and list what is there.",
    "Everything that lies in the folder {path}, please.",
    "Name the files that are stored under {path}.",
    "Would you list the directory {path} for me?",
    "Please enumerate the files of folder {path}.",
)
WRITE_FILE = (
    'Would you please note "{text}" in the file {path}?',
    'The file {path} should contain "{text}".',
    'Make a new file at {path} and write "{text}" there.',
    'Please keep "{text}" for me in {path}.',
    'Put the following line into {path}: "{text}"',
)
# {k} the keys, {t} the text.
JSON = (
    "Here is a note. {t} Produce a JSON object whose keys are {k}.",
    "I need {k} as a JSON object, taken from the following: {t}",
    "Please summarise as JSON using the keys {k}. {t}",
    "{t} Now put {k} in a JSON object for me.",
    "Output a JSON object having the keys {k} for this: {t}",
)
JSON_LISTS = (
    "I want these as a JSON array: {t}",
    "Please form a JSON list from {t}",
)
