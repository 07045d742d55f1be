"""Kinds of records: bank transfer, boat, car, planet, invoice, software bug."""

from __future__ import annotations

from scripts.demo_model.corpus.json_values import (
    BOATS,
    FUELS,
    MODULES,
    PAID,
    PAINTS,
    PURPOSES,
    SEVERITIES,
    boat,
    date,
    field,
    firm,
    proper,
    star,
    version,
)
from scripts.demo_model.records import Record, money, one, whole
from scripts.demo_model.words import Words

RECORDS_4: tuple[Record, ...] = (
    Record(
        field(Words.code, "reference id transfer"),
        {
            "payer": field(
                Words.name,
                "payer from sender",
                "{v} made the transfer {s}.|The payer of {s} is {v}.|Transfer {s} came from {v}.|"
                "The money of {s} was sent by {v}.",
            ),
            "payee": field(
                Words.name,
                "payee to beneficiary",
                "The money of {s} goes to {v}.|The payee of {s} is {v}.|{v} receives the "
                "transfer {s}.|Transfer {s} is for {v}.",
            ),
            "amount": field(
                money,
                "amount sum total",
                "The amount of {s} is {v}.|Transfer {s} is over {v} euros.|{v} dollars were "
                "moved with {s}.|The sum for {s} is {v} pounds.",
            ),
            "date": field(
                date,
                "date booked_on value_date",
                "{s} was booked on {v}.|The date of transfer {s} is {v}.|The bank carried out "
                "{s} on {v}.",
            ),
            "purpose": field(
                one(PURPOSES),
                "purpose reason used_for",
                "The purpose of {s} is {v}.|{s} was for {v}.|The bank note on {s} says {v}.",
            ),
        },
    ),
    Record(
        field(boat, "boat ship name"),
        {
            "type": field(
                one(BOATS),
                "type kind class",
                "{s} is a {v}.|The boat {s} is a {v}.|Our {v} is called {s}.|The harbour office "
                "lists {s} as a {v}.",
            ),
            "length": field(
                whole(3, 190),
                "length metres length_m",
                "{s} is {v} metres long.|The length of {s} is {v} m.|From bow to stern {s} "
                "measures {v} metres.",
            ),
            "harbour": field(
                Words.city,
                "harbour port home_port",
                "The home port of {s} is {v}.|{s} lies in {v}.|You can find {s} in the harbour "
                "of {v}.|{s} is moored at {v}.",
            ),
            "captain": field(
                Words.name,
                "captain skipper commander",
                "{v} is the captain of {s}.|{v} steers {s}.|The skipper of {s} is {v}.|{s} sails "
                "under {v}.",
            ),
            "built": field(
                whole(1890, 2025),
                "built year launched",
                "{s} was built in {v}.|{s} has been afloat since {v}.|The shipyard launched {s} "
                "in {v}.",
            ),
            "berths": field(
                whole(2, 60),
                "berths beds sleeps",
                "{s} has {v} berths.|There are {v} beds on {s}.|{v} people can sleep on {s}.",
            ),
        },
    ),
    Record(
        field(Words.code, "plate car registration"),
        {
            "owner": field(
                Words.name,
                "owner driver belongs_to",
                "The car {s} belongs to {v}.|{v} owns the car {s}.|{s} is registered to {v}.|The "
                "owner of {s} is {v}.",
            ),
            "brand": field(
                firm,
                "brand make manufacturer",
                "{s} was built by {v}.|The make of the car {s} is {v}.|{v} built the car {s}.",
            ),
            "mileage": field(
                whole(20, 290000),
                "mileage kilometres odometer",
                "{s} has done {v} km.|The mileage of {s} is {v}.|The car {s} has {v} kilometres "
                "on the clock.",
            ),
            "colour": field(
                one(PAINTS),
                "colour paint color",
                "The car {s} is {v}.|{s} is painted {v}.|The colour of {s} is {v}.",
            ),
            "fuel": field(
                one(FUELS),
                "fuel runs_on drive",
                "The car {s} runs on {v}.|Fill {s} with {v} only.|The fuel of {s} is {v}.",
            ),
            "seats": field(
                whole(2, 9),
                "seats seat_count passengers",
                "{s} has {v} seats.|There are {v} seats in {s}.|{v} people fit into {s}.",
            ),
        },
    ),
    Record(
        field(proper, "planet name world"),
        {
            "moons": field(
                whole(2, 90),
                "moons satellites moon_count",
                "{s} has {v} moons.|{v} moons circle {s}.|The moons of {s} number {v}.",
            ),
            "diameter": field(
                whole(800, 190000),
                "diameter size diameter_km",
                "{s} is {v} km across.|The diameter of {s} is {v} km.|{s} measures {v} "
                "kilometres from pole to pole.",
            ),
            "discoverer": field(
                Words.name,
                "discoverer found_by astronomer",
                "{v} discovered {s}.|{s} was found by {v}.|The discoverer of {s} is {v}.|{s} was "
                "first seen by {v}.",
            ),
            "discovered": field(
                whole(1610, 2025),
                "discovered year first_seen",
                "{s} was discovered in {v}.|The year of the discovery of {s} is {v}.|Since {v} "
                "we know that {s} exists.",
            ),
            "temperature": field(
                whole(-220, 460),
                "temperature surface_temperature celsius",
                "On {s} it is {v} degrees.|The surface of {s} is at {v} degrees.|The temperature "
                "of {s} is {v} Celsius.",
            ),
            "star": field(
                star,
                "star sun orbits",
                "{s} circles the star {v}.|The sun of {s} is {v}.|{s} moves around {v}.",
            ),
        },
    ),
    Record(
        field(Words.code, "invoice invoice_number number"),
        {
            "customer": field(
                Words.name,
                "customer client billed_to",
                "Invoice {s} was sent to {v}.|The customer on invoice {s} is {v}.|{v} has to pay "
                "invoice {s}.",
            ),
            "total": field(
                money,
                "total amount sum",
                "The total of {s} is {v}.|Invoice {s} comes to {v} euros.|{s} is a bill over {v} "
                "pounds.|Please pay {v} for invoice {s}.",
            ),
            "due": field(
                date,
                "due due_date pay_by",
                "Invoice {s} is due on {v}.|Pay {s} by {v}.|The due date of {s} is {v}.",
            ),
            "items": field(
                whole(2, 60),
                "items lines positions",
                "There are {v} items on invoice {s}.|{s} lists {v} items.|Invoice {s} has {v} "
                "lines.",
            ),
            "state": field(
                one(PAID),
                "state status payment",
                "Invoice {s} is {v}.|The books say that {s} is {v}.|The state of {s} is {v}.",
            ),
            "clerk": field(
                Words.name,
                "clerk issued_by handled_by",
                "{v} wrote the invoice {s}.|{s} was issued by {v}.|The clerk for {s} is {v}.",
            ),
        },
    ),
    Record(
        field(Words.code, "bug ticket issue"),
        {
            "severity": field(
                one(SEVERITIES),
                "severity priority urgency",
                "The severity of {s} is {v}.|Bug {s} was rated {v}.|We treat {s} as {v}.",
            ),
            "assignee": field(
                Words.name,
                "assignee developer assigned_to",
                "{s} is assigned to {v}.|{v} works on bug {s}.|The developer for {s} is {v}.|{v} "
                "took over {s}.",
            ),
            "module": field(
                one(MODULES),
                "module component area",
                "Bug {s} is in the {v}.|{s} affects the {v}.|The {v} fails because of {s}.|The "
                "component hit by {s} is the {v}.",
            ),
            "version": field(
                version,
                "version release found_in",
                "Bug {s} was seen in version {v}, among others.|Since release {v} we have had "
                "bug {s}.|Version {v} shows {s}.",
            ),
            "reporter": field(
                Words.name,
                "reporter reported_by finder",
                "{v} reported {s}.|Bug {s} was found by {v}.|The ticket {s} was opened by {v}.",
            ),
            "votes": field(
                whole(2, 300),
                "votes users affected_users",
                "{s} has {v} votes.|{v} users are hit by bug {s}.|There are {v} votes for {s}.",
            ),
        },
    ),
)
