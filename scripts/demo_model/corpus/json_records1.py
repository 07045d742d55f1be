"""Kinds of records: book, film, animal, recipe, train connection, hotel stay."""

from __future__ import annotations

from scripts.demo_model.corpus.json_values import (
    DIFFICULTIES,
    FOODS,
    GENRES,
    LANGUAGES,
    MEALS,
    SPECIES,
    date,
    dish,
    field,
    hotel,
    press,
    proper,
    title,
    train,
)
from scripts.demo_model.records import Record, money, one, whole
from scripts.demo_model.words import Words

RECORDS_1: tuple[Record, ...] = (
    Record(
        field(title, "title book name"),
        {
            "author": field(
                Words.name,
                "author writer written_by",
                "{v} wrote {s}.|{s} was written by {v}.|The author of {s} is {v}.|{s} is a book "
                "by {v}.",
            ),
            "pages": field(
                whole(40, 1400),
                "pages page_count length",
                "{s} has {v} pages.|There are {v} pages in {s}.|At {v} pages, {s} is quite a "
                "read.|You will find {v} pages between the covers of {s}.",
            ),
            "year": field(
                whole(1850, 2026),
                "year published publication_year",
                "{s} came out in {v}.|{s} was published in {v}.|The first printing of {s} dates "
                "from {v}.|In {v} the book {s} appeared.",
            ),
            "genre": field(
                one(GENRES),
                "genre kind category",
                "{s} belongs to the genre {v}.|The genre of {s} is {v}.|Bookshops file {s} under "
                "{v}.|Readers of {v} will enjoy {s}.",
            ),
            "publisher": field(
                press,
                "publisher press house",
                "{v} published {s}.|{s} was brought out by {v}.|The publisher of {s} is {v}.",
            ),
        },
    ),
    Record(
        field(title, "title film movie"),
        {
            "director": field(
                Words.name,
                "director directed_by filmmaker",
                "{v} directed {s}.|{s} was directed by {v}.|The director of {s} is {v}.|{s} was "
                "shot by {v}.",
            ),
            "minutes": field(
                whole(60, 220),
                "minutes runtime duration",
                "{s} runs for {v} minutes.|{s} lasts {v} minutes.|Plan {v} minutes for {s}.|The "
                "running time of {s} is {v} minutes.",
            ),
            "rating": field(
                whole(1, 10),
                "rating score grade",
                "Critics gave {s} a score of {v}.|{s} has a rating of {v} out of ten.|The rating "
                "of {s} stands at {v}.",
            ),
            "language": field(
                one(LANGUAGES),
                "language spoken_language audio",
                "{s} is in {v}.|The actors in {s} speak {v}.|The language of {s} is {v}.|{s} was "
                "filmed in {v}.",
            ),
            "lead": field(
                Words.name,
                "lead star main_actor",
                "{v} plays the lead in {s}.|The star of {s} is {v}.|The leading role of {s} went "
                "to {v}.",
            ),
            "screen": field(
                whole(1, 20),
                "screen hall auditorium",
                "{s} is showing on screen {v}.|Go to screen {v} for {s}.|You can watch {s} on "
                "screen {v}.",
            ),
        },
    ),
    Record(
        field(proper, "name animal called"),
        {
            "species": field(
                one(SPECIES),
                "species kind type",
                "{s} is a {v}.|The species of {s} is {v}.|Our {v} is called {s}.|At the zoo "
                "lives a {v} named {s}.",
            ),
            "weight": field(
                whole(2, 900),
                "weight kilograms weight_kg",
                "{s} weighs {v} kg.|The weight of {s} is {v} kg.|On the scales {s} came to {v} "
                "kilograms.|{s} tips the scales at {v} kg.",
            ),
            "food": field(
                one(FOODS),
                "food diet eats",
                "{s} eats {v}.|The favourite food of {s} is {v}.|We feed {s} with {v}.|{s} lives "
                "on {v}.",
            ),
            "keeper": field(
                Words.name,
                "keeper caretaker looked_after_by",
                "{v} looks after {s}.|The keeper of {s} is {v}.|{s} is cared for by {v}.",
            ),
            "birthplace": field(
                Words.city,
                "birthplace born_in origin",
                "{s} was born in {v}.|{s} comes from {v}.|The birthplace of {s} is {v}.",
            ),
        },
    ),
    Record(
        field(dish, "dish recipe meal"),
        {
            "servings": field(
                whole(2, 14),
                "servings serves portions",
                "The {s} serves {v}.|This {s} is enough for {v} people.|The recipe for {s} "
                "yields {v} portions.|You get {v} servings of {s}.",
            ),
            "minutes": field(
                whole(5, 240),
                "minutes cooking_time time",
                "The {s} takes {v} minutes.|Cook the {s} for {v} minutes.|After {v} minutes the "
                "{s} is done.|It takes {v} minutes to make the {s}.",
            ),
            "oven": field(
                whole(120, 250),
                "oven temperature degrees",
                "Bake the {s} at {v} degrees.|The oven for the {s} should be at {v} degrees.|The "
                "{s} goes into the oven at {v} degrees.",
            ),
            "difficulty": field(
                one(DIFFICULTIES),
                "difficulty level effort",
                "The difficulty of the {s} is {v}.|Our cooks rate the {s} as {v}.|Making the {s} "
                "is {v}.",
            ),
            "cook": field(
                Words.name,
                "cook chef made_by",
                "{v} cooked the {s}.|The {s} is a recipe by {v}.|The chef behind the {s} is {v}.",
            ),
            "calories": field(
                whole(90, 1200),
                "calories energy kcal",
                "The {s} has {v} calories.|One portion of {s} contains {v} calories.|Count {v} "
                "kcal for the {s}.",
            ),
        },
    ),
    Record(
        field(train, "train number connection"),
        {
            "from": field(
                Words.city,
                "from origin departure_station",
                "{s} leaves from {v}.|{s} departs from {v}.|The starting point of {s} is {v}.|"
                "Board {s} in {v}.",
            ),
            "to": field(
                Words.city,
                "to destination terminus",
                "{s} goes to {v}.|The destination of {s} is {v}.|{s} ends in {v}.|With {s} you "
                "get to {v}.",
            ),
            "departure": field(
                Words.clock,
                "departure leaves departs_at",
                "{s} leaves at {v}.|The departure of {s} is at {v}.|At {v} the {s} sets off.|{s} "
                "rolls out at {v}.",
            ),
            "arrival": field(
                Words.clock,
                "arrival arrives arrives_at",
                "{s} arrives at {v}.|The arrival of {s} is at {v}.|{s} gets in at {v}.|{s} "
                "reaches its last stop at {v}.",
            ),
            "platform": field(
                whole(1, 24),
                "platform track gate",
                "{s} uses platform {v}.|{s} stops at platform {v}.|Platform {v} is where {s} "
                "waits.|Find {s} on track {v}.",
            ),
            "changes": field(
                whole(2, 6),
                "changes transfers stops",
                "There are {v} changes on {s}.|A trip with {s} has {v} changes.|On the way with "
                "{s} you change {v} times.",
            ),
        },
    ),
    Record(
        field(Words.name, "guest name booked_by"),
        {
            "hotel": field(
                hotel,
                "hotel lodging property",
                "{s} is staying at {v}.|{s} booked a bed at {v}.|{s} will sleep at {v}.|The "
                "hotel for {s} is {v}.",
            ),
            "room": field(
                whole(1, 899),
                "room room_number door",
                "{s} is in room {v}.|The room of {s} is {v}.|{s} has the key to room {v}.|We "
                "gave {s} room {v}.",
            ),
            "nights": field(
                whole(2, 28),
                "nights length_of_stay duration",
                "{s} stays for {v} nights.|{s} booked {v} nights.|The stay of {s} is {v} nights.|"
                "{s} leaves us after {v} nights.",
            ),
            "arrival": field(
                date,
                "arrival check_in from",
                "{s} arrives on {v}.|{s} checks in on {v}.|We expect {s} on {v}.|The arrival "
                "date of {s} is {v}.",
            ),
            "rate": field(
                money,
                "rate price price_per_night",
                "{s} pays {v} euros a night.|The rate for {s} is {v} euros.|Every night costs "
                "{s} {v} euros.",
            ),
            "breakfast": field(
                one(MEALS),
                "breakfast morning_meal breakfast_order",
                "For breakfast {s} wants {v}.|{s} ordered {v} for breakfast.|The breakfast of "
                "{s} is {v}.",
            ),
        },
    ),
)
