"""Kinds of records: concert, patient visit, parcel, plant, river, mountain."""

from __future__ import annotations

from scripts.demo_model.corpus.json_values import (
    COMPLAINTS,
    COUNTRIES,
    PAINTS,
    SEAS,
    SEASONS,
    SPOTS,
    STATUSES,
    WARDS,
    band,
    date,
    fever,
    field,
    kilos,
    mount,
    plant,
    proper,
    venue,
)
from scripts.demo_model.records import Record, money, one, whole
from scripts.demo_model.results import MONTHS, WEEKDAYS
from scripts.demo_model.words import Words

RECORDS_2: tuple[Record, ...] = (
    Record(
        field(band, "band artist group"),
        {
            "venue": field(
                venue,
                "venue hall location",
                "{s} play at {v}.|{v} is the venue for {s}.|You can hear {s} at {v}.|{s} will be "
                "on stage at {v}.",
            ),
            "date": field(
                date,
                "date when concert_date",
                "{s} play on {v}.|The concert of {s} is on {v}.|On {v} come and hear {s}.|{s} "
                "give a concert on {v}.",
            ),
            "doors": field(
                Words.clock,
                "doors doors_open entry",
                "Doors for {s} open at {v}.|You can come in to see {s} from {v}.|For {s} the "
                "doors open at {v}.",
            ),
            "ticket": field(
                money,
                "ticket ticket_price admission",
                "A ticket for {s} costs {v} euros.|Tickets to see {s} are {v} each.|Seeing {s} "
                "costs {v} pounds.|You pay {v} dollars to see {s}.",
            ),
            "support": field(
                Words.name,
                "support opening_act opener",
                "{v} opens for {s}.|The support act for {s} is {v}.|Before {s} you will hear {v}.",
            ),
            "seats": field(
                whole(80, 9000),
                "seats capacity places",
                "There are {v} seats for {s}.|As many as {v} people can see {s}.|The crowd for "
                "{s} is limited to {v}.",
            ),
        },
    ),
    Record(
        field(Words.name, "patient name patient_name"),
        {
            "complaint": field(
                one(COMPLAINTS),
                "complaint reason symptom",
                "{s} came in with {v}.|{s} complains of {v}.|The reason for the visit of {s} is "
                "{v}.|{s} has been suffering from {v}.",
            ),
            "doctor": field(
                Words.name,
                "doctor physician seen_by",
                "{s} was seen by {v}.|{v} examined {s}.|The doctor of {s} is {v}.|{v} is "
                "treating {s}.",
            ),
            "temperature": field(
                fever,
                "temperature fever celsius",
                "{s} has a temperature of {v}.|We measured {v} degrees for {s}.|The thermometer "
                "showed {v} for {s}.",
            ),
            "pulse": field(
                whole(48, 140),
                "pulse heart_rate bpm",
                "The pulse of {s} is {v}.|The heart of {s} beats {v} times a minute.|We counted "
                "a pulse of {v} for {s}.",
            ),
            "next_visit": field(
                date,
                "next_visit follow_up return_date",
                "{s} should come back on {v}.|The next visit of {s} is on {v}.|We see {s} again "
                "on {v}.|{s} has another appointment on {v}.",
            ),
            "ward": field(
                one(WARDS),
                "ward department unit",
                "{s} was sent to {v}.|{s} is a case for {v}.|The department for {s} is {v}.",
            ),
        },
    ),
    Record(
        field(Words.code, "parcel tracking tracking_number"),
        {
            "sender": field(
                Words.name,
                "sender from sent_by",
                "Parcel {s} was sent by {v}.|{v} posted the parcel {s}.|The sender of {s} is "
                "{v}.|{s} comes from {v}.",
            ),
            "recipient": field(
                Words.name,
                "recipient to addressee",
                "Parcel {s} is for {v}.|{s} is addressed to {v}.|The recipient of {s} is {v}.|"
                "{v} will receive the parcel {s}.",
            ),
            "weight": field(
                kilos,
                "weight kilos weight_kg",
                "Parcel {s} weighs {v} kg.|The weight of {s} is {v} kg.|{s} is a parcel of {v} "
                "kilos.",
            ),
            "destination": field(
                Words.city,
                "destination city deliver_to",
                "{s} is on its way to {v}.|The parcel {s} goes to {v}.|We deliver {s} in {v}.|"
                "{v} is the destination of {s}.",
            ),
            "status": field(
                one(STATUSES),
                "status state progress",
                "The status of {s} is {v}.|Parcel {s} is {v}.|Tracking says that {s} is {v}.|At "
                "the moment {s} is {v}.",
            ),
            "day": field(
                one(WEEKDAYS),
                "day delivery_day due",
                "{s} will be delivered on {v}.|Expect the parcel {s} on {v}.|{v} is the delivery "
                "day of {s}.",
            ),
        },
    ),
    Record(
        field(plant, "plant name species"),
        {
            "height": field(
                whole(5, 300),
                "height height_cm tall",
                "The {s} grows to {v} cm.|The {s} is {v} centimetres tall.|The height of the {s} "
                "is {v} cm.|With {v} cm the {s} fits your balcony.",
            ),
            "blossom": field(
                one(PAINTS),
                "blossom flower_colour colour",
                "The {s} has {v} blossoms.|The flowers of the {s} are {v}.|In bloom the {s} is "
                "{v}.",
            ),
            "month": field(
                one(MONTHS),
                "month blooms_in flowering",
                "The {s} flowers in {v}.|The {s} blooms in {v}.|{v} is the month of the {s}.|"
                "Look for flowers on the {s} in {v}.",
            ),
            "water": field(
                whole(2, 30),
                "water watering_days interval",
                "Water the {s} every {v} days.|The {s} needs water every {v} days.|Once in {v} "
                "days the {s} is thirsty.",
            ),
            "place": field(
                one(SPOTS),
                "place light position",
                "The {s} likes {v}.|Put the {s} in {v}.|The best spot for the {s} is {v}.|The "
                "{s} thrives in {v}.",
            ),
        },
    ),
    Record(
        field(proper, "river name stream"),
        {
            "length": field(
                whole(12, 4800),
                "length kilometres length_km",
                "The river {s} is {v} km long.|The {s} has a length of {v} kilometres.|For {v} "
                "km the {s} winds through the land.",
            ),
            "country": field(
                one(COUNTRIES),
                "country nation state",
                "The {s} flows through {v}.|The river {s} is in {v}.|{v} is the country of the "
                "{s}.",
            ),
            "mouth": field(
                one(SEAS),
                "mouth flows_into sea",
                "The {s} flows into the {v}.|The {s} ends in the {v}.|The river {s} meets the "
                "{v}.|The mouth of the {s} is at the {v}.",
            ),
            "depth": field(
                whole(2, 90),
                "depth metres max_depth",
                "The {s} is {v} metres deep.|The depth of the {s} is {v} m.|Divers measured {v} "
                "metres in the {s}.",
            ),
            "bridges": field(
                whole(2, 120),
                "bridges bridge_count crossings",
                "There are {v} bridges over the {s}.|The river {s} is crossed by {v} bridges.|"
                "You can cross the {s} on {v} bridges.",
            ),
            "city": field(
                Words.city,
                "city town passes",
                "The city of {v} lies on the {s}.|The {s} passes {v}.|From {v} you can see the "
                "{s}.",
            ),
        },
    ),
    Record(
        field(mount, "mountain peak name"),
        {
            "height": field(
                whole(400, 8800),
                "height elevation altitude",
                "{s} is {v} metres high.|{s} rises to {v} m.|The summit of {s} lies at {v} "
                "metres.|The elevation of {s} is {v} m.",
            ),
            "country": field(
                one(COUNTRIES),
                "country land located_in",
                "{s} is in {v}.|{s} is a mountain in {v}.|Travel to {v} to see {s}.|{v} is proud "
                "of {s}.",
            ),
            "first_ascent": field(
                whole(1786, 2020),
                "first_ascent first_climbed year",
                "{s} was first climbed in {v}.|The first ascent of {s} was in {v}.|In {v} people "
                "reached the top of {s}.",
            ),
            "climber": field(
                Words.name,
                "climber first_climber conquered_by",
                "{v} was the first on {s}.|The first person on top of {s} was {v}.|{s} was first "
                "climbed by {v}.",
            ),
            "season": field(
                one(SEASONS),
                "season best_time climbing_season",
                "Climb {s} in {v}.|The best season for {s} is {v}.|Guides go up {s} in {v}.",
            ),
            "hours": field(
                whole(2, 40),
                "hours climb_time duration",
                "The way up {s} takes {v} hours.|You need {v} hours to climb {s}.|Allow {v} "
                "hours for {s}.",
            ),
        },
    ),
)
