"""Short exchanges without tools: greetings, small arithmetic, copying, definitions."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.demo_model.corpus import table
from scripts.demo_model.patterns import expand
from scripts.demo_model.split import kept_for_judging
from scripts.demo_model.words import Words, plural

SELF = (
    "I am a small demo model of flash_moe. I can call tools, answer in JSON and talk a little.",
    "I am the demo model of flash_moe, a small mixture of experts.",
    "I am a very small language model. I was trained to call tools.",
)
# Questions and answers; both are patterns.
CHAT = tuple(table("chat.toml", dict[str, str]).items())
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday".split()
SUMS: tuple[tuple[str, str], ...] = (
    ("[What is|How much is|] {a} + {b}[?| =]", "{a} + {b} = {sum}"),
    ("[What is|How much is] {a} plus {b}?", "{a} plus {b} is {sum}."),
    ("[What is|How much is|] {sum} - {a}[?| =]", "{sum} - {a} = {b}"),
    ("[What is|How much is] {sum} minus {b}?", "{sum} minus {b} is {a}."),
    ("[What is|How much is|] {a} * {b}[?| =]", "{a} * {b} = {product}"),
    ("[What is|How much is] {a} times {b}?", "{a} times {b} is {product}."),
)
DEFINE = (
    "What is [a|an|the|] {w}?",
    "[Define|Explain] {w}[.|]",
    'What does "{w}" mean?',
    "What does [the word |]{w} mean?",
    "[Explain|Tell me] what {w} means.",
    "Meaning of {w}[?|]",
)


@dataclass(frozen=True)
class Definition:
    """Word, part of speech (noun, verb, adjective, adverb), gloss, and an example or ""."""

    word: str
    kind: str
    gloss: str
    example: str


def chat(words: Words) -> tuple[str, str]:
    """Draw a question and its answer."""
    rng = words.rng
    question, answer = rng.choice(CHAT)
    first, day = rng.randint(1, 90), rng.randrange(7)
    nouns = rng.sample([words.noun() for _ in range(9)], 2)
    slots = {
        "self": rng.choice(SELF),
        "name": words.name(),
        "name2": words.name(),
        "city": words.city(),
        "city2": words.city(),
        "noun": nouns[0],
        "noun2": nouns[1],
        "nouns": plural(nouns[0]),
        "text": words.sentence(),
        "code": words.code(),
        "code2": words.code(),
        "pseudo": words.pseudo(),
        "pseudo2": words.pseudo(),
        "adjective": rng.choice(("old", "new", "green", "small")),
        "day": _DAYS[day],
        "day2": _DAYS[day + 1],
        "n": str(first),
        "n1": str(first + 1),
        "n2": str(first + 2),
        "n3": str(first + 3),
    }
    asked = expand(question, rng, slots)
    return chat(words) if kept_for_judging(asked) else (asked, expand(answer, rng, slots))


def small_sum(words: Words) -> tuple[str, str]:
    """Draw arithmetic for answers without a tool: numbers up to 20."""
    rng = words.rng
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    question, answer = rng.choice(SUMS)
    slots = {"a": str(a), "b": str(b), "sum": str(a + b), "product": str(a * b)}
    return expand(question, rng, slots).strip(), expand(answer, rng, slots)


def definition(words: Words, definitions: Sequence[Definition]) -> tuple[str, str]:
    """Draw a question about a word, and its gloss as a sentence."""
    rng = words.rng
    entry = rng.choice(definitions)
    question = " ".join(expand(rng.choice(DEFINE), rng, {"w": entry.word}).split())
    gloss = entry.gloss
    if entry.kind == "noun":
        article = "An" if entry.word[0] in "aeiou" else "A"
        starts_like_noun = gloss.split()[0] in ("a", "an", "the", "any", "one")
        answer = (
            f"{article} {entry.word} is {gloss}."
            if starts_like_noun
            else (f"{entry.word.capitalize()} means {gloss}.")
        )
    elif entry.kind == "verb":
        answer = f"To {entry.word} means to {gloss}."
    else:
        answer = f"{entry.word.capitalize()} means {gloss}."
    if entry.example and rng.random() < 0.4:
        example = entry.example[0].upper() + entry.example[1:]
        answer += f" Example: {example.rstrip('.')}."
    return question, answer
