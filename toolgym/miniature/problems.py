"""Problems of the miniature's world, and how their gold answers are computed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toolgym.errors import BadInputError
from toolgym.miniature import phrasings

Kind = Literal["arithmetic", "entities"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer and the tool call that leads to it.

    Attributes:
        kind: "arithmetic" or "entities".
        family: the operation's symbols (such as "*+") or the relation (such as "founder").
        question: the text put to the policy.
        answer: the gold answer.
        tool: name of the tool that helps.
        argument: what to give to the tool, such as "47*36+5" or "founder of Amber Falcon".
        numbers: the numbers of an arithmetic question in reading order, else empty.
        entity: the entity asked about, else "".
        held_out: whether the phrasing is one of those never shown in training.
    """

    kind: Kind
    family: str
    question: str
    answer: str
    tool: str
    argument: str
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


def person(rng: random.Random) -> str:
    """An invented person's name."""
    return f"{rng.choice(phrasings.FIRST_NAMES)} {rng.choice(phrasings.LAST_NAMES)}"
