"""How people ask for arithmetic of several steps, and all ways of each expression."""

from __future__ import annotations

from scripts.demo_model.corpus.calculate2 import ADD, MULTIPLY, SUBTRACT
from scripts.demo_model.corpus.calculate3 import (
    DIVIDE,
    DOUBLE,
    HALF,
    PERCENT,
    POWER,
    ROOT,
    SQUARE,
)
from scripts.demo_model.ways import Ways

ADD_THREE = Ways(
    direct=(
        "{a}+{b}+{c}[?|=| =?|| pls]",
        "{a} plus {b} plus {c}[?|| equals| is how much?]",
        "{a}, {b} and {c} [together|added|summed|in total][?|: how much?]",
        "[Total|Sum|Grand total] of {a}, {b}, {c}[?|.||, please]",
        "[Tot up|Add|Sum up|Put together] these [three|numbers]: {a}, {b}, {c}.",
        "My [bills|receipts|expenses] are {a}, {b} and {c}. [What do I pay overall|What's the "
        "total|Altogether]?",
        "[Bread|Soap] {a}, [milk|tea] {b}, [cheese|shampoo] {c}. [What does the shopping come "
        "to|Total at the till]?",
        "A triangle has sides of {a}, {b} and {c}. [Perimeter|How long is the way round]?",
        "I [ran|walked|hiked] {a} km on Friday, {b} on Saturday and {c} on Sunday. How far [in "
        "all|altogether]?",
        "We scored {a}, then {b}, then {c}. [Final score|How many points is that]?",
        "The [bags|boxes|parcels] weigh {a}, {b} and {c} kilos. [Combined weight|What do they "
        "weigh together]?",
        "[Mum|Grandma] gave me {a}, [Dad|Grandpa] {b} and my aunt {c}. How much have I got?",
        "First {a} came, then {b} more, at last another {c}. How many are [here|in the room]?",
        "I have {a} in cash, {b} in the bank and {c} under the mattress. What's my fortune?",
        "Three [films|songs|meetings] of {a}, {b} and {c} minutes. How long [is that|in all]?",
        "Flight {a}, hotel {b}, food {c}. What [does|will] the trip cost?",
    ),
    do=(
        "add [up |together |]{a}, {b} and {c}",
        "[sum|total|tot up] {a}, {b} and {c}",
        "[work out|calculate|compute] {a} [plus|+] {b} [plus|+] {c}",
        "[take|start with] {a}, add {b} and then {c}",
        "find what three [items|things] at {a}, {b} and {c} cost together",
    ),
    what=(
        "the [sum|total] of {a}, {b} and {c}",
        "{a} [plus|+] {b} [plus|+] {c}",
        "the [combined|joint] [weight|price|length] of three [things|parts]: {a}, {b}, {c}",
        "the perimeter of a triangle with sides {a}, {b} and {c}",
        "the [result|answer] of adding {a}, {b} and {c}",
    ),
    whether=(
        "what {a}, {b} and {c} [make|add up to|come to]",
        "how much {a} plus {b} plus {c} is",
        "what I [spend|pay] on three [things|items] at {a}, {b} and {c}",
        "what the [sum|total] of {a}, {b} and {c} is",
        "how far it is with legs of {a}, {b} and {c} miles",
    ),
)
TIMES_PLUS = Ways(
    direct=(
        "{a}*{b}+{c}[?|=| =?||, please]",
        "{a} times {b} plus {c}[?|| is what?| equals]",
        "{a} times {b}, and {c} on top[?|: how much?]",
        "Multiply {a} by {b}, then add {c}[.|, please.|. What is it?]",
        "[I order|We buy|She wants] {a} [shirts|mugs|plants] at {b} each plus {c} for "
        "[shipping|postage|delivery]. [What's the total|How much in all]?",
        "A [plumber|painter|gardener] works {a} hours at {b} an hour and charges {c} for "
        "[materials|the drive|parts]. [The bill is|What will it cost]?",
        "The [taxi|cab] takes {a} per km, we ride {b} km, and the base fare is {c}. What's the "
        "fare?",
        "There's a fixed fee of {c} and {a} [hours|days] at {b} each. [Sum|What do I owe]?",
        "I [save|put away] {a} [a|every] week for {b} weeks and [already had|started with] {c}. "
        "How much is there at the end?",
        "We have {a} full boxes of {b} [eggs|pens|tiles] and {c} loose ones. How many is that?",
        "{a} rows with {b} chairs each, and {c} [chairs|seats] at the back. How many can sit?",
        "{a} nights at {b}, plus {c} for [breakfast|parking|cleaning]. What does the stay cost?",
        "[Phone plan|Contract|Gym]: {a} a month over {b} months and {c} to [join|sign up]. All in "
        "all?",
        "To {c} I add {a} times {b}. [What's that|Result]?",
        "We ride {a} km an hour for {b} hours and walk {c} km more. How far is the trip?",
        "{a} [adults|grown-ups] pay {b} each and the [dog|bike|baby] costs {c}. What do we pay?",
    ),
    do=(
        "multiply {a} by {b} and [add|put on] {c}",
        "[work out|calculate|compute] {a} times {b} plus {c}",
        "[evaluate|solve|compute] {a} * {b} + {c}",
        "add {c} to the product of {a} and {b}",
        "take {a} times {b} and [increase it|raise that] by {c}",
        "price {a} items at {b} each with {c} for [postage|delivery]",
    ),
    what=(
        "{a} times {b} plus {c}",
        "the product of {a} and {b} [plus|increased by] {c}",
        "the [cost|price] of {a} [pieces|items] at {b} each, plus {c} [shipping|delivery|fee]",
        "the [result|value] of {a} * {b} + {c}",
        "the sum of {c} and the product of {a} and {b}",
    ),
    whether=(
        "what {a} times {b} plus {c} [is|makes|comes to]",
        "what I pay for {a} [tickets|bags] at {b} each and a fee of {c}",
        "how many there are in {a} [packs|bags] of {b} plus {c} [single|loose] ones",
        "what you get if {a} is multiplied by {b} and {c} is added",
        "what {a} hours at {b} an hour come to, with {c} for travel",
    ),
)
SUM_TIMES = Ways(
    direct=(
        "({a}+{b})*{c}[?|=| =?||, please]",
        "({a} + {b}) times {c}[?|| is what?| equals]",
        "({a} plus {b}) x {c}[?| =|, how much is it?]",
        "Add {a} and {b}, then multiply [the sum|the result|it all] by {c}[.|, please.]",
        "The sum of {a} and {b}, times {c}[?|: how much?]",
        "[First|At first] {a} plus {b}, then [the result|the total|that] times {c}. [What is "
        "it|Where do I land]?",
        "Each [guest|child|player] gets {a} [sweets|nuts] and {b} [biscuits|balloons]. There are "
        "{c} of them. How many [things|gifts] is that?",
        "A [meal|main course] is {a} and a drink {b}. What do {c} people pay if each [takes|has] "
        "both?",
        "I [earn|get] {a} a day plus {b} in tips every day. How much in {c} days?",
        "I [run|walk] {a} km in the morning and {b} in the evening, every day. How far in {c} "
        "days?",
        "A rectangle is made of two parts, {a} and {b} wide, both {c} high. Total area?",
        "The [room|cabin] costs {a} and [breakfast|the tax] {b}, each night. What for {c} nights?",
        "One set is {a} [red and {b} blue|big and {b} small] [beads|bricks]. How many in {c} sets?",
        "A [pen|cup] costs {a} and a [pad|saucer] {b}. I [need|buy] {c} of each. What do I spend?",
        "[Rent|The flat] is {a} and [heating|power] {b} a month. What do I pay in {c} months?",
        "Take {c} times the sum of {a} and {b}. [Result?|What is it?]",
    ),
    do=(
        "add {a} and {b} and multiply the [sum|total|result] by {c}",
        "[work out|calculate|compute|evaluate] ({a} + {b}) * {c}",
        "multiply the sum of {a} and {b} by {c}",
        "take [the sum of |the total of ]{a} and {b} exactly {c} times",
        "put {a} and {b} together and make the total {c} times as big",
        "find the cost of {c} sets, each with one thing at {a} and one at {b}",
    ),
    what=(
        "({a} + {b}) [times|*|x] {c}",
        "the sum of {a} and {b}, [multiplied by|times] {c}",
        "{c} times the [sum|total] of {a} and {b}",
        "the [result|value] of ({a}+{b})*{c}",
        "the price of {c} [meals|pairs], each one {a} for the first part and {b} for the second",
    ),
    whether=(
        "what ({a} + {b}) * {c} [is|makes|comes to]",
        "what the sum of {a} and {b} is when it's multiplied by {c}",
        "how much {c} people pay if each [spends|pays] {a} on food and {b} on drinks",
        "what you get if {a} and {b} are added and the total is multiplied by {c}",
        "how much {c} times the sum of {a} and {b} is",
    ),
)
LESS_SHARED = Ways(
    direct=(
        "({a}-{b})/{c}[?|=| =?||, please]",
        "({a} - {b}) divided by {c}[?|| is what?| equals]",
        "({a} minus {b}) over {c}[?| =|, as a number?]",
        "[Take|Subtract] {b} from {a}, then divide [the rest|what is left|the result] by {c}[.|, "
        "please.]",
        "The difference of {a} and {b}, divided by {c}[?|: how much?]",
        "Of {a} [euros|dollars|pounds], {b} [goes|go] on [rent|food] and the rest is split {c} "
        "ways. How much is one share?",
        "The bill is {a}, a voucher takes off {b}, and {c} of us share the rest. What does each "
        "pay?",
        "I have {a} [sweets|cards], keep {b} and deal out the rest to {c} kids. How many each?",
        "A [sofa|car] costs {a}. I pay {b} [down|now] and the rest in {c} equal "
        "[rates|instalments]. How much is one?",
        "We need {a}, have {b}, and {c} [weeks|months] are left. What must we save in each?",
        "[My book|The report] has {a} pages, {b} are read, and {c} days remain. How many pages a "
        "day?",
        "The [candle|tank] went from {a} down to {b} in {c} hours. How much per hour?",
    ),
    do=(
        "subtract {b} from {a} and divide [the rest|the result|what is left] by {c}",
        "[work out|calculate|compute|evaluate] ({a} - {b}) / {c}",
        "divide the difference of {a} and {b} by {c}",
        "take {b} off {a} and split the rest into {c} equal parts",
    ),
    what=(
        "({a} - {b}) [divided by|over|/] {c}",
        "the difference of {a} and {b}, divided by {c}",
        "each share if {b} is taken from {a} and {c} people split the rest",
        "the rate of change from {b} to {a} over {c} hours",
        "the [result|value] of ({a}-{b})/{c}",
    ),
    whether=(
        "what ({a} - {b}) / {c} [is|makes|comes to]",
        "what each of {c} gets when {b} is taken off {a} first",
        "what each of us gets if {a} less {b} is split {c} ways",
        "what the difference of {a} and {b} is after dividing it by {c}",
        "how much each of {c} [friends|people] pays of {a} once {b} is [deducted|covered]",
    ),
)
PLUS_MINUS = Ways(
    direct=(
        "{a}+{b}-{c}[?|=| =?||, please]",
        "{a} plus {b} minus {c}[?|| is what?| equals]",
        "{a} and {b} less {c}[?|: how much?]",
        "Add {a} and {b}, then take away {c}[.|, please.|. What is it?]",
        "I had {a}, [got|earned|won] {b} and [spent|lost|gave away] {c}. [How much is left|What "
        "have I now]?",
        "There were {a} people on the [bus|tram], {b} got on and {c} got off. How many [now|are "
        "on it]?",
        "My account [stood at|showed] {a}, {b} came in and {c} went out. [Balance|What's on it]?",
        "The [jacket|shoes] {a}, the [belt|hat] {b}, and a voucher of {c}. What do I pay?",
        "It was {a} degrees, rose by {b} and then fell by {c}. [Temperature|How warm is it]?",
        "[Go|Start] from {a} up by {b}, then down by {c}. Where [am I|is that]?",
        "The [shop|library] had {a} books, bought {b} and sold {c}. How many remain?",
        "Lift question: floor {a}, up {b}, down {c}. Which floor?",
    ),
    do=(
        "add {a} and {b} and [subtract|take away|take off] {c}",
        "[work out|calculate|compute|evaluate] {a} + {b} - {c}",
        "subtract {c} from the sum of {a} and {b}",
        "take {a}, [put on|add] {b} and [knock off|remove] {c}",
    ),
    what=(
        "{a} plus {b} minus {c}",
        "the sum of {a} and {b} [less|minus|reduced by] {c}",
        "the balance of {a} after {b} [in|paid in] and {c} [out|paid out]",
        "the [result|value] of {a} + {b} - {c}",
    ),
    whether=(
        "what {a} plus {b} minus {c} [is|makes|comes to]",
        "what is left of {a} and {b} together once {c} is gone",
        "how many are here if we were {a}, {b} came and {c} left",
        "what I pay for things at {a} and {b} with {c} off the total",
        "what you get when {c} is taken from the sum of {a} and {b}",
    ),
)
LESS_TIMES = Ways(
    direct=(
        "{a}-{b}*{c}[?|=| =?||, please]",
        "{a} minus the product of {b} and {c}[?|: how much?| is what?]",
        "{a} minus ({b} times {c})[?|| equals]",
        "I have {a} [euros|dollars|pounds] and buy {b} [tickets|pens|cakes] at {c} each. [What's "
        "left|How much remains]?",
        "Out of {a} I pay {b} [months|weeks] at {c} each. What stays?",
        "From {a}, take away {b} times {c}[.|. Result?|, please.]",
        "The [tank|barrel] holds {a} litres. We draw {b} buckets of {c} litres. How much is still "
        "in it?",
        "A roll of {a} metres, and I cut {b} pieces of {c} metres. What is the rest?",
        "I paid with {a} for {b} [coffees|rolls] at {c} apiece. My change?",
        "We start with {a} [points|sheets] and lose {c} in each of {b} [rounds|games|steps]. How "
        "many remain?",
    ),
    do=(
        "subtract the product of {b} and {c} from {a}",
        "[work out|calculate|compute|evaluate] {a} - {b} * {c}",
        "multiply {b} by {c} and take it [from|off] {a}",
        "find the change from {a} for {b} [things|items] at {c} each",
    ),
    what=(
        "{a} minus {b} times {c}",
        "{a} less the product of {b} and {c}",
        "the change out of {a} for {b} [drinks|stamps] at {c} each",
        "the [result|value] of {a} - {b} * {c}",
    ),
    whether=(
        "what {a} minus {b} times {c} [is|makes|comes to]",
        "what is left of {a} after buying {b} [books|seats] at {c} each",
        "how much {a} shrinks to if {b} times {c} is taken away",
        "what change I get on {a} for {b} [pieces|pairs] at {c} apiece",
    ),
)
TIMES_THREE = Ways(
    direct=(
        "{a}*{b}*{c}[?|=| =?||, please]",
        "{a} x {b} x {c}[?|=||, please]",
        "{a} times {b} times {c}[?|| is what?| equals]",
        "The product of {a}, {b} and {c}[?|, please.|: how much?]",
        "[A box|A room|A tank|The crate] is {a} by {b} by {c}. [Volume|How much fits in]?",
        "[Length|Width] {a}, [breadth|depth] {b}, height {c}. What's the volume?",
        "{a} [shelves|trucks] with {b} boxes each and {c} [jars|pens] in every box. How many "
        "altogether?",
        "{a} people work {b} hours each at {c} an hour. What do I pay them?",
        "I drink {a} cups a day, {b} days a week. How many cups in {c} weeks?",
        "{a} [floors|blocks] with {b} flats each and {c} windows per flat. How many windows?",
    ),
    do=(
        "multiply {a}, {b} and {c}[| together]",
        "[work out|calculate|compute|evaluate] {a} * {b} * {c}",
        "find the volume of a [box|room|tank|block] {a} by {b} by {c}",
        "multiply {a} by {b} and the result by {c}",
    ),
    what=(
        "the product of {a}, {b} and {c}",
        "{a} times {b} times {c}",
        "the volume of a [box|brick|pool] {a} long, {b} wide and {c} [high|deep]",
        "the wages for {a} workers over {b} hours at {c} an hour each",
    ),
    whether=(
        "what {a} times {b} times {c} [is|makes|comes to]",
        "how much fits into a [box|case|tank] of {a} by {b} by {c}",
        "how many there are in {a} crates of {b} packs with {c} each",
        "what the three numbers {a}, {b} and {c} give when multiplied",
    ),
)
AVERAGE = Ways(
    direct=(
        "Average of {a} and {b}[?||, please.]",
        "What's the [mean|average|midpoint] of {a} and {b}?",
        "({a}+{b})/2[?|=||, please]",
        "Halfway between {a} and {b}[?| is what?| is where?]",
        "[Which|What] number lies [right|exactly] in the middle between {a} and {b}?",
        "I [got|scored] {a} in one [test|exam] and {b} in the other. What's my average?",
        "[Yesterday|Last night] it was {a} degrees, [today|this morning] {b}. What is the mean "
        "temperature?",
        "One [offer|quote|guess] is {a}, the other {b}, and we want to meet in the middle. [Where "
        "is that|What figure]?",
        "Add {a} and {b} and halve [it|the sum][.|, please.|. What comes out?]",
        "My two [runs|rides] were {a} and {b} km. How long on average?",
    ),
    do=(
        "average {a} and {b}",
        "[find|work out|calculate|compute] the [mean|average] of {a} and {b}",
        "add {a} and {b} and halve the [sum|result]",
        "find the point halfway between {a} and {b}",
    ),
    what=(
        "the [average|mean|midpoint] of {a} and {b}",
        "half the sum of {a} and {b}",
        "the number midway between {a} and {b}",
        "the average [price|score|age] of {a} and {b}",
    ),
    whether=(
        "what the [average|mean] of {a} and {b} is",
        "which number is halfway between {a} and {b}",
        "what {a} and {b} are on average",
        "where the middle between {a} and {b} [is|lies]",
    ),
)

# Expression of the slots, and how people ask for it.
CALCULATE: dict[str, Ways] = {
    "{a} + {b}": ADD,
    "{a} - {b}": SUBTRACT,
    "{a} * {b}": MULTIPLY,
    "{a} / {b}": DIVIDE,
    "{b} * {a} / 100": PERCENT,
    "sqrt({a})": ROOT,
    "{a} ** 2": SQUARE,
    "{a} ** {s}": POWER,
    "{a} / 2": HALF,
    "{a} * 2": DOUBLE,
    "{a} + {b} + {c}": ADD_THREE,
    "{a} * {b} + {c}": TIMES_PLUS,
    "({a} + {b}) * {c}": SUM_TIMES,
    "({a} - {b}) / {c}": LESS_SHARED,
    "{a} + {b} - {c}": PLUS_MINUS,
    "{a} - {b} * {c}": LESS_TIMES,
    "{a} * {b} * {c}": TIMES_THREE,
    "({a} + {b}) / 2": AVERAGE,
}
