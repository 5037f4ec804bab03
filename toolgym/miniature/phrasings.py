"""What questions say and how: phrasings by relation, and arithmetic problems in words."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from toolgym.errors import BadInputError

HELD_OUT: Final = 2
"""How many phrasings at the end of every list are kept for the held-out files."""

ARITHMETIC: Final[Mapping[str, tuple[str, ...]]] = {
    "*": (
        "{n} packs {a} boxes with {b} {o} each. How many {o} in total?",
        "There are {a} rows of {b} {o}. How many {o} are there?",
        "{a} shelves hold {b} {o} each. How many {o} do they hold?",
        "{n} fills {a} jars with {b} {o} each. How many {o} is that?",
        "A shop has {a} crates of {b} {o}. How many {o} does it have?",
        "Each of {a} bags holds {b} {o}. How many {o} does {n} have?",
        "{n} owns {a} sets of {b} {o}. How many {o} are there?",
    ),
    "-": (
        "{n} had {a} {o} and gave away {b}. How many {o} are left?",
        "{n} starts with {a} {o} but loses {b}. How many {o} remain?",
        "There were {a} {o} and {b} broke. How many {o} are left?",
        "{n} has {a} {o} and sells {b}. How many {o} remain?",
        "A shop had {a} {o} but sold {b}. How many {o} does it have?",
        "Of {a} {o}, {b} were sold by {n}. How many {o} were not sold?",
        "From {a} {o}, {n} loses {b}. How many {o} are left?",
    ),
    "+": (
        "{n} has {a} {o} and buys {b} more. How many {o} now?",
        "{n} found {a} {o}, then {b} extra. How many {o} altogether?",
        "There are {a} {o}, and {b} more arrive. How many {o} are there?",
        "{n} holds {a} {o} and adds {b}. How many {o} is that?",
        "A shop has {a} {o} and gets {b} more. How many {o} does it have?",
        "After {a} {o} came {b} further {o}. How many {o} does {n} hold?",
        "{n} found {a} {o} and buys {b} extra. How many {o} in total?",
    ),
    "*+": (
        "{n} buys {a} bags of {b} {o} and finds {c} more. How many {o}?",
        "{n} has {a} boxes of {b} {o} and {c} extra. How many {o} in total?",
        "{a} shelves hold {b} {o} each, and {c} more arrive. How many {o}?",
        "There are {a} rows of {b} {o}, plus {c}. How many {o} are there?",
        "A shop has {a} crates of {b} {o} and gets {c} more. How many {o}?",
        "{a} trays hold {b} {o} each, plus {c} loose. How many {o} in total?",
        "{n} fills {a} jars with {b} {o} and has {c} extra. How many {o}?",
    ),
    "*-": (
        "{n} buys {a} bags of {b} {o} and loses {c}. How many {o}?",
        "{n} had {a} boxes of {b} {o} and gave away {c}. How many {o} are left?",
        "{a} shelves hold {b} {o} each, but {c} are lost. How many {o}?",
        "There were {a} rows of {b} {o}, but {c} broke. How many {o} are left?",
        "A shop had {a} crates of {b} {o} but sold {c}. How many {o}?",
        "{a} trays held {b} {o} each, but {c} broke. How many {o} are left?",
        "{n} fills {a} jars with {b} {o} and loses {c}. How many {o} remain?",
    ),
}
"""Phrasings by operation; its symbols stand between the numbers `a`, `b`, `c`, in this order."""

RELATIONS: Final[Mapping[str, str]] = {
    "founder": "founded",
    "owner": "owns",
    "ruler": "rules",
    "designer": "designed",
}
"""A relation and its verb."""

ENTITY: Final[tuple[str, ...]] = (
    "Who is the {r} of {e}?",
    "Tell me the {r} of {e}.",
    "Who {v} {e}?",
    "{e} has which {r}?",
    "Name the {r} of {e}.",
    "Which person {v} {e}?",
)
"""Phrasings of a question for a relation (`r`, its verb `v`) of an entity (`e`)."""

HOME: Final[tuple[str, ...]] = (
    "Where does {p} live?",
    "In which town does {p} live?",
    "{p} lives where?",
    "Tell me the home of {p}.",
    "Name the town where {p} lives.",
    "What is the home of {p}?",
)
"""Phrasings of a question for the home of a person (`p`: a name, or "the founder of ...")."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE: Final = _words("Mia Leo Ana Tom Eva Sam Zoe Max Ida Ben")
OBJECTS: Final = _words("pens cups coins shells stamps apples cards beads nuts rocks")
ADJECTIVES: Final = _words(
    """
    Amber Silver Iron Misty Golden Frozen Hidden Broken Crimson Quiet Lunar Solar Ancient Hollow
    Velvet Copper Stormy Ivory Jade Marble Mossy Nimble Ocean Paper Quartz Rapid Sandy Tidal Umber
    Violet
    """
)
NOUNS: Final = _words(
    """
    Falcon Harbor Valley Forge Garden Tower Bridge Island Meadow Canyon Temple Orchard Castle
    Glacier Lagoon Market Mill Outpost Palace Quarry Reef Shrine Station Summit Theater Village
    Workshop Archive Beacon Colony
    """
)
TOWN_KINDS: Final = _words("Port Fort New Old Upper Lower East West North South")
TOWN_NAMES: Final = _words(
    """
    Alden Birch Calder Denby Elmet Farley Grove Hythe Irby Keld Lynn Marsh Nesbit Oakley Penn Ripley
    Selby Thorpe Usk Wells
    """
)
FIRST_NAMES: Final = _words(
    """
    Nora Ivan Lena Omar Rosa Hugo Vera Axel Iris Remy Tara Yuri Dina Egon Faye Gita Hans Inga Joel
    Kira Luca Mona Nils Olga Paul Quin Rita Sven Ulla Wade
    """
)
LAST_NAMES: Final = _words(
    """
    Reyes Novak Okoye Lund Brandt Costa Dumas Ekman Fabre Grieg Hale Ibarra Jensen Kovacs Lopez Mori
    Nagel Ortiz Petrov Quist Rossi Sato Tanaka Urban Vega Weber Xu Young Zeman Adler
    """
)


Kind = Literal["arithmetic", "entities", "scenarios"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One tool call and what it gives.

    Attributes:
        tool: its name.
        argument: what to give to it, such as "47*36+5" or "founder of Amber Falcon".
        result: the text that it answers.
    """

    tool: str
    argument: str
    result: str

    @property
    def call(self) -> str:
        """The call as the policy writes it."""
        return f"{self.tool}[{self.argument}]"


@dataclass(frozen=True, slots=True)
class Exercise:
    """One question with its gold answer and the tool calls that lead to it.

    Attributes:
        kind: "arithmetic", "entities" or "scenarios".
        family: the operation's symbols (such as "*+"), the relation (such as "founder"), or
            "home" and "home of founder" where a person's home is asked for.
        question: the text put to the policy.
        answer: the gold answer.
        steps: one call, or two where the second needs the result of the first.
        numbers: the numbers of an arithmetic question in reading order, else empty.
        entity: the entity asked about, else "".
        held_out: whether the phrasing is one of those never shown in training.
    """

    kind: Kind
    family: str
    question: str
    answer: str
    steps: tuple[ToolUse, ...]
    numbers: tuple[int, ...] = ()
    entity: str = ""
    held_out: bool = False


def calculate(numbers: Sequence[int], symbols: str) -> int:
    """The value of `numbers` joined by `symbols`, products first; no text is ever evaluated.

    Args:
        numbers: one number more than there are symbols.
        symbols: operators out of `*`, `+` and `-`.

    Raises:
        BadInputError: the counts do not fit, or a symbol is another.
    """
    if len(numbers) != len(symbols) + 1 or set(symbols) - set("*+-"):
        raise BadInputError(
            f"{len(numbers)} numbers do not go with the symbols {symbols!r}: give one number more "
            "than symbols, and only the symbols * + -"
        )
    terms = [numbers[0]]
    for symbol, number in zip(symbols, numbers[1:], strict=True):
        if symbol == "*":
            terms[-1] *= number
        else:
            terms.append(number if symbol == "+" else -number)
    return sum(terms)


def expression(numbers: Sequence[int], symbols: str) -> str:
    """The text of a calculation, such as "47*36+5" for (47, 36, 5) and "*+"."""
    return str(numbers[0]) + "".join(
        f"{symbol}{number}" for symbol, number in zip(symbols, numbers[1:], strict=True)
    )


def fact(relation: str, entity: str, person: str) -> str:
    """The sentence that states one fact; it is the whole text of one passage."""
    return f"The {relation} of {entity} is {person}."


def town(rng: random.Random) -> str:
    """An invented town's name."""
    return f"{rng.choice(TOWN_KINDS)} {rng.choice(TOWN_NAMES)}"


def person(rng: random.Random) -> str:
    """An invented person's name."""
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
