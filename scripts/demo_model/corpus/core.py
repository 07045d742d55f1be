"""How people ask for the core tools: short and common utterances, all whole."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

WEATHER = (
    "[What is|What's|How is|How's] the weather [like |][in|at|over in|for] {city}[| today| now| "
    "right now]?",
    "[Tell me|Show me|Give me|Get me|Check|Look up|Find out] the [|current ]weather [in|for|of] "
    "{city}[| please| today|, thanks].",
    "Weather in {city}[?|| please| today| now].",
    "[Is it|Will it be] "
    "[raining|sunny|cold|warm|hot|windy|snowing|cloudy|foggy|wet|dry|icy|nice] in {city}[| "
    "today| now| right now| at the moment]?",
    "[How [cold|warm|hot|windy|wet]|What temperature] is it in {city}[| today| now| right now]?",
    "[What is|What's|Tell me] the temperature in {city}[?|, please?]",
    "[Do I need|Should I bring|Should I wear] [a coat|an umbrella|a jacket|a "
    "hat|gloves|sunglasses|boots] [today |]in {city}?",
    "I am [going|travelling|flying|driving|moving] to {city}[| today| tomorrow]. [What is|How "
    "is] the weather there?",
    "I [want|need|would like] to know the weather [in|for] {city}.",
    "[Can|Could|Would] you [tell me|check|look up|find] [the weather in {city}|how the weather "
    "is in {city}|what the weather is like in {city}]?",
    "{city} weather[?|| please| today| now]",
    "[Is there|Will there be] [rain|snow|wind|sun|fog|a storm|frost] in {city}[| today| tonight]?",
    "My [friend|sister|brother|mother|father|son|boss] [lives|is|works] in {city}. [Is it "
    "[cold|warm|raining|sunny] there?|How is the weather there?]",
    "What should I wear in {city}[| today]?",
    "[Does|Did] it [rain|snow] [a lot |]in {city}[| today]?",
    "[The weather|The temperature|Today's weather|The forecast] [in|for] {city}[|, please].",
    "[Are there|Do they have] clouds over {city}[| now]?",
    "How many degrees [is it|do they have|are there] in {city}[| now| today]?",
    "We plan [a picnic|a walk|a trip|a party|a match] in {city}. Is the weather "
    "[good|fine|dry|warm enough]?",
    "What does the sky look like in {city}?",
    "[Forecast|Temperature] [for|in] {city}[| please]",
    "[I live|I am|We are|We live] in {city}. [How is the weather|Is it going to rain|What is "
    "the temperature|Do I need a coat]?",
    "[Let me know|Say] [if it rains|whether it rains|how cold it is|if it is sunny] in {city}.",
)
WEATHER_UNIT = (
    "[What is|What's] the [weather|temperature] in {city} in {unit}?",
    "[Tell me|Give me|Show me] the [weather|temperature] [in|for] {city} in [degrees |]{unit}[| "
    "please].",
    "How [warm|cold|hot] is it in {city}[|,] in {unit}?",
    "Weather in {city}, {unit}[| please].",
    "[Use|In] {unit}[:|,] [how is the weather|what is the temperature] in {city}?",
    "How many degrees {unit} [is it|are there] in {city}[| now]?",
    "Check {city} weather and [use|answer in|show] {unit}.",
)
TIME_CITY = (
    "[What time is it|What's the time|What is the time] [in|over in|now in|right now in] "
    "{city}[| now]?",
    "[Tell me|Show me|Give me|Check|Look up] the [|current |local ]time [in|for|of] {city}[| "
    "please| now].",
    "Time in {city}[?|| please| now].",
    "[Can|Could|Would] you [tell me|check|find out] [the time in {city}|what time it is in "
    "{city}]?",
    "[How late|How early] is it in {city}[| now]?",
    "What [day|date] is it in {city}[| now| today]?",
    "[I|We] [need|want|would like] to know [the time|what time it is|the hour] in {city}.",
    "{city} time[?|| please| now]",
    "Is it [morning|night|evening|late|early|noon|midnight|dark|already Monday] in {city}[| "
    "now| yet]?",
    "I want to [call|phone|ring] my [friend|sister|mother|boss|office] in {city}. What time is "
    "it there?",
    "[What does|What do] the clock[s|] [say|show] in {city}?",
    "[The time|Local time|The hour|Clock] in {city}[|, please].",
    "Which [hour|day] do they have in {city}?",
    "Are people [asleep|awake|at work] in {city} now? [What time is it there?|Check the time.]",
)
TIME_HERE = (
    "[What time is it|What's the time|What is the time][| now| right now| please]?",
    "[Tell me|Give me|Show me|Check] the [|current ]time[| please| now].",
    "[Can|Could] you tell me [the time|what time it is]?",
    "[What|Which] [day|date] is [it|today]?",
    "What is [the date|today's date]?",
    "How late is it[| now]?",
    "Is it [late|noon|midnight|Monday|the weekend] [already|yet|now]?",
    "[Time|The time|Date][| please| now].",
    "I [lost|forgot] my watch. What time is it?",
)
# Wording and the expression it means.
CALCULATE = (
    (
        "[What is|What's|How much is|Calculate|Compute|Work out] {a} [+|plus|and] {b}[?| please?]",
        "{a} + {b}",
    ),
    (
        "[What is|What's|How much is|Calculate|Compute|Work out] {a} [-|minus|less] {b}[?| "
        "please?]",
        "{a} - {b}",
    ),
    (
        "[What is|What's|How much is|Calculate|Compute|Work out] {a} [*|x|times|multiplied by] "
        "{b}[?| please?]",
        "{a} * {b}",
    ),
    (
        "[What is|What's|How much is|Calculate|Compute|Work out] {a} [/|divided by|over] {b}[?| "
        "please?]",
        "{a} / {b}",
    ),
    ("[Add|Please add] {a} [and|to|with] {b}.", "{a} + {b}"),
    ("[Give me|Tell me|Find] the sum of {a} and {b}.", "{a} + {b}"),
    ("[Subtract|Take|Take away] {a} from {b}.", "{b} - {a}"),
    ("[Give me|Tell me|Find|What is] the difference [between|of] {a} and {b}[.|?]", "{a} - {b}"),
    ("[Multiply|Please multiply] {a} [by|with|and] {b}.", "{a} * {b}"),
    ("[Give me|Tell me|Find|What is] the product of {a} and {b}[.|?]", "{a} * {b}"),
    ("[Divide|Please divide|Split] {a} by {b}.", "{a} / {b}"),
    ("[What is|How much is|Find|Calculate] {a} [percent|%] of {b}[?| please?]", "{b} * {a} / 100"),
    ("{a} + {b}[?| =| = ?]", "{a} + {b}"),
    ("{a} - {b}[?| =| = ?]", "{a} - {b}"),
    ("{a} [*|x] {b}[?| =| = ?]", "{a} * {b}"),
    ("{a} / {b}[?| =| = ?]", "{a} / {b}"),
    ("[What is|Find|Tell me|Compute] the square root of {a}[?|.]", "sqrt({a})"),
    ("[What is|Tell me|Compute] {a} squared[?|.]", "{a} ** 2"),
    ("[What is|Compute|Calculate] {a} to the power of {s}[?|.]", "{a} ** {s}"),
    ("[What is|Compute|Calculate|Work out] {a} + {b} + {c}[?| please?]", "{a} + {b} + {c}"),
    ("[Add up|Sum|Sum up|Add] {a}, {b} and {c}.", "{a} + {b} + {c}"),
    ("[What is|Compute|Calculate|Work out] {a} * {b} + {c}[?| please?]", "{a} * {b} + {c}"),
    ("[What is|Compute|Calculate|Work out] ({a} + {b}) * {c}[?| please?]", "({a} + {b}) * {c}"),
    ("[What is|Compute|Calculate|Work out] ({a} - {b}) / {c}[?| please?]", "({a} - {b}) / {c}"),
    ("[What is|Compute|Calculate] {a} times {b} [plus|and then plus] {c}?", "{a} * {b} + {c}"),
    ("[What is|Compute|Calculate] {a} plus {b} minus {c}?", "{a} + {b} - {c}"),
    (
        "[One|A] [ticket|book|box|cake|chair|lamp] costs {a} [euros|dollars|pounds]. How much "
        "do {b} cost?",
        "{a} * {b}",
    ),
    (
        "I have {a} [apples|coins|books|stamps|cards] and [get|buy|find] {b} more. How many "
        "[are there now|do I have]?",
        "{a} + {b}",
    ),
    (
        "I had {a} [apples|coins|books|stamps|cards] and [lost|sold|gave away|ate] {b}. How "
        "many are left?",
        "{a} - {b}",
    ),
    (
        "[Share|Split] {a} [coins|cookies|euros|dollars] among {b} [people|friends|children].",
        "{a} / {b}",
    ),
    (
        "There are {a} [rows|boxes|shelves|bags] with {b} [seats|eggs|books|balls] each. How "
        "many [in all|is that]?",
        "{a} * {b}",
    ),
    ("[Half|A half] of {a}?", "{a} / 2"),
    ("[Double|Twice] {a}[?|.]", "{a} * 2"),
    ("How much is a [tip|tax] of {a} percent on {b}?", "{b} * {a} / 100"),
)
CONVERT = (
    "[Convert|Change|Turn|Please convert] {value} {from} [to|into|in] {to}[| please].",
    "How many {to} are [in |]{value} {from}?",
    "[What is|What's|How much is] {value} {from} in {to}[| please]?",
    "{value} {from} [in|to|into|as] {to}[?|| please]",
    "[Tell me|Give me|Show me|Express|Write] {value} {from} in {to}[| please].",
    "[Can|Could] you [convert|change] {value} {from} [to|into] {to}?",
    "I [have|need|bought|measured|got] {value} {from}. How many {to} is that?",
    "I [have|need|bought|measured|got] {value} {from}. How much is that in {to}?",
    "How many {to} [do|does|make|makes up] {value} {from} [make|give|have|equal]?",
    "[I want|I need] {value} {from} in {to}.",
    "My [recipe|map|plan|sheet|book] says {value} {from}. What is that in {to}?",
    "{value} {from} [is|are|equals] how many {to}?",
    "[If I|When you] convert {value} {from} to {to}, what do [I|you] get?",
)
SEARCH = (
    "[Search|Search the web|Look|Search online] for {query}[| please].",
    "[Find|Find me|Look up|Google] {query}[| on the web| online| please].",
    "[Can|Could] you [search for|look up|find] {query}?",
    "[Do a|Run a|Start a] [search|web search] for {query}.",
    "[What can you find|What do you find|What is there|What does the web say] [about|on] {query}?",
    "[I want|I need|I would like] to [read|know more|learn] about {query}.",
    "[Find|Get|Show] [information|news|pages|articles|something] [about|on] {query}.",
    'Search [for |]"{query}".',
    "[Please s|S]earch: {query}",
    "Look on the web for {query}.",
    "I am [looking for|searching for|curious about|interested in] {query}. [Search the web.|Can "
    "you search?|Find something.]",
    "[Any|Is there any] news [about|on] {query}?",
    "[Help me find|Use the web to find|Use search to find] {query}.",
)
READ_FILE = (
    "[Read|Open|Show|Print|Display|Load] [|me |the file |file ]{path}[| please].",
    "[What is|What's] [in|inside|written in] [|the file ]{path}?",
    "[What does|Tell me what] [|the file ]{path} [say|contain|says|contains][?|.]",
    "[Can|Could] you [read|open|show me] [|the file ]{path}?",
    "[Give me|Show me|I need|I want|I want to see] the [contents|content|text] of {path}[| "
    "please].",
    "Read {path} [to me|aloud|for me|and tell me what it says].",
    "[Have a look|Look|Take a look] [at|into|inside] {path}.",
    "[Let me see|I would like to see|I want to read] {path}.",
    "cat {path}",
    "There is a file [called|named] {path}. What [is in it|does it say]?",
    "[Print|Show] what {path} [says|contains|has in it].",
    "Tell me [about|what is in] the file {path}.",
)
LIST_FILES = (
    "[List|Show|Show me|Print|Tell me] [the |all |all the |]files [in|of|inside|under] {path}[| "
    "please].",
    "[What|Which] files are [in|inside|there in|under] {path}?",
    "[What is|What's] in the [folder|directory] {path}?",
    "[List|Show] [the folder |the directory |folder |]{path}[| please].",
    "[Can|Could] you [list|show me] [the files in|what is in the folder|the folder] {path}?",
    "[Give me|I need|I want] a list of [the |]files in {path}.",
    "ls {path}",
    "[Look|Have a look] [into|in] the [folder|directory] {path}.",
    "Which [documents|things|names] does the folder {path} [have|hold|contain]?",
    "[Contents|Content|Files] of the [folder|directory] {path}[|, please].",
    "Are there [any |]files in {path}?",
    "How many files are in {path}?",
)
WRITE_FILE = (
    '[Write|Save|Put] "{text}" [to|into|in] [|the file ]{path}[| please].',
    "[Create|Make|Write] [a file|the file|a file called|a file named] {path} [with the "
    'text|that says|with|containing] "{text}".',
    "[Save|Write|Store] this [to|in|into] {path}: {text}",
    "Write to {path}: {text}",
    '[Can|Could] you [save|write|put] "{text}" [in|into|to] {path}?',
    '[I want|I need] "{text}" [saved|written|stored] in {path}.',
    'In {path}[|,] write "{text}".',
    'Make {path} say "{text}".',
    'Store the [text|words|line] "{text}" as {path}.',
)

UNITS = (
    "miles km kilometers kilometres meters metres m feet ft inches cm centimeters yards mm".split(),
    "kg kilograms pounds lbs grams g ounces oz tons stones".split(),
    "celsius fahrenheit kelvin".split(),
    "liters litres gallons cups ml pints".split(),
    "km/h mph knots m/s".split(),
    "hours minutes seconds days weeks".split(),
    "MB GB KB bytes TB".split(),
    "acres hectares".split(),
    "joules calories kcal".split(),
)
