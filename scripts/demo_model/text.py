"""Plain English from Debian packages: paragraphs, and the definitions of WordNet.

Only packages whose licences allow distributing a model trained on them with a notice:

    wordnet-base, wordnet-sense-index   WordNet 3.0 licence (any purpose, with the notice)
    python3.11-doc   PSF licence
    jargon-text      public domain
    gnome-user-docs  CC-BY-SA 3.0

``download`` needs ``apt-get`` and ``dpkg-deb``; the rest reads the unpacked folders.
"""

from __future__ import annotations

import gzip
import random
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from scripts.demo_model.tasks import Definition

PACKAGES = (
    "wordnet-base",
    "wordnet-sense-index",
    "python3.11-doc",
    "jargon-text",
    "gnome-user-docs",
)
KINDS = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
_FILES = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
_PLAIN = re.compile(r"[A-Za-z0-9 ,.;:'\"()?!/%+*=<>_\[\]{}#@$&~^`|\\-]+")
_KEPT_TAGS = ("p", "dd", "li")
# Hacker slang and example sentences have some words that a demo should not repeat.
_UNWANTED = re.compile(
    r"\b(sex|rape|incest|kill|murder|nazi|damn|fuck|shit|slut|negro|whore|bitch|penis|vagina|nude|"
    r"naked|suicide|slave|drunk|drug|crap|lesbian|gay|jew|god|hell|breast|terroris|genocid)",
    re.IGNORECASE,
)


def download(folder: Path) -> dict[str, str]:
    """Download and unpack the packages into ``folder/x``; return their versions."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package in PACKAGES:
        found = sorted(folder.glob(f"{package}_*.deb"))
        if not found:
            subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
            found = sorted(folder.glob(f"{package}_*.deb"))
        target = folder / "x" / package
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(found[0]), str(target)], check=True)
        versions[package] = found[0].name.split("_")[1].replace("%3a", ":")
    return versions


def paragraphs(folder: Path) -> Iterator[str]:
    """Return all paragraphs of the packages in a fixed order, each in one line."""
    root = folder / "x"
    for source in (_gnome(root), _python(root), _jargon(root), _examples(root), _glosses(root)):
        for paragraph in source:
            line = " ".join(paragraph.split())
            if len(line) < 40 or not line[0].isupper() or not _PLAIN.fullmatch(line):
                continue
            if not _UNWANTED.search(line):
                yield line


def _gnome(root: Path) -> Iterator[str]:
    pages = root / "gnome-user-docs" / "usr/share/help/C"
    for page in sorted(pages.rglob("*.page")):
        for element in ElementTree.parse(page).iter():
            if element.tag.endswith("}p"):
                yield "".join(element.itertext())


class _Paragraphs(HTMLParser):
    """Parser that collects the text of paragraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self._open: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _KEPT_TAGS:
            self._open = []

    def handle_endtag(self, tag: str) -> None:
        if tag in _KEPT_TAGS and self._open is not None:
            self.done.append("".join(self._open))
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)


def _python(root: Path) -> Iterator[str]:
    pages = root / "python3.11-doc" / "usr/share/doc/python3.11/html"
    for chapter in ("tutorial", "faq", "howto", "reference", "using", "library"):
        for page in sorted((pages / chapter).glob("*.html")):
            parser = _Paragraphs()
            parser.feed(page.read_text(encoding="utf-8"))
            yield from (
                text.replace("\u2019", "'")
                .replace("\u201c", '"')
                .replace("\u201d", '"')
                .replace("\u2014", "-")
                .replace("\u00b6", "")
                for text in parser.done
            )


def _jargon(root: Path) -> Iterator[str]:
    path = root / "jargon-text" / "usr/share/doc/jargon-text/jargon.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        yield from file.read().split("\n\n")


def _examples(root: Path) -> Iterator[str]:
    """Return example sentences of WordNet, five per paragraph."""
    found = []
    for kind in ("noun", "verb", "adj", "adv"):
        for _, _, gloss in _synsets(root, kind):
            for example in re.findall(r'"([^"]+)"', gloss):
                if example.count(" ") >= 3 and not _UNWANTED.search(example):
                    found.append(example[0].upper() + example[1:].rstrip(".") + ".")
    random.Random(0).shuffle(found)
    for start in range(0, len(found), 5):
        yield " ".join(found[start : start + 5])


def _glosses(root: Path) -> Iterator[str]:
    """Return words with glosses, as lines of a dictionary, five per paragraph."""
    found = []
    for kind in ("noun", "verb", "adj", "adv"):
        for _, words, gloss in _synsets(root, kind):
            meaning = gloss.split('"')[0].strip("; ")
            word = words[0].split("(")[0].replace("_", " ")
            if not _UNWANTED.search(gloss + word):
                found.append(f"{word[0].upper()}{word[1:]}: {meaning}.")
    random.Random(1).shuffle(found)
    for start in range(0, len(found), 5):
        yield " ".join(found[start : start + 5])


def _synsets(root: Path, kind: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield offset, words and gloss of each synset of a part of speech."""
    path = root / "wordnet-base" / "usr/share/wordnet" / f"data.{kind}"
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("  "):
                continue
            data, gloss = line.split(" | ", 1)
            fields = data.split()
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            yield fields[0], words, gloss.strip()


def definitions(folder: Path, most: int = 3000) -> list[Definition]:
    """Return the most common words with their first sense, by WordNet's tag counts."""
    root = folder / "x"
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    path = root / "wordnet-sense-index" / "usr/share/wordnet/index.sense"
    for line in path.read_text(encoding="utf-8").splitlines():
        key, offset, sense, count = line.split()
        word, rest = key.split("%")
        if sense == "1" and word.isalpha() and len(word) >= 3 and word.isascii():
            counts[word, rest[0]] = (int(count), offset)
    best: dict[str, tuple[int, str, str]] = {}
    for (word, kind), (count, offset) in counts.items():
        if count > best.get(word, (0, "", ""))[0]:
            best[word] = (count, kind, offset)
    glosses = {
        (kind, offset): gloss
        for kind in set(_FILES.values())
        for offset, _, gloss in _synsets(root, kind)
    }
    entries = []
    for word, (_, kind, offset) in sorted(best.items(), key=lambda item: (-item[1][0], item[0])):
        entry = _definition(word, KINDS[kind], glosses[_FILES[kind], offset])
        if entry is not None:
            entries.append(entry)
    return entries[:most]


def _definition(word: str, kind: str, gloss: str) -> Definition | None:
    meaning = re.sub(r"\([^)]*\)", "", gloss.split('"')[0]).strip("; ").split(";")[0].strip()
    example = re.findall(r'"([^"]+)"', gloss)
    meaning = " ".join(meaning.split())
    if not 3 <= meaning.count(" ") + 1 <= 20 or not _PLAIN.fullmatch(meaning):
        return None
    if _UNWANTED.search(f"{word} {gloss}"):
        return None
    shown = next((e for e in example if word in e.lower() and 20 <= len(e) <= 90), "")
    return Definition(word, kind, meaning, shown)
