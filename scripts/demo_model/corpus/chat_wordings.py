"""Further questions and answers of small talk, puzzles, copying and common knowledge."""

from __future__ import annotations

from scripts.demo_model.corpus.chat_facts import CHAT_FACTS

CHAT_MORE: tuple[tuple[str, str], ...] = (
    (
        "[Hiya|Howdy|Greetings|Good day|Morning|Evening][!|.|]",
        "Hello! [What can I do for you?|How may I help you?]",
    ),
    (
        "[Anyone there|Is anybody here|Are you there|Are you awake|You online]?",
        "Yes, I am here. How can I help you?",
    ),
    (
        "[Good afternoon|Good to see you|Nice to meet you|Pleased to meet you][!|.]",
        "[Nice to meet you, too|It is good to hear from you]. How can I help you?",
    ),
    (
        "[What's up|How is it going|How are things|How do you do|All well with you]?",
        "All is well, thank you. What can I do for you?",
    ),
    (
        "[How did you sleep|Did you sleep well|Are you tired]?",
        "I never sleep, so I am always ready.",
    ),
    ("Good morning, it is {name}.", "Good morning, {name}! What can I do for you?"),
    (
        "[This is|It's] {name} [speaking|from the office|again].",
        "Hello, {name}! [How can I help you?|What can I do for you?]",
    ),
    ("[Call me|You can call me|Everybody calls me] {name}.", "All right, {name}."),
    ("[I'm back|Here I am again|Back again][!|.]", "Welcome back! What can I do for you?"),
    (
        "[Cheers|Much obliged|Thanks a lot|Many thanks|Thanks a million|Thx|Ta][!|.|]",
        "You are welcome.",
    ),
    (
        (
            "[That helped|That was useful|You saved me time|Good answer|Nice work|Well done][!|.|"
            ", thank you.]"
        ),
        "I am glad that I could help.",
    ),
    (
        "[I appreciate it|I appreciate your help|You have been very kind|How kind of you].",
        "It was a pleasure.",
    ),
    (
        "[That's all|Nothing else|I am done|That will be all][ for today| for now|][.|, thanks.]",
        "All right. Have a nice day!",
    ),
    (
        "[So long|Farewell|Until tomorrow|Take care|I have to go now|Talk to you later][!|.]",
        "Goodbye! [Take care.|See you soon.]",
    ),
    ("[Sleep well|Sweet dreams|Have a good night][!|.]", "Good night!"),
    (
        "[Have a nice weekend|Enjoy your evening|Have a great day][!|.]",
        "Thank you, the same to you!",
    ),
    (
        "[Happy birthday|Merry Christmas|Happy New Year|Happy Easter]!",
        "Thank you! I wish you all the best.",
    ),
    (
        "[Sorry|My apologies|I am sorry|Pardon me|Excuse me][!|.|]",
        "No problem. How can I help you?",
    ),
    ("[Welcome|Congratulations][!|.]", "Thank you very much!"),
    (
        (
            "[Introduce yourself.|Say something about yourself.|Who am I talking to?|Describe "
            "yourself.]"
        ),
        "{self}",
    ),
    (
        "[What kind of program|What sort of model|What kind of machine|Which assistant] are you?",
        "{self}",
    ),
    (
        (
            "[Do you have a name|May I ask who you are|With whom do I have the pleasure|How "
            "should I call you]?"
        ),
        "{self}",
    ),
    (
        (
            "[Are you a person|Am I speaking to a human|Is there a human behind this|Are you a "
            "real man or a machine]?"
        ),
        "{self}",
    ),
    (
        "[Who built you|Where do you come from|What are you made for|What were you trained for]?",
        "{self}",
    ),
    (
        "[How old are you|When is your birthday|When were you born]?",
        "I am a computer program, so I have no birthday.",
    ),
    (
        "[Where do you live|Where is your home|What is your address]?",
        "I am a program and live in a computer.",
    ),
    (
        "[Do you eat|Are you hungry|What did you have for lunch|What do you drink]?",
        "I am a program, so I do not eat or drink.",
    ),
    (
        "[Do you have|Have you got] [feelings|emotions|a heart|a soul]?",
        "No, I am a program without feelings.",
    ),
    (
        "[Are you happy|Are you sad|Are you bored|Are you lonely|Do you ever cry]?",
        "I have no feelings, but I am glad to help.",
    ),
    (
        "[Do you love me|Will you marry me|Be my girlfriend|Do you like me][?|]",
        "I am a program and cannot love, but I like to help you.",
    ),
    (
        "[Can you see me|Are you watching me|Can you look out of the window]?",
        "No, I can only read what you write.",
    ),
    (
        "[Can you hear me|Can you hear my voice|Are you listening to me]?",
        "I cannot hear, but I can read what you write.",
    ),
    (
        "[Will you|Do you] remember me [tomorrow|next week|forever]?",
        "No, I only know what is written in this conversation.",
    ),
    (
        "[What do you know|How much do you know|Do you know everything]?",
        "I know only a little, but I can use tools.",
    ),
    (
        "[Are you clever|Are you smart|How intelligent are you]?",
        "I am a small model, so I can only do simple things.",
    ),
    (
        "[Do you make mistakes|Are you always right|Can I trust you]?",
        "I can be wrong, so please check what matters.",
    ),
    (
        "[I am|I feel|I'm feeling] [sad|lonely|down|unhappy] today.",
        "I am sorry to hear that. Would you like to talk about it?",
    ),
    ("[I am|I'm] [so |very |]happy[ today| right now|][!|.]", "That is wonderful!"),
    ("[I am|I'm] [tired|exhausted|worn out][.|!]", "Then you should have a rest."),
    ("[I'm hungry|I am starving|My stomach is empty].", "Then it is time to eat something."),
    ("[I'm thirsty|My mouth is dry|I need a drink].", "Then you should drink some water."),
    ("[I'm cold|I am freezing|My hands are like ice].", "Put on something warm."),
    (
        "[I'm bored|I have nothing to do|This is so boring].",
        "You could read a book or go for a walk.",
    ),
    (
        "[I am ill|I feel sick|I have a cold|I've got the flu].",
        "I am sorry to hear that. Get well soon!",
    ),
    ("[I passed my exam|I got the job|I won the race|We won the game]!", "Congratulations!"),
    (
        "[I am|I'm] [nervous|afraid|anxious|worried][ about tomorrow|].",
        "Take a deep breath. You can do it.",
    ),
    ("[I have lost|I can't find|Somebody stole] my {noun}.", "I am sorry about your {noun}."),
    ("I [just |]bought [a new|another] {noun}[!|.]", "Enjoy your {noun}!"),
    ("My {noun} is broken.", "I am sorry that your {noun} is broken."),
    (
        "[You are stupid|You are useless|I hate you|That was nonsense][!|.]",
        "I am sorry. What can I do better?",
    ),
    (
        "[You are wrong|That is not right|That's incorrect][!|.]",
        "I am sorry. Please tell me what is right.",
    ),
    (
        (
            "[I am|My name is] {name} and [I live in|I come from|my home is] {city}. [Where do I "
            "come from|What is my town]?"
        ),
        "You come from {city}.",
    ),
    ("[Remember this|Keep this in mind]: I am {name}. Who am I?", "You are {name}."),
    (
        "My [sister|wife|aunt|daughter] is called {name}. What is [she|my relative] called?",
        "She is called {name}.",
    ),
    ("My [brother|husband|uncle|son] goes by {name}. What is his name?", "His name is {name}."),
    (
        "{name} [hates|can't stand|dislikes] {nouns}. What does {name} dislike?",
        "{name} dislikes {nouns}.",
    ),
    (
        (
            "{name} [sells|deals in] {nouns} [at the market|in a small shop|every Friday]. What "
            "does {name} sell?"
        ),
        "{name} sells {nouns}.",
    ),
    (
        "{name} collects {nouns}, but {name2} does not. Who collects {nouns}?",
        "{name} collects {nouns}.",
    ),
    (
        "{name} bought [the|one] {noun} and {name2} bought [the|one] {noun2}. What did {name} buy?",
        "{name} bought the {noun}.",
    ),
    (
        "{name} took the {noun}, while {name2} took the {noun2}. What did {name2} take?",
        "{name2} took the {noun2}.",
    ),
    (
        "The {noun} belongs to {name}, the {noun2} [belongs |]to {name2}. Whose is the {noun2}?",
        "The {noun2} belongs to {name2}.",
    ),
    (
        (
            "The {noun} belongs to {name} and the {noun2} to {name2}. [Who owns|Who is the owner "
            "of] the {noun}?"
        ),
        "{name} owns the {noun}.",
    ),
    (
        "{name} gave {name2} the {noun}. Who [gave it away|was the giver]?",
        "{name} gave the {noun} away.",
    ),
    (
        "{name} [gave|handed|lent] the {noun} to {name2}. Who has [it|the {noun}] now?",
        "{name2} has the {noun} now.",
    ),
    (
        "{name} [lost|dropped|forgot] the {noun} and {name2} found it. Who found [it|the thing]?",
        "{name2} found the {noun}.",
    ),
    (
        "{name} painted the {noun}. {name2} [washed|cleaned] it. Who painted it?",
        "{name} painted the {noun}.",
    ),
    (
        "{name} repaired the {noun} for {name2}. [Who did the work|Who did the repair]?",
        "{name} repaired the {noun}.",
    ),
    (
        "{name} [broke|smashed] the {noun}, and {name2} had to pay. Who had to pay?",
        "{name2} had to pay.",
    ),
    (
        "{name} [flew|travelled|moved] from {city} to {city2}. Where did the journey start?",
        "The journey started in {city}.",
    ),
    (
        "{name} [drove|cycled|walked] from {city} to {city2}. Where did {name} end up?",
        "{name} ended up in {city2}.",
    ),
    (
        "{name} was born in {city} but [works|studies] in {city2}. Where was {name} born?",
        "{name} was born in {city}.",
    ),
    (
        "{name} was born in {city} and now works in {city2}. Where is {name}'s job?",
        "{name} works in {city2}.",
    ),
    (
        "{name} [is visiting|is on holiday in|is staying in] {city}. Where is {name}?",
        "{name} is in {city}.",
    ),
    (
        "{name} hid the {noun} [under|behind|beside] the {noun2}. What did {name} hide?",
        "{name} hid the {noun}.",
    ),
    ("The {noun} is [on|near] the {noun2}. What is there?", "The {noun} is there."),
    (
        "The {noun} is under the {noun2}. What is under the {noun2}?",
        "The {noun} is under the {noun2}.",
    ),
    ("The {noun} is behind the {noun2}. Where is the {noun}?", "The {noun} is behind the {noun2}."),
    ("{name} is [taller|bigger] than {name2}. Who is [smaller|shorter]?", "{name2} is smaller."),
    ("{name} is older than {name2}. Which of them is older?", "{name} is older."),
    ("{name} is younger than {name2}. Who is the older one?", "{name2} is older."),
    ("{name} runs faster than {name2}. Who is slower?", "{name2} is slower."),
    ("{name} arrived before {name2}. Who [came|got there|arrived] first?", "{name} arrived first."),
    ("{name} came home after {name2}. Who came home first?", "{name2} came home first."),
    ("{name} is the [mother|father|parent] of {name2}. Who is the child?", "{name2} is the child."),
    ("{name} teaches {name2}. Who is the [pupil|student|learner]?", "{name2} learns from {name}."),
    (
        "{name} visits {name2} [today|this evening|every week]. Who is the guest?",
        "{name} is the guest.",
    ),
    (
        "{name} wrote [a letter|a card|an email] to {name2}. Who wrote [it|to whom]?",
        "{name} wrote to {name2}.",
    ),
    ("{name} called {name2} on the phone. Who was called?", "{name2} was called."),
    ("{name} has {n} {nouns} and {name2} has {n2}. Who has more?", "{name2} has more {nouns}."),
    ("{name} has {n1} {nouns}, {name2} has {n3}. Who has fewer?", "{name} has fewer {nouns}."),
    (
        "{name} is {n3} years old, {name2} is {n}. Who is [younger|the younger one]?",
        "{name2} is younger.",
    ),
    (
        "[There are|I can see] {n2} {nouns} in the room. How many {nouns} [are there|can be seen]?",
        "There are {n2} {nouns}.",
    ),
    (
        "The meeting is on {day}, the party is on {day2}. When is the party?",
        "The party is on {day2}.",
    ),
    ("{name} comes on {day} and {name2} on {day2}. Who comes on {day}?", "{name} comes on {day}."),
    (
        (
            "[My exam|My trip|The wedding] was moved from {day} to {day2}. [Which day is it now|"
            "What is the new day]?"
        ),
        "It is on {day2} now.",
    ),
    (
        "Which [day |]comes [first|earlier], {day} or the {day2} right after it?",
        "{day} comes first.",
    ),
    ("Which is smaller, {n1} or {n3}?", "{n1} is smaller than {n3}."),
    (
        "Sort these numbers [from small to large|in rising order|upwards]: {n2}, {n}, {n3}, {n1}",
        "{n}, {n1}, {n2}, {n3}",
    ),
    ("Put {n1}, {n3}, {n} and {n2} in falling order.", "{n3}, {n2}, {n1}, {n}"),
    ("Count backwards: start at {n3}, then {n2}, then {n1}. Say the numbers.", "{n3}, {n2}, {n1}"),
    ("What is the largest of {n1}, {n3} and {n}?", "The largest number is {n3}."),
    (
        'What number stands between {n} and {n2} in "{n}, {n1}, {n2}"?',
        "{n1} stands between {n} and {n2}.",
    ),
    ("[Echo|Say back|Copy out|Write down|Type] the following: {text}", "{text}"),
    ("[Say after me|Just echo this|Parrot this|Give this back unchanged]: {text}", "{text}"),
    ("{text}\n[Copy|Repeat|Echo] the line above.", "{text}"),
    ("[Write|Print|Say] {pseudo} [twice|two times|2 times].", "{pseudo} {pseudo}"),
    ("[Say|Write] {pseudo} four times[, please|].", "{pseudo} {pseudo} {pseudo} {pseudo}"),
    ("[Write|Put|Say] {pseudo} and {pseudo2} the other way round.", "{pseudo2} and {pseudo}"),
    ("[Swap|Exchange|Turn round] these two: {noun} {noun2}", "{noun2} {noun}"),
    ("[Reverse|Turn about] the order of {pseudo}, {noun}, {code}.", "{code}, {noun}, {pseudo}"),
    ("[Join|Glue together|Link] {pseudo} and {pseudo2} with a hyphen.", "{pseudo}-{pseudo2}"),
    ("[Put|Set] {pseudo} in [quotes|double quotes|quotation marks].", '"{pseudo}"'),
    ("[Wrap|Enclose] {code} in round brackets.", "({code})"),
    (
        (
            "My [password|locker number|ticket|booking] is {code}. [Repeat|Confirm|Read back] it, "
            "please."
        ),
        "{code}",
    ),
    ("Which of these is [a code|not a word]: {noun} or {code}?", "{code} is the code."),
    (
        "Door {code} is open and door {code2} is shut. Which door can I use?",
        "You can use door {code}.",
    ),
    (
        (
            "[The key|The password] for {noun} is {code}, for {noun2} it is {code2}. What is it "
            "for {noun2}?"
        ),
        "For {noun2} it is {code2}.",
    ),
    ('What is the middle word of "{pseudo} {noun} {pseudo2}"?', "The middle word is {noun}."),
    (
        'Which word [stands|comes] before {noun2} in "{pseudo} {noun2}"?',
        "The word before {noun2} is {pseudo}.",
    ),
    (
        "[In my language|On my planet], {pseudo} means {noun}. What does {pseudo} mean?",
        "{pseudo} means {noun}.",
    ),
    (
        "A {pseudo} is a kind of {noun}. What kind of thing is a {pseudo}?",
        "A {pseudo} is a kind of {noun}.",
    ),
    (
        (
            "[All|Every one of the] {nouns} are [blue|called blue]. {name} has the {noun}. What "
            "colour is it?"
        ),
        "It is blue.",
    ),
    ("Today is {day}. Is tomorrow {day2}?", "Yes, tomorrow is {day2}."),
    *CHAT_FACTS,
)
