"""Wordings that ask for JSON: an object with given keys, or a list."""

from __future__ import annotations

# {k} the keys, {t} the text.
OBJECTS: tuple[str, ...] = (
    "[Convert|Change|Transform|Rework] the following [into|to] a JSON object holding {k}: {t}",
    "{t} [Pull|Draw|Lift] {k} out of that and [hand|pass] it back as a JSON object.",
    "[Please |]parse this [message|note|mail] into JSON. The properties [should be|are] {k}. {t}",
    "I need {k} in JSON for [my database|a web form|an import job]. Here is the text: {t}",
    "[Serialise|Serialize] the [facts|details|information] below as JSON, attributes {k}.\n{t}",
    "{t}\nFill in {k} and answer with nothing but JSON.",
    "{t}\n\nGive that to me as JSON, please: {k}.",
    "Keys: {k}\nText: {t}\nOutput: JSON",
    "Schema: {k}.\nInput: {t}\nReturn the matching JSON[ object|].",
    (
        "Here's [a note|a memo|a line] from my [colleague|boss|neighbour]: {t} [Could|Can] you "
        "make JSON with {k} of it?"
    ),
    "A customer wrote [this|us this|the following]: {t} Our system wants {k} as JSON.",
    (
        "[Emit|Produce|Generate] [a single|one] JSON object whose [keys|properties|members] are "
        "{k}. [Facts|Data]: {t}"
    ),
    "My script [chokes on|cannot read|does not understand] prose. {t} Make it JSON with {k}.",
    "[No prose|No chatter|No explanations], [just|only] JSON with {k}: {t}",
    "{t} Now [express|write|put] this as a [machine-readable|structured] JSON record with {k}.",
    "So, {t} Anyway, what would that look like as JSON with {k}?",
    (
        "I [jotted|scribbled|noted] [this |something |]down in a hurry: {t} [Tidy|Clean] it up "
        "into JSON with fields {k}."
    ),
    (
        "[Populate|Complete|Fill] a JSON structure ({k}) from [this passage|these lines|this "
        "snippet].\n{t}"
    ),
    "Structure wanted: JSON with {k}. Material: {t}",
    "json pls, {k}\n{t}",
    "{k} -> JSON\n{t}",
    "{t} -> JSON [using|with] {k}",
    (
        "Could you [be so kind as to |]read [the sentence|the text|what follows] and return JSON "
        "containing {k}? {t}"
    ),
    (
        "Would you mind [turning|making|converting] this into JSON for me? I only [need|care "
        "about|want] {k}. {t}"
    ),
    "I'd be grateful for a JSON object with {k}, drawn from the following: {t}",
    (
        "[Hi|Hello|Hey], I have [some|a bit of] text here. {t} [I must|I need to|I have to] send "
        "{k} to an API, so JSON please."
    ),
    (
        "The API [expects|accepts|takes] a JSON body with {k}. [Build|Prepare|Assemble] it from "
        "this: {t}"
    ),
    "Request body in JSON, please. Members: {k}. What we know: {t}",
    "[Take|Write] down this dictation as JSON with the entries {k}. {t}",
    "Dictation starts: {t} Dictation ends. [Save|Record|Capture] {k} in JSON.",
    'Voice memo: "{t}" Put {k} into a JSON object.',
    (
        '[Mail|E-mail|Email] [received|from this morning]: "{t}" [Distil|Boil down] {k} [into|to] '
        "JSON."
    ),
    "Subject: new entry\n\n{t}\n\nJSON fields: {k}",
    (
        "[Form|Card|Sheet] to fill: {k}. What [he|she|the client] said: {t} [Give|Hand] me the "
        "form as JSON."
    ),
    "[Identify|Spot|Locate] {k} in the text and [report|deliver|return] them as JSON. {t}",
    "{t} Which values do {k} have[ here|]? [Respond|Reply] [strictly |]in JSON.",
    "{t} Summarise that as JSON, attributes {k}, nothing [else|more].",
    (
        "Your [whole |]answer [must|should|has to] be one JSON object with {k}. The [text|story|"
        "source] goes: {t}"
    ),
    "You [get|receive] a text and [give|send] back JSON with {k}. Text: {t}",
    "Act as a parser. Fields: {k}. Input: {t} [Answer|Output] in JSON.",
    "Do an extraction for me: {k}, [in|as] JSON, from this. {t}",
    "Information extraction. Attributes {k}. Format JSON. Passage: {t}",
    "[Map|Translate] [this statement|these sentences|the remark] [to|into] JSON under {k}: {t}",
    "Please [store|keep|file] this as a JSON entry with {k}. {t}",
    (
        "{t} I want to [store|insert|save] this in a [table|document store|collection]; give me "
        "{k} as JSON."
    ),
    "For the [spreadsheet|catalogue|registry|archive] I need {k} in JSON format. {t}",
    (
        "We are [digitising|typing up|scanning] old [cards|files|records]. This one reads: {t} "
        "JSON with {k}, please."
    ),
    "[Rewrite|Restate|Reformat] this as a JSON object and keep [just|only] {k}: {t}",
    "[Leave out|Drop|Ignore] everything except {k} and [write|print] JSON: {t}",
    "Of all this I only want {k}, [in|as] JSON. {t}",
    "Nothing but {k}, [formatted|encoded|written] as JSON, please. {t}",
    "{t} [Just|Simply] {k} please, JSON [format|style|notation].",
    "What is the JSON for this if the [keys|names] are {k}? {t}",
    (
        "How would you [write|express|model] this in JSON, with {k} as the [keys|attributes|field "
        "names]? {t}"
    ),
    "{t} How does this look in JSON when I need {k}?",
    "[Compose|Craft|Draft] [some |]JSON from these facts. Include {k} and nothing further. {t}",
    "Make me a [little|small|tiny] JSON object out of this, with {k}: {t}",
    "[Collect|Gather|Assemble] {k} from what I [say|tell you] now, and [give|return] JSON. {t}",
    "Listen: {t} Got it? Then JSON with {k}.",
    "Read carefully. {t} Now [output|print|type] the JSON object with {k}.",
    "Okay, here it comes. {t} I want {k} from that, as JSON.",
    "Somebody left this on my desk: {t} Can you get {k} out of it, in JSON?",
    "I [found|saw|read] this [online|in a leaflet|on a poster]: {t} Save {k} as JSON, would you?",
    "{t}\nThat was the note. Please answer with a JSON object: {k}.",
    "{t}\n---\nJSON ({k})",
    "Text below, JSON wanted, with {k}.\n\n{t}",
    (
        "Below is a [record|report|description|message].\n\n{t}\n\nWhat I need is a JSON object "
        "with {k}."
    ),
    "### Text\n{t}\n### Fields\n{k}\n### JSON",
    "Task: JSON extraction\nFields: {k}\nSentence(s): {t}",
    "INPUT: {t}\nKEYS: {k}\nFORMAT: JSON",
    "[Format|Output format]: JSON object. Attributes: {k}. [Content|Body]: {t}",
    "Use {k} as keys and [make|build|form] a JSON object [of|from] this: {t}",
    "With {k} as property names, [encode|describe|capture] this in JSON: {t}",
    "Using only the [properties|attributes|labels] {k}, [turn|convert] this [into|to] JSON. {t}",
    "Taking {k} as the field names, [write|give] the JSON that [describes|fits|matches] this: {t}",
    "Under the [headings|labels|names] {k}, [arrange|sort|organise] this as JSON: {t}",
    "[Organise|Organize|Arrange] these facts in a JSON object, one entry each for {k}. {t}",
    "Each of {k} should [become|be] an entry in the JSON object. The facts: {t}",
    "The JSON object [must|should] have exactly {k}. Get the values [from|out of] here: {t}",
    (
        "Get the values for {k} from [the text|this text|these words] and [wrap|pack] them in "
        "JSON. {t}"
    ),
    "[Look up|Find|Pick out] {k} in this [paragraph|piece|fragment]; JSON, no comments. {t}",
    "[Scan|Search|Go through] this for {k}. JSON only. {t}",
    "[Skim|Study|Examine] the [lines|sentences] and [note|list] {k} as JSON key-value pairs: {t}",
    "Key-value pairs for {k}, in JSON. {t}",
    "I need key-value pairs (JSON) for {k}. {t}",
    "{t} I need a JSON dictionary with {k} from this.",
    "Dictionary in JSON with {k}, based on the following. {t}",
    "Make a dict, I mean a JSON object, with {k} out of: {t}",
    "{t} Please [structure|sort out|break down] this: {k}, JSON.",
    "[Break|Split] this [down|up] into {k} and [show|send] me the JSON. {t}",
    "Dear assistant, kindly [provide|furnish|supply] {k} in JSON from the text that follows. {t}",
    "I [hereby |]request a JSON object [containing|comprising|listing] {k}. The source is: {t}",
    "It would help me a lot to have {k} as JSON. {t}",
    "My [teacher|manager|client|editor] wants JSON with {k}. The text is [this|as follows]: {t}",
    "For [homework|an exercise|a workshop] I must write this as JSON with {k}: {t}",
    "I am [testing|debugging|feeding] an [importer|endpoint|app] and need JSON with {k}. {t}",
    (
        "We [load|import] JSON [every night|at midnight]. [Our|The] loader needs {k}. Today's "
        "[item|text]: {t}"
    ),
    (
        "The [frontend|backend|server|widget] will [parse|read] your answer, so only JSON with "
        "{k}. {t}"
    ),
    "A [robot|program|machine] reads your reply. So: JSON, {k}, nothing around it. {t}",
    "Don't [explain|comment|chat], [just |]give JSON. Wanted: {k}. {t}",
    "No [markdown|greeting|introduction], please. A bare JSON object with {k}. {t}",
    "Skip the [small talk|pleasantries|commentary] and return JSON: {k}. {t}",
    "Raw JSON, please. {t} Fields are {k}.",
    "Valid JSON, [please|thanks], with {k}: {t}",
    "I want [valid|clean|proper|well-formed] JSON that [holds|has|carries] {k}. {t}",
    "Strict JSON. Keys [spelled|written] just like this: {k}. {t}",
    "Spell the keys exactly so: {k}. Then [make|write] JSON from: {t}",
    "{t} Key names: {k}. Answer type: JSON object.",
    "{t} Return type JSON, members {k}.",
    "{t} JSON. {k}.",
    "{t} JSON? I need {k}.",
    "{k} as JSON: {t}",
    "{k} in a JSON object, from: {t}",
    "{k}, JSON, go: {t}",
    "{k}? Answer in JSON. {t}",
    "{k} from here, JSON please.\n{t}",
    "[Need|Want] JSON, {k}: {t}",
    "json with {k} from this: {t}",
    "please json this. fields {k}. {t}",
    "can u make json with {k}: {t}",
    "{t} can you do json for me, with {k}? thx",
    "Please to make JSON with the fields {k} from my text: {t}",
    "I have text, I need JSON. [Fields|Keys] is {k}. Text is: {t}",
    "How can I have {k} like JSON from this text? {t}",
    "Make for me JSON, there must be {k} inside. {t}",
    "This text [contains|hides|mentions] {k}. [Dig|Fish] them out and give JSON. {t}",
    "Somewhere in [here|this] there is {k}. [Extract|Retrieve] it as JSON: {t}",
    "[Here|There] you go: {t} [See|Check] what you can find about {k} and put it in JSON.",
    "Tell me {k}, but in JSON, not in words. {t}",
    "Tell me in JSON what the text says about {k}: {t}",
    "What does this say about {k}? I'd like [the answer|that] as a JSON object. {t}",
    "In JSON, what are {k} according to this [note|witness|letter]? {t}",
    "According to [the file|our notes|the log]: {t} State {k} in JSON.",
    "A [friend|guest|visitor|caller] told me: {t} [Log|Register|Enter] that as JSON with {k}.",
    "On the phone I heard: {t} Log entry in JSON, please, with {k}.",
    "[Chat|SMS|Text message]: {t} [Condense|Compress] it to JSON, keeping {k}.",
    "Diary: {t} Turn today's page into a JSON record with {k}.",
    'From the [newspaper|bulletin|newsletter]: "{t}" JSON attributes needed: {k}.',
    'Quote: "{t}" [Render|Represent] it in JSON with {k}.',
    'Given the [statement|facts|description] "{t}", [return|give] a JSON object with {k}.',
    "Given {k} as keys and the text below, [construct|create|compile] JSON.\n{t}",
    "Given this: {t} Wanted: JSON with {k}.",
    "If I tell you this: {t} then what JSON with {k} would you [write|send]?",
    "Suppose a [form|page|dialog] has the fields {k}. Fill it with JSON from this: {t}",
    "Imagine a [table|class|struct] with the columns {k}. One row, as JSON, from this: {t}",
    "One row of data, JSON, with columns {k}. {t}",
    "Columns: {k}. Make a JSON row. {t}",
    "A JSON row with {k}, made from this [remark|sentence|line]: {t}",
    "[Model|Picture|Describe] this as a JSON object. Its attributes are {k}. {t}",
    "Describe what I say as an object in JSON notation with {k}. {t}",
    "{t} Object notation, please (JSON), attributes {k}.",
    "{t} Turn [it|this|that] into an object. JSON. Entries: {k}.",
    "{t} As an object with the properties {k}, that is what in JSON?",
    "{t} And now the same in JSON, but only {k}.",
    "{t} The same, [please|but] as JSON with {k}.",
    "{t} That is for the [records|archive|files]. JSON, fields {k}, thank you.",
    "{t} I'm building a [website|catalogue|dashboard], so I'd love {k} as JSON.",
    "{t} [Ship|Send|Forward] {k} to me in JSON.",
    "{t} Fetch {k} from the above and return pure JSON.",
    "{t} From the [text|words|lines] above, compile {k} as a JSON object.",
    "{t} Above you see a text. JSON object with {k}, please.",
    "{t} [Grab|Snatch] {k} from it. JSON will do.",
    "{t} Jot {k} down in JSON.",
    "{t} This needs to be JSON by now. It has to include {k}.",
    "{t} Everything about {k} into JSON, please.",
    "{t}\nReply with JSON. Required: {k}.",
    "{t}\nRequired attributes: {k}. Required format: JSON.",
    "{t}\n\nExtract: {k}\nAs: JSON",
    "{t}\n\nPlease respond with an object (JSON) that has {k}.",
    "{t}\nCould I get that as JSON? Just {k}, nothing fancy.",
    "{t}\nmake it json, i only want {k}",
    "From: office\nMessage: {t}\nTo do: JSON with {k}",
    "Customer file. {t} Update our records: JSON, {k}.",
    "[Ticket|Case|Entry] text: {t} Emit {k} as JSON for the [tracker|queue|pipeline].",
    "Pipeline step: read text, emit JSON with {k}. Text: {t}",
    "Normalise this to JSON ({k}): {t}",
    "Annotate this. I expect a JSON object with {k}. {t}",
    "Please index the following [item|piece]. Index fields are {k}, format is JSON. {t}",
    "Label the facts with {k} and give them back in JSON. {t}",
    "[Type|Write] this up for me as a JSON record, would you? It has the fields {k}. {t}",
    "Be a good [clerk|secretary|typist] and enter this as JSON with {k}. {t}",
    "I'm too lazy to type JSON. {t} Do it for me, with {k}.",
    "I am bad at JSON. Could you write {k} for this one? {t}",
    "Sorry to bother you again. JSON with {k}, please, for: {t}",
    "Next one. JSON with {k}. {t}",
    "Another text, [same|again] JSON. The keys are now {k}. {t}",
    "Quick one: {k} to JSON. {t}",
)

# {t} the items.
LISTS: tuple[str, ...] = (
    "[Turn|Convert|Change|Make] this [list |enumeration |]into a JSON array: {t}",
    "{t} [Write|Put|Give me|Return] [that|this|these] as a JSON [array|list].",
    "JSON array of these[ things| items|]: {t}",
    "[Please |]list these as a JSON array of strings: {t}",
    "As a JSON list: {t}",
    "Shopping list: {t} JSON array, please.",
    (
        "I [have|own|bought|packed] {t} [Make|Create|Build] a JSON array of [that|my things|the "
        "items]."
    ),
    (
        "[We need|My basket holds|On the table are] {t} Could you [write|type] the items as a "
        "JSON array?"
    ),
    "[Split|Break|Cut] this up into a JSON array of strings. {t}",
    "Items: {t}\nFormat: JSON array",
    "{t}\n\nAs JSON array, [please|thanks].",
    "{t}\nGive me a JSON list with one [string|entry|element] per item.",
    "[Parse|Read] the enumeration and [emit|return|output] a JSON array. {t}",
    (
        "My [script|program|app|parser] [wants|needs|expects] a JSON array. The [items|elements|"
        "things] are {t}"
    ),
    "[Serialise|Serialize|Encode] as JSON array: {t}",
    "Array in JSON with {t}",
    "[Only|Just|Nothing but] a JSON array, please. [Content|Contents|Elements]: {t}",
    "No words around it, just the JSON array. {t}",
    "How do I write this as a JSON array? {t}",
    "How would this [list|line] [look|be written] as a JSON array? {t}",
    "What is the JSON array for these? {t}",
    "Can you [put|pack|wrap] these [items|words|nouns] in a JSON array? {t}",
    "Could I have a JSON list of the following: {t}",
    "Would you [kindly |]make a JSON array out of this line? {t}",
    "Make me a JSON array. It [contains|has|includes] {t}",
    "The [box|drawer|shelf|bag] contains {t} [Record|Store|Save] this as a JSON list.",
    "Inventory: {t} [Export|Output] it as a JSON array.",
    (
        "[Extract|Collect|Gather] [all|every one of] the [things|items|objects] named here in a "
        "JSON array: {t}"
    ),
    "In my note it says {t} JSON list of [what is|the things] in there?",
    "[Mum|The boss|My aunt] wrote: {t} I need it as a JSON array for an app.",
    "For the API I need a JSON array with {t}",
    "The request [takes|accepts] a JSON list. Here is what goes in: {t}",
    "[Separate|Divide] the items and [return|print] them as JSON strings in an array: {t}",
    "Please to give JSON array from this: {t}",
    "json array: {t}",
    "json list pls: {t}",
    "array please (json)\n{t}",
    "{t} as json array",
    "{t} -> JSON array",
    "{t} JSON list?",
    "{t} Now the same as a JSON array.",
    "{t} Put each of them in a JSON array, in the same order.",
    "{t} Keep the order and [write|produce] a JSON array.",
    "{t} Every item should be a string in a JSON array.",
    "{t} [Format|Reformat|Rewrite] this sequence as a JSON array of strings.",
    (
        "{t} I'd like to [load|import|paste] this into my program, so a JSON array would be "
        "[great|lovely|nice]."
    ),
    "{t} That was my list. May I have it in JSON?",
    "{t} Return these as JSON, as a plain list.",
    "[Dictating now|Take this down]: {t} Answer with the JSON array.",
    "[Things|Stuff] to [bring|fetch|sell|order]: {t} Please [hand|send] me a JSON array.",
    "I can see {t} [Note|Write] these down as a JSON list.",
    "Words: {t} Output: one JSON array.",
    "Input: {t} Expected: JSON array of strings.",
    "Here is a [comma-separated|written] list, make it JSON: {t}",
    "Translate this enumeration into JSON array syntax. {t}",
    "Represent the [collection|set|series] as a JSON list. {t}",
    "Compile a JSON array from [this|the following|what I name]: {t}",
    "I will name some things: {t} Reply with them in a JSON array.",
    "Turn my packing list to JSON (an array). {t}",
    "Text with several items follows, JSON array wanted.\n{t}",
    "[Tags|Keywords|Labels] for the [article|picture|page]: {t} JSON array, no prose.",
    "The database column holds a JSON list. Fill it with {t}",
    "Which JSON array holds exactly these [elements|values|entries]? {t}",
    "Enumerate in JSON, array form: {t}",
    "Please structure this as an array in JSON. {t}",
    "Jot these down, JSON array [style|notation|format]: {t}",
)
