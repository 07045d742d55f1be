"""Kinds of records: machine part, job advert, flat for rent, match result, course, painting."""

from __future__ import annotations

from scripts.demo_model.corpus.json_values import (
    COURSES,
    MATERIALS,
    ROLES,
    TECHNIQUES,
    address,
    date,
    email,
    field,
    firm,
    museum,
    part,
    team,
    title,
)
from scripts.demo_model.records import Record, money, one, whole
from scripts.demo_model.results import MONTHS, WEEKDAYS
from scripts.demo_model.words import Words

RECORDS_3: tuple[Record, ...] = (
    Record(
        field(part, "part component name"),
        {
            "material": field(
                one(MATERIALS),
                "material made_of substance",
                "The {s} is made of {v}.|We cast the {s} from {v}.|The material of the {s} is "
                "{v}.|Only {v} is used for the {s}.",
            ),
            "diameter": field(
                whole(2, 480),
                "diameter width diameter_mm",
                "The {s} has a diameter of {v} mm.|The {s} measures {v} mm across.|The diameter "
                "of the {s} is {v} millimetres.",
            ),
            "weight": field(
                whole(3, 4000),
                "weight grams mass",
                "The {s} weighs {v} grams.|The weight of the {s} is {v} g.|Each {s} adds {v} "
                "grams.|The mass of the {s} is {v} g.",
            ),
            "supplier": field(
                firm,
                "supplier vendor manufacturer",
                "{v} supplies the {s}.|We order the {s} from {v}.|The {s} is delivered by {v}.|"
                "The supplier of the {s} is {v}.",
            ),
            "shelf": field(
                Words.code,
                "shelf bin storage",
                "The {s} is on shelf {v}.|You find the {s} in bin {v}.|We keep the {s} at {v}.|"
                "Shelf {v} holds the {s}.",
            ),
        },
    ),
    Record(
        field(one(ROLES), "job position role"),
        {
            "company": field(
                firm,
                "company employer firm",
                "{v} is looking for a {s}.|The employer of the {s} is {v}.|A {s} is wanted at "
                "{v}.|{v} wants to hire a {s}.",
            ),
            "salary": field(
                whole(1200, 9800),
                "salary pay wage",
                "The {s} earns {v} a month.|The salary for the {s} is {v}.|We pay the {s} {v} "
                "euros.|The pay of the {s} is {v} dollars.",
            ),
            "city": field(
                Words.city,
                "city place workplace",
                "The {s} will work in {v}.|The job as a {s} is in {v}.|The workplace of the {s} "
                "is {v}.|Come to {v} and be our {s}.",
            ),
            "hours": field(
                whole(8, 44),
                "hours weekly_hours workload",
                "The {s} works {v} hours a week.|The contract for the {s} is for {v} hours.|A "
                "week has {v} hours for the {s}.",
            ),
            "deadline": field(
                date,
                "deadline apply_by closing_date",
                "Apply by {v} to become our {s}.|Applications for the {s} close on {v}.|The "
                "deadline for the {s} is {v}.",
            ),
            "contact": field(
                email,
                "contact mail email",
                "Send your letter for the {s} to {v} today.|Write to {v} about the {s}.|For the "
                "{s} the address is {v} as always.",
            ),
        },
    ),
    Record(
        field(address, "address flat street"),
        {
            "rent": field(
                whole(280, 3900),
                "rent monthly_rent price",
                "The rent for {s} is {v}.|The flat at {s} costs {v} euros a month.|You pay {v} a "
                "month for {s}.|They ask {v} for {s}.",
            ),
            "rooms": field(
                whole(2, 9),
                "rooms room_count number_of_rooms",
                "The flat at {s} has {v} rooms.|There are {v} rooms at {s}.|You get {v} rooms at "
                "{s}.",
            ),
            "size": field(
                whole(18, 240),
                "size area square_metres",
                "{s} has {v} square metres.|The flat at {s} measures {v} square metres.|The size "
                "of {s} is {v} m2.",
            ),
            "floor": field(
                whole(1, 30),
                "floor storey level",
                "The flat at {s} is on floor {v}.|Take the lift to floor {v} for {s}.|Floor {v} "
                "is where you find the flat at {s}.",
            ),
            "landlord": field(
                Words.name,
                "landlord owner contact",
                "{v} owns the flat at {s}.|The landlord of {s} is {v}.|Ask {v} about {s}.|{s} "
                "belongs to {v}.",
            ),
            "free_from": field(
                one(MONTHS),
                "free_from available vacant",
                "{s} is free from {v}.|You can move into {s} in {v}.|The flat at {s} will be "
                "vacant in {v}.",
            ),
        },
    ),
    Record(
        field(team, "team home side"),
        {
            "opponent": field(
                team,
                "opponent against visitors",
                "{s} met {v}.|{s} played against {v}.|The opponent of {s} was {v}.|{s} took on "
                "{v}.",
            ),
            "goals": field(
                whole(2, 9),
                "goals scored goals_for",
                "{s} scored {v} goals.|{v} goals went to {s}.|There were {v} goals for {s}.|{s} "
                "found the net {v} times.",
            ),
            "conceded": field(
                whole(2, 9),
                "conceded goals_against let_in",
                "{s} let in {v} goals.|{s} conceded {v} goals.|The keeper of {s} missed {v} balls.",
            ),
            "referee": field(
                Words.name,
                "referee umpire official",
                "{v} was the referee for {s}.|The game of {s} was refereed by {v}.|The referee "
                "of the match of {s} was {v}.",
            ),
            "spectators": field(
                whole(90, 70000),
                "spectators attendance crowd",
                "{v} people watched {s}.|A crowd of {v} came to see {s}.|{s} played before {v} "
                "spectators.",
            ),
            "scorer": field(
                Words.name,
                "scorer goal_scorer best_player",
                "{v} scored for {s}.|The best player of {s} was {v}.|The hero of {s} was {v}.",
            ),
        },
    ),
    Record(
        field(one(COURSES), "course subject class"),
        {
            "teacher": field(
                Words.name,
                "teacher instructor lecturer",
                "{v} teaches {s}.|The teacher of {s} is {v}.|{s} is taught by {v}.|Your "
                "instructor in {s} is {v}.",
            ),
            "room": field(
                Words.code,
                "room classroom where",
                "{s} is in room {v}.|Room {v} is reserved for {s}.|We meet in room {v} for {s}.|"
                "The classroom for {s} is {v}.",
            ),
            "day": field(
                one(WEEKDAYS),
                "day weekday held_on",
                "{s} is held on {v}.|On {v} we have {s}.|{v} is the day for {s}.|The lessons of "
                "{s} are on {v}.",
            ),
            "credits": field(
                whole(2, 30),
                "credits points credit_points",
                "{s} gives {v} credits.|You earn {v} points with {s}.|{s} is worth {v} credits.",
            ),
            "places": field(
                whole(6, 300),
                "places seats max_students",
                "{s} has {v} places.|Only {v} students can take {s}.|There is room for {v} "
                "people in {s}.|{s} is limited to {v} learners.",
            ),
            "fee": field(
                money,
                "fee tuition price",
                "The fee for {s} is {v} euros.|{s} costs {v} euros.|You pay {v} euros to join {s}.",
            ),
        },
    ),
    Record(
        field(title, "title painting work"),
        {
            "artist": field(
                Words.name,
                "artist painter created_by",
                "{v} painted {s}.|{s} was painted by {v}.|The artist behind {s} is {v}.|{s} is a "
                "work by {v}.",
            ),
            "year": field(
                whole(1480, 2024),
                "year painted_in created",
                "{s} was painted in {v}.|{s} dates from {v}.|{s} was finished in {v}.|The year "
                "{v} is written on {s}.",
            ),
            "technique": field(
                one(TECHNIQUES),
                "technique medium material",
                "{s} is done in {v}.|The technique of {s} is {v}.|{s} was made with {v}.",
            ),
            "museum": field(
                museum,
                "museum gallery collection",
                "{s} hangs in {v}.|{v} owns {s}.|You can see {s} at {v}.|{s} belongs to {v}.",
            ),
            "width": field(
                whole(12, 600),
                "width width_cm wide",
                "{s} is {v} cm wide.|The width of {s} is {v} cm.|The canvas of {s} measures {v} "
                "cm from side to side.",
            ),
            "value": field(
                whole(900, 9000000),
                "value price worth",
                "{s} is worth {v} dollars.|{s} was sold for {v}.|The value of {s} is {v} euros.|"
                "Somebody paid {v} for {s}.",
            ),
        },
    ),
)
