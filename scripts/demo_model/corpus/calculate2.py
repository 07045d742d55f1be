"""How people ask for a sum, a difference or a product."""

from __future__ import annotations

from scripts.demo_model.ways import Ways

ADD = Ways(
    direct=(
        "{a} plus {b}[?|| equals| makes what?| = what?| is how much?]",
        "{a}+{b}[?|=| =?|| pls| please]",
        "[So|Okay,|Hey,|Right,] {a} and {b} [make|give|add up to|come to] [what|how much]?",
        "[Sum|Total|Grand total|Addition]: {a} and {b}[.||, please.]",
        "Whats {a} + {b}[|?| ?]",
        "[Quick one|Quick sum|Small question|Maths question]: {a} plus {b}?",
        "If I [add|put] {a} and {b} together, [what do I get|where do I land|what comes out]?",
        "[Tot|Reckon|Add] up {a} and {b}[ for me|, would you|, thanks|][.|]",
        "I [paid|spent|gave] {a} [euros|dollars|pounds] at the [baker's|chemist|garage] and {b} "
        "at the [butcher's|market|kiosk]. [Total?|What did I spend altogether?]",
        "The [hotel|room] was {a} and the [flight|train|rental car] {b}. How much did the "
        "[trip|holiday|vacation] [cost|set me back]?",
        "[Lunch|Dinner|Breakfast] cost ${a}, [drinks|dessert|the taxi] ${b}. What's the "
        "[damage|bill|total]?",
        "My [savings|piggy bank|account] [held|had] {a} and I [paid in|deposited|put in] {b}. "
        "What is the balance now?",
        "I [drove|cycled|rode] {a} miles [before|after] lunch and {b} [later|in the "
        "evening|afterwards]. How far was that in all?",
        "[Anna|Tom|Grandma|Our boss] was {a} when [we met|I was born|the war ended]. That was {b} "
        "years ago. [How old does that make them now|What age is that now]?",
        "A [rope|plank|cable] of {a} metres is joined to [one|another] of {b} metres. [How long "
        "is it now?|Total length?]",
        "There were {a} [passengers|people|kids] on the [bus|tram|ferry], then {b} [got "
        "on|boarded|climbed aboard]. How many are [on board|riding] now?",
        "The [recipe|dough|cake] [needs|takes|wants] {a} grams of flour and {b} of sugar. What do "
        "[both|the two] weigh together?",
        "We [sold|shipped|printed] {a} [tickets|units|copies] on Saturday and {b} on Sunday. "
        "[Weekend total?|What does the weekend come to?]",
        "[Yesterday|Last week] I [ran|walked|swam] {a} km, [today|this week] {b}. [Add those|Put "
        "them together].",
        "[One|The first] [parcel|suitcase|sack] weighs {a} kilos, the other {b}. Combined weight?",
        "With {a} [in the fridge|on the shelf|in the shed] and {b} in the [cellar|garage|attic], "
        "how many [bottles|jars|cans] do we have?",
        "[Start|Begin] [at|with|from] {a}, [go|move|count] up by {b}. [Where are you|Which number "
        "is it|What is it]?",
        "What [number|figure|value] is {a} [increased|raised|topped up] by {b}?",
        "What is {b} more than {a}?",
        "Which number is bigger than {a} by exactly {b}?",
        "The price was {a} and [went up|rose|climbed] by {b}. [New price?|What is it now?|What "
        "must I pay now?]",
        "It was {a} degrees and got {b} degrees warmer. [What does the thermometer show?|How warm "
        "is it now?]",
        "Need the sum of {a} and {b}[.|, thx|, cheers| asap|, no hurry]",
        "[I can't|My phone won't|I am too tired to] [add|sum] {a} and {b}. [What is it|What's the "
        "result|Result]?",
        "Both [bills|invoices|fees] [together|combined], {a} and {b}, [are how much|how much is "
        "it]?",
        "[My homework says|The exercise says|On my sheet it says] {a} + {b}. [What goes behind "
        "the equals sign|What do I write]?",
        "There's {a} in one [jar|tank|barrel] and {b} in the other. If I pour [them|both] "
        "together, [what do I have|how much is there]?",
        "[She|He|My cousin] [earns|gets|makes] {a} [a|per] week and a bonus of {b}. What is that "
        "[together|altogether|all told]?",
        "How much [would {a} and {b} be|is {a} and {b}] [taken together|when summed|added up]?",
        "Film one [runs|lasts] {a} minutes, film two {b}. How long will [we|I] be "
        "[sitting|watching]?",
        "[Please to|Kindly] add {a} with {b}[ and say result|, thank you|].",
        "{a}, and then {b} on top. [Altogether?|In total?|How much?]",
        "[The class|Our club|The choir] has {a} [girls and {b} boys|women and {b} men]. How many "
        "[heads|members|people] is that?",
        "I [owe|promised] {a} to [my sister|the bank|Ben] and {b} to [my uncle|the landlord|Mia]. "
        "What do I owe overall?",
        "Does anyone know what {a} plus {b} is?",
        "My [mother|neighbour|aunt] gave me {a} dollars[|, bless her], my "
        "[father|godfather|brother] {b}. [So now I have?|How rich am I?]",
    ),
    do=(
        "add [up |together |]{a} and {b}",
        "[sum|total|tot up] {a} and {b}",
        "[work out|figure out|calculate|compute] {a} [plus|+] {b}",
        "[put|lump] {a} and {b} together into one [number|figure|total]",
        "[raise|increase|bump up] {a} by {b} and [say what it is|give the result]",
        "find [out |]what {a} and {b} [make|amount to|come to]",
        "[take|start with] {a} and add {b}[ to it| on top|]",
        "[run|do|carry out] the addition {a} + {b}",
        "combine [a cost|an amount|a weight] of {a} with [one|another] of {b}",
        "[tally|count up] {a} [points|votes|coins] and {b} more",
        "[check|see] how much I have if I [own|hold|save] {a} and [receive|win|earn] {b}",
        "solve {a}+{b}",
    ),
    what=(
        "the [sum|total] of {a} and {b}",
        "{a} [plus|+] {b}",
        "the [result|answer|outcome|value] of [adding {a} and {b}|{a} plus {b}|{a}+{b}]",
        "the [grand|overall|combined] total for {a} and {b}",
        "the number that {a} and {b} [make|add up to]",
        "the figure that is {b} above {a}",
        "the amount [due|to pay] for [two items|a shirt and a tie|two books] at {a} and {b}",
        "the joint [weight|length|price|age] of [things|two items], one {a} and the other {b}",
        "the new balance after [paying in|depositing] to {a} another {b}",
        "{a} increased by {b}",
        "the number [obtained|you get] when {a} and {b} are [added|summed|put together]",
    ),
    whether=(
        "[what|how much] {a} [plus|and] {b} [is|makes|comes to]",
        "how much {a} and {b} [are|make] [together|in total|combined]",
        "what you get [by adding|when you add|if you sum] {a} and {b}",
        "what {a} [grows to|becomes|turns into] if it [rises|goes up|increases] by {b}",
        "how many [I|we] have in [all|total], with {a} [here|at home|on the desk] and {b} "
        "[there|in the car|at work]",
        "which number [lies|is] {b} above {a}",
        "how long it takes [in all|altogether] if [one part|the drive] takes {a} [hours|minutes] "
        "and [the rest|the ferry] {b}",
        "what [both items|the pair] [cost|come to] at {a} and {b} [euros|dollars|pounds]",
        "what the [sum|addition] {a} + {b} [gives|yields|works out to]",
        "where {a} and {b} end up once they are [added|totalled]",
        "what total [goes|belongs] under {a} and {b}",
    ),
)
SUBTRACT = Ways(
    direct=(
        "{a} minus {b}[?|| equals| makes what?| = what?| is how much?]",
        "{a}-{b}[=|=?| =| = ?]",
        "{a} take away {b}[?|| is what?|, what's that?| makes?]",
        "[So|Okay,|Hey,|Right,] {a} less {b} [is|makes|leaves] [what|how much]?",
        "What's {b} [taken away|taken|subtracted|deducted|removed] from {a}[?|]",
        "[Subtract|Deduct|Knock|Take|Remove] {b} [off|from|out of] {a}[.|, please.|, thanks]",
        "[Quick one|Quick sum|Small question|Maths question]: {a} minus {b}?",
        "How much [bigger|larger|more|higher] is {a} than {b}?",
        "How much [smaller|less|lower] is {b} than {a}?",
        "By how much does {a} [exceed|beat|top|surpass] {b}?",
        "By how much [does {b} fall|is {b}] short of {a}?",
        "What [must|should|do] I add to {b} to [get|reach|make|arrive at] {a}?",
        "What is [missing|lacking] from {b} to [get to|reach] {a}?",
        "I have {a} [euros|dollars|pounds] and [spend|waste|lend a friend] {b}. What [remains|is "
        "left|have I got left]?",
        "I [handed over|paid with] {a} [euros|dollars|pounds] for a [bill|purchase] of {b}. [How "
        "much change do I get|What change is due]?",
        "The [coat|lamp|bike] [was|used to be] {a} but there's {b} off. [What do I pay|Price "
        "now|What does it cost now]?",
        "My [goal|target] is {a} and I've [saved|collected|raised] {b} so far. [How much more do "
        "I need|What is still missing]?",
        "[We have|The road has|It is] {a} km to [go|travel|ride] and {b} [are done|lie behind "
        "us]. How far is [left|it still]?",
        "The [tank|barrel|pool] held {a} litres and {b} [leaked out|were used|evaporated]. What "
        "is in it now?",
        "It was {a} degrees [at noon|yesterday] and got {b} degrees colder. [How warm is it "
        "now?|Temperature now?]",
        "[Grandpa|My wife|Mr Lee] is {a} and [my son|the dog|the baby] is {b}. [Age "
        "difference?|How many years lie between them?]",
        "Of {a} [guests|pupils|workers], {b} [stayed home|went home|are ill]. How many [are "
        "here|came|remain]?",
        "A [board|ribbon|pipe] is {a} cm long. I [saw|cut|snip] off {b}. [How long is the "
        "rest|What is left of it]?",
        "Before the [diet|holiday|winter] I weighed {a} kilos, [now {b}|now it is {b}]. How much "
        "did I lose?",
        "My [book|novel|report] has {a} pages and I've [read|finished|got through] {b}. How many "
        "to go?",
        "[Salary|Pay|Income] {a}, [rent|tax|costs] {b}. What [stays|is left over|remains for me]?",
        "There were {a} [people|passengers] on the [bus|train|boat] and {b} got off. How many are "
        "[still on|left on it]?",
        "The [recipe|cake] wants {a} grams of [butter|sugar|flour], but I only have {b}. How much "
        "[am I short|is lacking|must I buy]?",
        "Gross [weight|pay] {a}, [deductions|packaging|tare] {b}. [Net?|So net is?|What is it "
        "net?]",
        "If you [take|pull|strip] {b} [away |]from {a}, [what do you get|what's left|what stays]?",
        "[Start|Begin] [at|with|from] {a} and go down by {b}. [Where are you|Which number is it]?",
        "{a} [reduced|lowered|decreased|cut] by {b} [is|makes|gives] what?",
        "The price [fell|dropped|went down] from {a} by {b}. [New price?|What is it today?]",
        "Difference between {a} and {b}[?|, please.|.|]",
        "Gap between {a} and {b}[?|, please?]",
        "[My homework says|The exercise says|On my sheet it says] {a} - {b}. [What goes behind "
        "the equals sign|What do I write]?",
        "Already {b} [gone|used|paid] out of {a}. What's [left|outstanding|still there]?",
        "After {b} of the {a} [minutes|seats|tickets] are gone, how many remain?",
        "The [film|lesson|flight] lasts {a} minutes and {b} [are over|have passed]. How much "
        "longer?",
        "One [team|player] [has|scored] {a} points, the other {b}. [How big is the lead|What is "
        "the margin]?",
        "The [meter|odometer] [shows|reads] {a}, last time it was {b}. How much [was used|did we "
        "use]?",
        "I [owed|had a debt of] {a} and [paid back|returned] {b}. What do I still owe?",
    ),
    do=(
        "[subtract|deduct|take away|remove] {b} from {a}",
        "take {b} [away from|from|off|out of] {a}",
        "[work out|figure out|calculate|compute] {a} [minus|less|-] {b}",
        "find the difference [between|of] {a} and {b}",
        "[reduce|lower|decrease|shrink] {a} by {b}",
        "[start with|begin at|take] {a} and [go down|count back|step back] by {b}",
        "[see|check|tell] how much [more {a} is than {b}|less {b} is than {a}]",
        "[knock|shave] {b} off {a}",
        "work out the change from {a} for [something costing|a bill of|goods worth] {b}",
        "[run|do|carry out] the subtraction {a} - {b}",
        "find [out |]what is left of {a} [after|once] {b} [are gone|goes|is spent]",
        "compare {a} with {b} and say how much [bigger the first is|is between them]",
    ),
    what=(
        "the difference [between|of] {a} and {b}",
        "{a} [minus|less|-] {b}",
        "{a} [reduced|lowered|decreased] by {b}",
        "the [result|answer|value] of [{a} minus {b}|taking {b} from {a}|subtracting {b} from {a}]",
        "the [rest|remainder|leftover|balance] after [taking|spending|using] {b} out of {a}",
        "the [change|money] [back|returned] on a payment of {a} for a [purchase|bill] of {b}",
        "the [gap|distance|margin] between {a} and {b}",
        "the amount by which {a} [exceeds|is above|is more than] {b}",
        "the number that is {b} [below|less than|smaller than] {a}",
        "the [net|reduced] figure for {a} with {b} [off|deducted|taken off]",
        "the amount to add to {b} to [get|make|reach] {a}",
    ),
    whether=(
        "[what|how much] {a} [minus|less|take away] {b} [is|makes|comes to]",
        "how much is left if I [take|spend|use] {b} of [my|the] {a}",
        "how much [bigger|greater|more] {a} is than {b}",
        "how much [smaller|less] {b} is than {a}",
        "what [remains|is left|stays] when {b} [is taken|goes] from {a}",
        "by how much {a} [exceeds|is above|tops] {b}",
        "how far {b} [is|lies] below {a}",
        "what {a} [shrinks to|drops to|becomes] if it [falls|drops|goes down] by {b}",
        "what [change|money back] I get from {a} for [something at|a price of] {b}",
        "which number is {b} less than {a}",
        "how many are [still there|left|missing] when {b} [out of|of the] {a} [have left|are gone]",
        "how much [I|we] still [need|lack] to get from {b} to {a}",
    ),
)
MULTIPLY = Ways(
    direct=(
        "{a} times {b}[?|| equals| makes what?| = what?| is how much?]",
        "{a}[*|x]{b}[?|=| =?|| pls| please]",
        "{a} [by|with] {b} multiplied, [what is it|how much]?",
        "[So|Okay,|Hey,|Right,] {a} times {b} [is|makes|gives] [what|how much]?",
        "[Quick one|Quick sum|Small question|Maths question]: {a} times {b}?",
        "Whats {a} [x|*] {b}[|?| ?]",
        "What are {a} lots of {b}?",
        "[Product|Multiplication]: {a} and {b}[.||, please.]",
        "What is {a} [multiplied|scaled up|blown up] by [a factor of |]{b}?",
        "If I multiply {a} [by|with] {b}, [what do I get|what comes out|where do I end up]?",
        "[I need|We want|Get me] {a} [tickets|chairs|cables] at {b} [euros|dollars|pounds] "
        "[each|apiece|a piece]. [What's the total|How much is that|What will it cost]?",
        "What do {a} [pizzas|mugs|shirts] at {b} [euros|dollars|quid] [each|a pop|apiece] come to?",
        "{a} [boxes|crates|packs] with {b} [pens|bottles|eggs] in each. How many [all "
        "told|altogether|in all]?",
        "I [work|tutor|babysit] {a} hours for {b} [euros|dollars|pounds] an hour. What do I "
        "[earn|make|get]?",
        "A [car|train|truck] [does|goes] {a} km an hour for {b} hours. How far does it [get|go]?",
        "My [room|garden|carpet] is {a} metres by {b}. [How many square metres is that|What's the "
        "area]?",
        "A [field|wall|screen] measures {a} by {b}. Area?",
        "[Rent|The gym|My phone] is {a} a month. What do I pay [for|over|in] {b} months?",
        "I [put aside|save|stash] {a} [euros|dollars|pounds] [a|every|each] week. How much is it "
        "after {b} weeks?",
        "The [recipe|sauce|batter] takes {a} grams of [flour|sugar|milk] per person. How much for "
        "{b} people?",
        "{a} [people|guests|kids] [each eat|each get|all want] {b} [slices|sweets|sausages]. How "
        "many do I [need|have to make|order]?",
        "[Every|Each] one of {a} [teams|classes|tables] has {b} [players|pupils|guests]. [How "
        "many is that|Number of people]?",
        "We [stay|remain] {a} nights at {b} [euros|dollars|pounds] [a|per] night. [Hotel "
        "bill?|What will they charge us?]",
        "A [litre|gallon|kilo] costs {a}. [What|How much] for {b} of them?",
        "The [pump|printer|machine] [does|makes|turns out] {a} a minute. How many in {b} minutes?",
        "There are {a} [rows|shelves|racks] and {b} [seats|plants|books] in every one. Total "
        "number?",
        "[My homework says|The exercise says|On my sheet it says] {a} * {b}. [What goes behind "
        "the equals sign|What do I write]?",
        "[Times|Multiply] {a} by {b}[ for me|, would you|, thanks|][.|]",
        "[Please to|Kindly] multiply {a} with {b}[ and say result|, thank you|].",
        "{a} taken {b} times [is|makes|gives] what?",
        "Take {a} and make it {b} times as [big|large|long|much]. [Result?|What is it then?]",
        "My [brother|boss|friend] has {a} [in the bank|in savings|on the side] and I have {b} "
        "times as much. What is mine?",
        "The [mountain|tower|tree] in the [picture|model] is {a} cm [high|tall], in truth {b} "
        "times that. How [high|tall] is it really?",
        "One [ring|coin|brick] weighs {a} grams. What do {b} [weigh|bring to the scales]?",
        "[I drink|My dog eats|The cat gets] {a} [cups|grams|portions] a day. How much is that in "
        "{b} days?",
        "Each [lap|round|loop] is {a} km and I [run|ride|do] {b}. Total distance?",
        "[Fuel|Petrol|Gas] is at {a} per [litre|gallon] and I [fill up|need|tank] {b}. What do I "
        "pay?",
        "At {a} [dollars|euros|pounds] a [ticket|seat|head], what do {b} of us pay [together|all "
        "in all]?",
        "My heart [beats|does] {a} times a minute, so how many [beats|times] in {b} minutes?",
        "A [stair|step] is {a} cm high and there are {b}. What height do I climb?",
        "{a} [jars|bags|cups] hold {b} grams each, how much [is|goes in] there in total?",
        "Width {a}, [height|length] {b}. What surface is that?",
    ),
    do=(
        "multiply {a} [by|with|and] {b}",
        "[work out|figure out|calculate|compute] {a} [times|multiplied by|x|*] {b}",
        "find the product of {a} and {b}",
        "[run|do|carry out] the multiplication {a} * {b}",
        "scale {a} [up |]by a factor of {b}",
        "take {a} [exactly |]{b} times",
        "[work out|find] the area of [a floor|a field|a rectangle|a window] {a} by {b}",
        "[price|cost|charge] {a} [items|units|seats] at {b} each",
        "[count|see] how many [pieces|items] there are in {a} [boxes|bags|sets] of {b}",
        "[check|see] what [I earn|one gets] for {a} hours at {b} an hour",
        "solve {a}*{b}",
        "make {a} bigger by a factor of {b}",
    ),
    what=(
        "the product of {a} and {b}",
        "{a} [times|x|multiplied by] {b}",
        "the [result|answer|value] of [{a} times {b}|multiplying {a} by {b}|{a}*{b}]",
        "the [cost|price] of {a} [pieces|items|tickets] at {b} [each|apiece]",
        "the [area|surface] of a [room|rectangle|plot] [measuring |]{a} by {b}",
        "the number of [things|eggs|bottles] in {a} [cartons|trays|cases] of {b}",
        "the [pay|wage] for {a} hours at {b} [an hour|per hour]",
        "the distance [covered|travelled] at {a} an hour in {b} hours",
        "{a} lots of {b}",
        "{b} times the [amount|number|quantity] {a}",
        "the total [for|over] {a} [days|weeks|months] at {b} [a piece|each]",
    ),
    whether=(
        "[what|how much] {a} times {b} [is|makes|comes to]",
        "what {a} [multiplied by|by] {b} [gives|yields|works out to]",
        "what you get [by multiplying|when you multiply|if you multiply] {a} by {b}",
        "how much {a} [tickets|kilos|metres|litres] cost at {b} [each|apiece]",
        "how many [there are|you get] in {a} [boxes|groups|packs] of {b}",
        "how big [an area|a floor|a field] of {a} by {b} is",
        "what I [make|earn] in {a} hours at {b} [an|per] hour",
        "how far [you get|one comes] with a speed of {a} after {b} hours",
        "what the product of {a} and {b} is",
        "how much {a} [a|per] [day|week|month] [is|adds up to] over {b} [of them|such periods]",
        "what {a} [becomes|grows to] when it gets {b} times as [big|large]",
    ),
)
