"""Makers of the values that the further kinds of records hold."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripts.demo_model.records import Field
from scripts.demo_model.results import MONTHS
from scripts.demo_model.words import ADJECTIVES, Words, plural

PAINTS = "red blue green yellow black white brown grey pink purple cream violet".split()
GENRES = "crime|science fiction|fantasy|romance|horror|biography|travel|poetry|satire".split("|")
LANGUAGES = "English French German Spanish Italian Polish Korean Hindi Arabic Danish".split()
COUNTRIES = "Norway Peru Chile Nepal Kenya Italy Canada Japan Poland Turkey Mexico Spain".split()
SPECIES = "tiger wolf llama zebra penguin parrot camel giraffe seal tortoise monkey bear".split()
FOODS = "hay|fish|raw meat|carrots|bamboo|seeds and nuts|fresh leaves|apples|insects".split("|")
DIFFICULTIES = "easy simple medium moderate hard tricky".split()
MEALS = "porridge|pancakes|eggs and toast|fruit salad|two rolls|oats with milk|waffles".split("|")
COMPLAINTS = (
    "back pain|headache|fever|a sore throat|a broken toe|dizziness|earache|a deep cut|hay fever"
    "|stomach ache|a rash|chest pain"
).split("|")
WARDS = "surgery radiology cardiology dermatology neurology paediatrics oncology".split()
STATUSES = "in transit|delayed|lost|delivered|ready for pickup|at customs|on the van".split("|")
SPOTS = "full sun|half shade|deep shade|dry soil|moist soil|a warm corner|a cool hallway".split("|")
SEAS = "Baltic Sea|North Sea|Black Sea|Red Sea|Pacific|Atlantic|Caspian Sea|Arctic Ocean".split("|")
SEASONS = "spring summer autumn winter".split()
MATERIALS = "steel brass copper nylon rubber titanium bronze ceramic cast-iron carbon zinc".split()
TECHNIQUES = (
    "oil on canvas|watercolour|charcoal|pastel|tempera on wood|acrylic|ink on paper|fresco"
).split("|")
PURPOSES = "rent|school fees|a used car|membership|roof repair|a gift|insurance|taxes".split("|")
BOATS = "ferry|trawler|sloop|tugboat|houseboat|catamaran|fishing boat|schooner|barge".split("|")
FUELS = "petrol diesel electricity hydrogen gas ethanol".split()
PAID = "paid|unpaid|overdue|cancelled|partly paid|disputed|in reminder".split("|")
SEVERITIES = "minor major critical trivial blocking urgent low high".split()
MODULES = "parser|login page|installer|scheduler|database layer|print dialog|cache|editor".split(
    "|"
)
ROLES = (
    "night porter|software tester|bus driver|pastry chef|tax adviser|lab technician|roofer|gardener"
    "|sales manager|beekeeper|dental nurse|welder|copy editor|lifeguard"
).split("|")
COURSES = (
    "Algebra|Pottery|Latin|First Aid|Beginners Guitar|Organic Chemistry|Public Speaking|Yoga"
    "|Roman History|Database Design|Creative Writing|Welding|Astronomy|Bookkeeping"
).split("|")


def field(make: Callable[[Words], Any], keys: str, sentences: str = "") -> Field:
    """Keys are separated by spaces, sentences by ``|``."""
    return Field(make, tuple(keys.split()), tuple(filter(None, sentences.split("|"))))


def _phrase(*forms: str) -> Callable[[Words], str]:
    """A maker of one of some forms with the slots X (odd name), A, B (adjective, noun), C, N."""

    def form(words: Words) -> str:
        rng = words.rng
        return rng.choice(forms).format(
            X=words.pseudo(2).capitalize(),
            a=rng.choice(ADJECTIVES),
            A=rng.choice(ADJECTIVES).capitalize(),
            b=words.noun(),
            B=words.noun().capitalize(),
            P=plural(words.noun()).capitalize(),
            N=rng.randint(1, 99),
            M=rng.randint(100, 999),
        )

    return lambda words: words.draw(lambda: form(words))


title = _phrase("The {A} {B}", "{A} {P}", "The {B} of {X}", "{X} and the {B}", "{P} in {X}", "{X}")
proper = _phrase("{X}")
press = _phrase("{X} Press", "{A} {B} Books", "{B} House", "{X} Publishing", "{X}")
dish = _phrase("{b} soup", "{b} stew", "{a} {b} pie", "{X} cake", "{a} {b} salad", "{X} curry")
train = _phrase("IC {M}", "ICE {M}", "RE {N}", "TGV {M}", "EC {N}", "Night Train {N}", "S{N}")
hotel = _phrase("Hotel {X}", "{X} Inn", "{A} {B} Lodge", "Pension {X}", "{X} Palace", "Villa {B}")
band = _phrase("The {A} {P}", "The {X} Brothers", "{A} {P}", "The {P}", "The {X} Singers")
venue = _phrase("{X} Hall", "{X} Arena", "{B} Theatre", "Club {X}", "{A} {B} Club", "{X} Stadium")
plant = _phrase("{a} fern", "{X} lily", "{a} cactus", "{X} rose", "{b} orchid", "{a} {b} ivy")
mount = _phrase("Mount {X}", "{X} Peak", "{A} {B} Peak", "Monte {X}", "{X} Horn", "Mount {B}")
part = _phrase("{a} valve", "{b} gear", "{a} bearing", "{b} bracket", "{X} pump", "{a} piston")
firm = _phrase("{X} Ltd", "{X} and Sons", "{A} {B} Works", "{X}", "{X} Motors", "{B} Systems")
address = _phrase("{N} {X} Street", "{N} {B} Lane", "{X} Road {N}", "{N} {A} Avenue", "{X}weg {N}")
team = _phrase("{X} United", "{X} Rovers", "FC {X}", "{A} {P}", "{X} City", "Dynamo {X}")
museum = _phrase("{X} Museum", "{X} Gallery", "Museum {X}", "{A} {B} Gallery", "{X} Castle")
boat = _phrase("{A} {B}", "{X}", "Lady {X}", "MS {X}", "{B} of {X}", "{X} {N}")
star = _phrase("{X} {N}", "Alpha {X}", "{X}", "HD {M}", "Beta {X}")


def email(words: Words) -> str:
    """An address that nobody has."""
    end = words.rng.choice(("com", "org", "net", "example"))
    return words.draw(lambda: f"{words.pseudo(2)}@{words.pseudo(2)}.{end}")


def date(words: Words) -> str:
    """A day, with or without its year."""
    rng = words.rng
    text = f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    return rng.choice((text, f"{text} {rng.randint(2019, 2032)}"))


def fever(words: Words) -> float:
    """Body temperature in degrees Celsius."""
    return words.rng.randint(36, 40) + words.rng.randint(1, 9) / 10


def kilos(words: Words) -> float:
    """Weight of a parcel."""
    return words.rng.randint(0, 30) + words.rng.randint(1, 9) / 10


def version(words: Words) -> str:
    """Version of a program."""
    rng = words.rng
    return f"{rng.randint(0, 12)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}"
