"""How people ask for quotients, percentages, roots, powers, halves and doubles."""

from __future__ import annotations

from scripts.demo_model.ways import Ways

DIVIDE = Ways(
    direct=(
        "{a} divided by {b}[?|| equals| makes what?| = what?| is how much?]",
        "{a}/{b}[?|=| =?|| pls| please]",
        "{a} over {b}[, what is it?|, as a number?|, as a decimal?| is what?]",
        "[So|Okay,|Hey,|Right,] {a} by {b} divided [is|makes|gives] [what|how much]?",
        "[Quick one|Quick sum|Small question|Maths question]: {a} divided by {b}?",
        "How [many times|often] does {b} [go|fit] into {a}?",
        "How [many times|often] is {b} contained in {a}?",
        "How many {b}s are [there |]in {a}?",
        "[Divide|Split|Cut|Break] {a} into {b} [equal |even ][parts|pieces|portions|shares][.|. "
        "How big is each?|, how much is one?]",
        "If {b} [people|friends|heirs|siblings] [share|split|divide up] {a} "
        "[euros|dollars|pounds] [equally|evenly|fairly], what does each [get|receive]?",
        "There are {b} of us and the [bill|tab|meal] is {a}. [What does each pay|How much per "
        "person|What's my share]?",
        "[Dinner|The taxi|The gift] was {a} and we are {b} [friends|people|colleagues]. How much "
        "each?",
        "{a} [dollars|euros|pounds] for {b} [kilos|bottles|tickets]. [What's the unit price|What "
        "does one cost|How much for one]?",
        "I [paid|gave] {a} for {b} [yoghurts|pens|rolls]. What did I pay for [one|each]?",
        "We [drove|cycled|flew] {a} km in {b} hours. [Average speed|How fast were we|How many km "
        "an hour]?",
        "The car [used|burned|drank] {a} litres in {b} hours. How much per hour?",
        "[Salary|Pay] is {a} a [year|month] and I work {b} hours[| in it]. What do I get per hour?",
        "A [novel|book|script] has {a} pages and I read {b} a day. How many days [do I need|will "
        "it take]?",
        "I have {a} [eggs|bottles|bulbs] and each box [holds|takes] {b}. How many boxes?",
        "How many [glasses|jars|bags] of {b} ml can I [fill|get] from {a} ml?",
        "The [debt|loan|sofa] is {a}, paid off in {b} equal [rates|instalments|payments]. [How "
        "much is one|What's each]?",
        "A [plank|rope|roll of cloth] {a} cm long is [cut|sawn] into {b} [equal|even] pieces. How "
        "long is each?",
        "[Grandma|The boss|My aunt] left {a} to be [split|divided] among {b} [of "
        "us|grandchildren|people]. [What do I get|How much per head]?",
        "The [recipe|stew] for {b} people takes {a} grams of [rice|lentils|pasta]. How much is it "
        "for one?",
        "{a} [sweets|cards|marbles] dealt out to {b} [kids|players|pupils]. How many [each|per "
        "head|for each one]?",
        "[I must|We have to] save {a} in {b} months. How much a month?",
        "A floor of {a} square metres is {b} metres wide. How long is it?",
        "At {b} km an hour, how long does it take to [go|cover|ride] {a} km?",
        "At {b} [euros|dollars|pounds] [each|apiece], how many can I [buy|get|afford] [for|with] "
        "{a}?",
        "Saving {b} [a|every] week, how many weeks until I have {a}?",
        "{b} [workers|machines|printers] [made|produced] {a} [parts|pieces|items]. How many did "
        "each?",
        "How large is [each|every|one] share when {a} is [shared out|parcelled out|split] {b} "
        "ways?",
        "What is the ratio of {a} to {b}[, as a decimal|, as a number|]?",
        "[Quotient|Division]: {a} by {b}[.||, please.]",
        "With {b} [seats|places] [per|in every] vehicle, how many vehicles do {a} people fill?",
        "[My homework says|The exercise says|On my sheet it says] {a} / {b}. [What goes behind "
        "the equals sign|What do I write]?",
        "[Please to|Kindly] divide {a} by {b}[ and say result|, thank you|].",
        "How many times [bigger|larger] is {a} compared to {b}?",
        "{b} [parcels|bricks|apples] weigh {a} [kilos|pounds] in all and are alike. What does one "
        "weigh?",
        "It took {a} minutes to [do|run|swim] {b} [laps|rounds|lengths]. How long for one?",
        "Over {b} days it rained {a} mm. What is that [a day|daily|per day]?",
        "Into {b} [groups|teams] of the same size go {a} [pupils|people|cards]. How big is a "
        "group?",
    ),
    do=(
        "divide {a} by {b}",
        "[split|share|divide] {a} [among|between] {b} [people|friends|children]",
        "[split|cut|break] {a} into {b} equal [parts|pieces|portions]",
        "[work out|figure out|calculate|compute] {a} [divided by|over|/] {b}",
        "[find|work out] how [often|many times] {b} [goes|fits] into {a}",
        "find the quotient of {a} and {b}",
        "[run|do|carry out] the division {a} / {b}",
        "[work out|find] the price of one when {a} is paid for {b}",
        "[check|see] what each of {b} [people|partners|players] gets from {a}",
        "spread {a} evenly over {b} [days|weeks|months|rooms]",
        "bring down a bill of {a} to a share for each of {b} [guests|people]",
        "write {a}/{b} as a decimal",
    ),
    what=(
        "{a} [divided by|over|/] {b}",
        "the quotient of {a} and {b}",
        "the ratio of {a} to {b}[| as a number]",
        "the [result|answer|value] of [{a} divided by {b}|dividing {a} by {b}|{a}/{b}]",
        "the share for each [person|one] when {a} is [split|divided] among {b}",
        "[each person's|everyone's] part of {a} with {b} [people|sharers]",
        "the unit price if {b} [pieces|items] cost {a}",
        "the number of times {b} [fits|goes] into {a}",
        "the size of one piece of {a} cut into {b} [equal|even] pieces",
        "the average speed for {a} miles in {b} hours",
        "the amount per [day if {a} has to last {b} days|month if {a} is spread over {b} months]",
    ),
    whether=(
        "[what|how much] {a} divided by {b} [is|makes|comes to]",
        "how [often|many times] {b} [fits|goes] into {a}",
        "what each [gets|receives|pays] when {a} is [split|shared] by {b} "
        "[people|friends|families]",
        "what you get [by dividing|when you divide|if you divide] {a} by {b}",
        "how much one costs if {b} cost {a}",
        "how big each piece is when {a} is cut into {b} [equal|even] pieces",
        "how many [boxes|bags|cars] of {b} it takes for {a}",
        "how many lots of {b} make [up |]{a}",
        "what speed it is to do {a} km in {b} hours",
        "what {a} over {b} is as a decimal",
        "how much of {a} falls to each of {b} [heirs|winners|partners]",
    ),
)
PERCENT = Ways(
    direct=(
        "{a}[%| percent| per cent| pct] of {b}[?||=| is what?| please]",
        "[Take|Get|Give me] {a}[%| percent] of {b}[.|, please.|, thanks]",
        "[So|Okay,|Right,] {a} [percent|per cent] of {b} [is|makes] how much?",
        "Of {b}, what is {a} [percent|per cent]?",
        "From {b} I [need|want|must pay] {a}[%| percent]. How much is [it|that]?",
        "I want to [tip|leave] {a}[%| percent] on a bill of {b}. [How much is the tip|What do I "
        "leave on the table]?",
        "The [jacket|sofa|laptop] costs {b} and there's {a}% off. How much do I save?",
        "{b} [euros|dollars|pounds] with {a}% [discount|off]: how [much|big] is the reduction?",
        "VAT is {a}%. How much [tax|VAT] goes on {b}?",
        "[Tax|Sales tax|Duty] of {a} percent on {b} is how much?",
        "The bank [pays|gives] {a} percent interest a year. What interest do I get on {b} in one "
        "year?",
        "Out of {b} [voters|people|pupils], {a} percent [said yes|agreed|came]. How many is that?",
        "My agent takes {a}% of everything. I earned {b}. What does the agent get?",
        "This [drink|cheese|cream] is {a}% [fat|sugar|alcohol]. How much is in {b} grams of it?",
        "We've [done|finished|covered] {a} percent of {b} [miles|pages|tasks]. How many are done?",
        "A test has {b} points and I got {a}%. How many points [is that|do I have]?",
        "Down payment is {a} percent, the [house|flat|car] costs {b}. [How much must I put "
        "down|What is the deposit]?",
        "[Rent|My rent] eats {a}% of my {b}. How much [money |]is [that|gone]?",
        "Commission at {a} percent on sales of {b}?",
        "If {b} is [the whole|everything], what is {a} %?",
        "How [big|large] is a share of {a}% in {b}?",
        "I weigh {b} pounds and must lose {a}% of that. How many pounds?",
        "What would {a} [percent|per cent] be out of {b}?",
        "The [town|village] of {b} people lost {a} percent of them. How many people went away?",
    ),
    do=(
        "[work out|figure out|calculate|compute|find] {a}[%| percent| per cent] of {b}",
        "take {a} [percent|per cent] of {b}",
        "find the [tip|service charge] of {a}% on {b}",
        "[see|check] how much I save with {a} percent off {b}",
        "work out the [tax|interest|commission] at {a}[%| percent] on {b}",
        "turn {a}% of {b} into [a plain number|an amount]",
        "say how many out of {b} are {a} percent",
    ),
    what=(
        "{a}[%| percent| per cent] of {b}",
        "the [discount|saving|reduction] at {a}% off {b}",
        "the [tip|tax|fee|interest] on {b} at {a} percent",
        "the [part|share|slice] of {b} that is {a}[%| percent]",
        "the amount [equal to|given by] {a}% of {b}",
        "a tip of {a} percent on {b}",
        "the number behind {a}% of {b}",
    ),
    whether=(
        "[what|how much] {a}[%| percent| per cent] of {b} is",
        "how much of {b} [makes up|is] {a} percent",
        "how much I save with {a}[%| percent] off {b}",
        "what [tip|fee|tax] {a}% on {b} [comes to|means|is]",
        "how many {a}% out of {b} would be",
        "what interest {b} [brings|earns] in a year at {a}[%| percent]",
        "what {a} [percent|per cent] [works out to|amounts to] with {b} as the whole",
    ),
)
ROOT = Ways(
    direct=(
        "Square root of {a}[?|| please|.|, thanks]",
        "sqrt({a})[?||=| = ?]",
        "sqrt {a}[?||, please]",
        "[Root|The root] of {a}[?| please|, as a decimal?]",
        "What number times itself [is|makes|gives] {a}?",
        "Which number [squared|multiplied by itself] [is|gives|makes] {a}?",
        "[Say|Suppose|If] x squared is {a}, what's x?",
        "A [square|square room|square garden|chessboard] has an area of {a}. How long is [one|a] "
        "side?",
        "I need to take the square root of {a} [for school|for a formula|by hand]. [What should "
        "come out|Result]?",
        "[Help|Hey], [what's|what is] the [square |]root of {a}?",
        "[A square field|My square plot] of {a} square metres: [side length|how long is each "
        "side]?",
        "{a} under the [root sign|radical|square root sign]: how much is [it|that]?",
        "{a} to the power of one half[?| is what?]",
        "[Extract|Draw|Pull] the square root [of|from|out of] {a}[.| please.]",
    ),
    do=(
        "[take|extract|find|compute|calculate|work out] the square root of {a}",
        "find [the side of a square with area {a}|the number whose square is {a}]",
        "[evaluate|compute|solve] sqrt({a})",
        "root {a}",
        "undo the squaring that gave {a}",
    ),
    what=(
        "the [|positive ]square root of {a}",
        "the number [that squares to|whose square is] {a}",
        "the [side|edge] of a square [with|of] area {a}",
        "sqrt({a})",
    ),
    whether=(
        "what the [square |]root of {a} is",
        "[which|what] number multiplied by itself [gives|makes] {a}",
        "how long the side of a square [with area|of area] {a} is",
        "what sqrt({a}) [gives|comes to|is]",
        "what you get when you take the square root of {a}",
    ),
)
SQUARE = Ways(
    direct=(
        "{a} squared[?|| equals| is what?| please|, how much?]",
        "{a}[^2|**2| ^ 2| ** 2][?||=|, please]",
        "{a} times itself[?| makes?| is how much?]",
        "Square {a}[.|, please.| for me.]",
        "What is the square of {a}?",
        "A [square|square room|tile|garden] has [sides|edges] of {a}. What's the area?",
        "Multiply {a} by itself[.|, what comes out?|, thanks]",
        "The side is {a}, the shape is a square. [Area|How big is its area|How many square units]?",
        "[If I square|When squaring] {a}, what do I [get|find]?",
        "{a} to the second power[?| is what?]",
        "{a} to the power of two[?| please]",
    ),
    do=(
        "square {a}",
        "[find|work out|compute|calculate] the square of {a}",
        "multiply {a} by itself",
        "raise {a} to the [second power|power of two]",
        "[work out|compute|evaluate] {a}[^2| squared]",
        "find the area of a square with [sides of|side] {a}",
    ),
    what=(
        "the square of {a}",
        "{a} [squared|times itself]",
        "the [area|surface] of a square [tile|room|sheet] with side {a}",
        "the second power of {a}",
    ),
    whether=(
        "[what|how much] {a} [squared|times itself] [is|makes|comes to]",
        "what the square of {a} is",
        "how big a square with sides of {a} is",
        "what you get [by squaring {a}|if {a} is multiplied by itself]",
    ),
)
POWER = Ways(
    direct=(
        "{a} to the [power|power of] {s}[?|| is what?| please]",
        "{a}[^|**]{s}[?||=|, please]",
        "{a} [^|**] {s}[?||=|, what is it?]",
        "{a} to the {s}[?|, please.| is how much?]",
        "{a} raised to [|the power ]{s}[?| is what?|, please.]",
        "Raise {a} to the [power|power of] {s}[.|, thanks]",
        "[With base|Base] {a}[, exponent| and exponent] {s}[?|: what's the value?|, how much?]",
        "What comes out [if|when] I raise {a} to the [power|power of] {s}?",
        "A product of factors {a}, and there are {s} of them. What's it worth?",
        "If something [grows|multiplies] by a factor of {a} every [year|day|hour], what is the "
        "factor after {s} such periods?",
    ),
    do=(
        "raise {a} to the [power|power of] {s}",
        "[work out|compute|calculate|evaluate|find] {a} [to the power of|to the power|raised "
        "to|^|**] {s}",
        "take {a} to the [power|exponent] {s}",
        "[solve|evaluate] {a}[^|**]{s}",
        "put the exponent {s} on {a} and [evaluate|work it out]",
    ),
    what=(
        "{a} [to the power of|raised to|^] {s}",
        "the [value|result] of {a}[^|**| to the ]{s}",
        "the power with base {a} and exponent {s}",
        "the product of {s} factors that are all {a}",
    ),
    whether=(
        "[what|how much] {a} to the [power|power of] {s} [is|makes|comes to]",
        "how big {a}[^|**]{s} is",
        "what {a} raised to {s} [gives|equals|is]",
        "what you get with {a} as base and {s} as exponent",
    ),
)
HALF = Ways(
    direct=(
        "Half of {a}[?|| please|, please.| is?]",
        "What's half [of |as much as ]{a}?",
        "Halve {a}[.|, please.|, thanks]",
        "[Cut|Split|Divide] {a} [in half|in two|into two halves][.|, how much is one part?]",
        "[My sister|My flatmate|A friend] and I [share|split] {a} [euros|dollars|pounds] "
        "[equally|fairly|evenly]. What [do I|does each of us] get?",
        "Everything is half price. [The coat was|It said] {a}. What do I pay?",
        "The recipe takes {a} grams but I'm [making|cooking|baking] half. How much do I need?",
        "We are halfway through {a} [km|pages|minutes]. How much is behind us?",
    ),
    do=(
        "halve {a}",
        "[cut|split] {a} [in half|in two equal parts]",
        "[work out|find|calculate|compute] half of {a}",
        "divide {a} by two",
    ),
    what=(
        "half of {a}",
        "the half of {a}",
        "{a} [halved|divided by two|split down the middle]",
        "each one's part when two [people|friends] share {a}",
    ),
    whether=(
        "[what|how much] half of {a} is",
        "what {a} halved [is|makes|comes to]",
        "how much each [of us two|of the two] gets out of {a}",
        "what fifty per cent of {a} is",
    ),
)
DOUBLE = Ways(
    direct=(
        "Double {a}[?|.|, please.| is what?]",
        "What's [twice|double] {a}?",
        "Twice {a}[?| is how much?|, please.]",
        "Two times {a}[?| makes?]",
        "[My brother|My boss|The neighbour] [earns|has] twice as much as me, and I [earn|have] "
        "{a}. How much is it for [him|that lucky man]?",
        "The recipe [needs|says] {a} grams and I'm making a double [portion|batch]. How much "
        "[flour|milk|sugar] is it?",
        "[There and back|Return trip]: one way is {a} km. How far in all?",
        "A pair, each [at|for] {a}. What do the two cost?",
    ),
    do=(
        "double {a}",
        "[work out|find|calculate|compute] [twice|double] {a}",
        "multiply {a} by two",
        "take {a} two times",
    ),
    what=(
        "[twice|double] {a}",
        "the double of {a}",
        "{a} [doubled|times two]",
        "the price of two [items|things] at {a} each",
    ),
    whether=(
        "[what|how much] [twice|double] {a} is",
        "what {a} doubled [is|makes|comes to]",
        "how much a pair costs at {a} apiece",
        "what you get if {a} [is doubled|gets twice as big]",
    ),
)
