"""Reading a short answer off a passage, relation by relation, with patterns and vocabulary."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from toolgym._util.text import MONTHS

__all__ = ["READERS", "first_name", "names"]

# General vocabulary, made from no data set.
_WORDS: Final[dict[str, Any]] = json.loads(
    resources.files(__package__).joinpath("vocabulary.json").read_text("utf-8")
)
OCCUPATIONS, GENRES, COLOURS, COUNTRIES = (
    tuple[str, ...](_WORDS[key]) for key in ("occupations", "genres", "colours", "countries")
)
OFFICES: Final[list[str]] = _WORDS["offices"]
"""Who holds one of these, and has no other occupation named, is a politician."""
SPORTS: Final[dict[str, list[str]]] = _WORDS["sports"]
"""Sport to the words that betray it."""
RELIGIONS: Final[dict[str, list[str]]] = _WORDS["religions"]
"""Religion to the words that betray it, the particular before the general."""
DEMONYMS: Final[dict[str, str]] = _WORDS["demonyms"]


_JOINING = frozenset([
    "of", "de", "la", "le", "les", "du", "des", "del", "della", "di", "da", "dos", "do", "van",
    "von", "der", "den", "zu", "am", "an", "im", "sur", "en", "upon", "on", "the", "el", "al",
    "bin", "ibn", "y", "e", "i", "los", "las", "sous", "près",
])  # fmt: skip
_WORD = re.compile(r"[^\W_][\w'’.&-]*|[,;:()–—\"“”/]|\S")
_TITLES = frozenset(("Mrs.", "Prof."))

FactReader = Callable[[str, str], str | None]


def first_name(text: str, begin: int = 0) -> str | None:
    """The capitalised span at a place, or None: ``Rio de Janeiro, Brazil`` gives the city.

    Args:
        text: a passage.
        begin: offset; blanks and an article there are passed over.
    """
    match = re.compile(r"\s*(?:the\s+)?", re.I).match(text, begin)
    start = match.end() if match else begin
    end, pending = start, False
    for token in _WORD.finditer(text, start):
        word = token[0]
        if text[end : token.start()].strip(" ") and not pending:
            break
        if word[0].isupper():
            end, pending = token.end(), False
            if word.endswith(".") and not (word in _TITLES or len(word) <= 3):
                break
        elif word.casefold() in _JOINING and end > start:
            end_of_joint = token.end()
            following = _WORD.match(text, end_of_joint + 1)
            if following is None or not (
                following[0][0].isupper() or following[0].casefold() in _JOINING
            ):
                break
            pending = True
            end = end_of_joint
        else:
            break
    found = text[start:end].strip().rstrip(".,;:'’-")
    for tail in ("'s", "’s"):
        found = found.split(tail)[0] if found.endswith(tail) else found
    parts = found.split()
    while parts and parts[-1].casefold() in _JOINING:
        parts.pop()
    return " ".join(parts) or None


def names(text: str) -> Iterator[str]:
    """All capitalised spans of a text, in order."""
    position = 0
    for match in re.finditer(r"(?<![\w'’-])[^\W\d_]", text):
        if match.start() < position or not match[0].isupper():
            continue
        found = first_name(text, match.start())
        if found:
            yield found
            position = match.start() + len(found)


def after(text: str, *patterns: str) -> str | None:
    """The name after the first pattern that has one."""
    for pattern in patterns:
        for match in re.finditer(pattern, text):
            found = first_name(text, match.end())
            if found and found not in MONTHS and len(found) > 1:
                return found
    return None


_DATE: Final = r"(?:\d{1,2} )?[A-Z][a-z]+(?: \d{1,2},?)?,? \d{3,4}|\d{3,4}"


def birthplace(text: str, subject: str) -> str | None:
    """Where someone was born."""
    near = r"(?:(?!\bdied\b|\bdeath\b)[^.;]|(?<=\b\w)\.){0,90}?"
    named = before(text, r"\s+(?:is|was) (?:his|her|their|the) birthplace\b")
    return named or after(
        text,
        rf"\b[Bb]orn\b{near}\b(?:in|at|near)\s+(?!\d)",
        rf"\b[Bb]orn\b[^.;()]{{0,40}}?(?:{_DATE}),\s+",
        rf"\((?:[^()]*[;,] )?(?:c\. )?(?:{_DATE})(?: in|,)\s+(?=[^()]*[–—-])",
        r"\bbirthplace(?: is| was|,)?\s+",
        r"\b(?:[Aa] )?native of\s+",
        r"\bhail(?:s|ed|ing) from\s+",
        r"\b(?:raised|grew up|brought up) in\s+",
        r"\bfamily (?:in|of|from)\s+",
        r"\b(?:actor|artist|singer|rapper|producer|player|politician|writer|musician|and) from\s+",
        r"(?:^|[.,] |\bwas )[Ff]rom\s+",
        r"\b(?:[Hh]igh [Ss]chool|educated|school|schooled|studied)\b[^.;]{0,40}?\b(?:in|at)\s+",
        r"\b(?:based|lives|lived|living|works|worked) in\s+",
        r"\bin\s+(?!\d)",
    )


def occupation(text: str, subject: str) -> str | None:
    """The first occupation that the opening sentences name."""
    opening = predicate(text)
    found = earliest(opening, OCCUPATIONS) or None
    lowered = opening.casefold()
    if found is None and any(office in lowered for office in OFFICES):
        return "politician"
    if found is not None:
        return found
    return earliest(text, OCCUPATIONS)


def predicate(text: str) -> str:
    """What stands after the first ``is a`` or ``was the``, to the end of the sentence."""
    match = re.search(r"\b(?:is|was|were|are)\s+(?:also\s+)?(?:an?|the|one of)\s+", text)
    rest = text[match.end() :] if match else text
    end = re.search(r"(?<=[a-z)\d])\.(?:\s|$)", rest)
    return rest[: end.start()] if end else rest


def earliest(text: str, vocabulary: Iterable[str]) -> str | None:
    """The vocabulary's word that stands first in the text, the longest of those at one place.

    A word counts when it stands by itself, or with a plural s.
    """
    spelt, pattern = _lexicon(tuple(vocabulary))
    match = pattern.search(text.casefold())
    return spelt[match[1]] if match else None


@functools.lru_cache(maxsize=16)
def _lexicon(vocabulary: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    spelt = {word.casefold(): word for word in vocabulary}
    # Alternatives are tried in order: the longest first.
    longest_first = sorted(spelt, key=len, reverse=True)
    pattern = rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})s?(?![\w-])"
    return spelt, re.compile(pattern)


def betrayed(text: str, table: Mapping[str, Sequence[str]]) -> str | None:
    """The key one of whose words stands first in the text."""
    owner = {word: key for key, listed in table.items() for word in listed}
    found = earliest(text, owner)
    return owner[found] if found else None


def genre(text: str, subject: str) -> str | None:
    """The first genre that the opening names."""
    return earliest(predicate(text), GENRES) or earliest(text, GENRES)


def country(text: str, subject: str) -> str | None:
    """The first country named, else the one that an adjective points to."""
    found = earliest(text.replace(subject, " "), COUNTRIES)
    if found:
        return found
    adjective = earliest(text, DEMONYMS)
    return DEMONYMS[adjective] if adjective else None


# Nationality and trade stand between: "by the English author Jane Austen".
_TRADE: Final = r"\s+(?:the\s+)?(?:[a-z-]+\s+){0,3}"
_BLANK: Final = r"\s+"
_LONGEST_NAME: Final = 80  # characters
_BY: Final = (
    r"\s+(?:and\s+\w+\s+)?by\s+(?:the\s+)?"
    rf"(?:(?:{'|'.join(DEMONYMS)})\s+)?(?:[a-z-]+\s+){{0,3}}"
)


def before(text: str, *patterns: str) -> str | None:
    """The name that ends where the first matching pattern begins."""
    for pattern in patterns:
        for match in re.finditer(pattern, text):
            segment = text[max(0, match.start() - _LONGEST_NAME) : match.start()].rstrip()
            found = next((name for name in names(segment) if segment.endswith(name)), None)
            if found:
                return found
    return None


def maker(noun: str, *verbs: str) -> FactReader:
    """A reader of ``<verb> by Name``, ``the <noun> was Name``, ``Name <verb> the ...``.

    Args:
        noun: pattern of what the person is called.
        verbs: patterns of what was done, in the past.
    """
    spoken = "|".join(verbs)
    role = rf"\b(?:{noun})\b(?: of [^.,]+)?(?:,[^.]*?,)? (?:is|was|were)\s+"
    behind = (
        rf"\s+(?:is|was|were) (?:its|the|his|her|their) (?:{noun})\b",
        rf"\s+(?:{spoken})\s+(?:the|this|it|both)\b",
    )

    def read(text: str, subject: str) -> str | None:
        found = after(text, rf"\b(?:{spoken}){_BY}", role) or before(text, *behind)
        # A bare "by" says who made it, if nothing says more.
        return found or after(text, rf"\b{_BY.removeprefix(_BLANK)}")

    return read


def father(text: str, subject: str) -> str | None:
    """Whose son or daughter someone is."""
    return before(text, r"\s+(?:is|was) (?:his|her|their) father\b") or after(
        text,
        rf"\b(?:[Hh]is|[Hh]er|[Tt]heir) father(?:,| was| is| being)?{_TRADE}",
        r"\b(?:son|daughter|child|heir) of\s+(?:the\s+)?(?:[a-z-]+\s+){0,4}",
        r"\bborn to\s+(?:the\s+)?(?:[a-z-]+\s+){0,3}",
        r"\bfather(?:,| was| is)?\s+",
    )


def mother(text: str, subject: str) -> str | None:
    """By whom someone was born."""
    return before(text, r"\s+(?:is|was) (?:his|her|their) mother\b") or after(
        text,
        rf"\b(?:[Hh]is|[Hh]er|[Tt]heir) mother(?:,| was| is| being)?{_TRADE}",
        r"\b(?:son|daughter|child|born to)\b[^.]{3,80}?\band (?:his (?:\w+ )?wife,?\s+)?(?:of\s+)?",
        r"\bmother(?:,| was| is)?\s+",
        r"\b(?:son|daughter|child) of\s+",
    )


def capital(text: str, subject: str) -> str | None:
    """The capital of the subject."""
    said = rf"\b(?:is|was)\b[^.]{{0,60}}?\b(?:capital|seat)\b[^.]{{0,60}}?\b{re.escape(subject)}"
    for match in re.finditer(said, text):
        sentence = text[max(0, match.start() - _LONGEST_NAME) : match.start()].rpartition(". ")[2]
        found = first_name(sentence.strip())
        if found and found != subject:
            return found
    serving = before(text, r"\s+(?:serves as|is|was)\s+(?:its|the)\s+(?:\w+\s+)?(?:capital|seat)\b")
    return serving or after(
        text, r"\b(?:[Cc]apital|[Ss]eat)(?: city| and largest city)?(?: is| was|,|:)?\s+"
    )


def capital_of(text: str, subject: str) -> str | None:
    """What the subject is the capital of."""
    nation = f"(?:{'|'.join(DEMONYMS)})"
    return after(
        text,
        rf"\b(?:capital|seat)(?: city| and [a-z ]+)? (?:of|for)\s+(?:the\s+)?(?:{nation} )?"
        r"(?:[a-z-]+ of\s+)?",
        r"\bcapital[^.]{0,40}? of\s+",
    )


READERS: Final[dict[str, FactReader]] = {
    "author": maker(
        "author|writer", "written", "authored", "wrote", "novel", "book", "play", "poem"
    ),
    "birthplace": birthplace,
    "capital": capital,
    "capital_of": capital_of,
    "colour": lambda text, subject: earliest(text, COLOURS),
    "composer": maker("composer", "composed", "music", "score", "opera", "scored"),
    "country": country,
    "director": maker("director", "directed", "film"),
    "father": father,
    "genre": genre,
    "mother": mother,
    "occupation": occupation,
    "producer": maker("producer", "produced", "production"),
    "religion": lambda text, subject: betrayed(text, RELIGIONS),
    "screenwriter": maker("screenwriter|writer", "screenplay", "written", "wrote", "script"),
    "sport": lambda text, subject: betrayed(text, SPORTS),
}
"""By relation: takes a passage and the subject, gives a short answer or None."""
