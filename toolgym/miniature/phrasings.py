"""What questions say and how: phrasings by relation, and arithmetic problems in words."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal

from toolgym.errors import BadInputError

HELD_OUT: Final = 2
"""How many phrasings at the end of every list are kept for the held-out files."""

_FILE: Final[dict[str, Any]] = json.loads(
    resources.files(__package__).joinpath("phrasings.json").read_text("utf-8")
)
ARITHMETIC: Final[Mapping[str, tuple[str, ...]]] = {
    symbols: tuple(texts) for symbols, texts in _FILE["arithmetic"].items()
}
"""Phrasings by operation; its symbols stand between the numbers `a`, `b`, `c`, in this order."""

RELATIONS: Final[Mapping[str, str]] = _FILE["relations"]
"""A relation and its verb."""

ENTITY: Final[tuple[str, ...]] = tuple(_FILE["entity"])
"""Phrasings of a question for a relation (`r`, its verb `v`) of an entity (`e`)."""

HOME: Final[tuple[str, ...]] = tuple(_FILE["home"])
"""Phrasings of a question for the home of a person (`p`: a name, or "the founder of ...")."""

PEOPLE, OBJECTS, ADJECTIVES, NOUNS, TOWN_KINDS, TOWN_NAMES, FIRST_NAMES, LAST_NAMES = (
    tuple[str, ...](_FILE[key])
    for key in (
        *("people", "objects", "adjectives", "nouns", "town_kinds", "town_names", "first_names"),
        "last_names",
    )
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
