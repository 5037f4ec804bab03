"""English for questions: how entities, chains of relations, values and lists are put into words."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from toolgym._util.text import MONTHS
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge
from toolgym.envs.toolscenario.worlds.relations import COMPOSITES, Relation

__all__ = [
    *("answer_text", "ask", "day", "join", "mention", "mentions", "phrase", "plural", "unit"),
    "variants",
]

_ARTICLE = (
    *("Netherlands", "United Kingdom", "Philippines", "United Arab Emirates", "Czech Republic"),
    *("Dominican Republic", "Maldives", "Bahamas"),
)
_THE = ("University of", "Museum of", "Republic of", "Kingdom of")


def mention(knowledge: Knowledge, name: str, bare: bool = False) -> str:
    """An entity in a sentence.

    Args:
        knowledge: says its type.
        name: of the entity.
        bare: without the words that say what it is, as after a plural noun.
    """
    kind = knowledge.types[knowledge.type_of[name]]
    quoted = '"' in kind.mention
    if name in _ARTICLE or name.startswith(_THE):
        return f"the {name}"
    if bare:
        return f'"{name}"' if quoted else name
    if kind.name in ("river", "mountain") and name.startswith(("Mount ", "River ")):
        return name
    written = kind.mention.replace("{n}", name)
    return written.replace("the The ", "the ")


def mentions(knowledge: Knowledge, names: Sequence[str], last: str = "and") -> str:
    """Several entities: "the rivers A, B and C" where they are of one kind."""
    kinds = {knowledge.type_of[name] for name in names}
    kind = knowledge.types[min(kinds)]
    if len(kinds) == 1 and kind.mention.startswith("the ") and not kind.mention.startswith("the {"):
        words = kind.plural.replace("_", " ")
        return f"the {words} {join([mention(knowledge, name, bare=True) for name in names], last)}"
    return join([mention(knowledge, name) for name in names], last)


def join(words: Sequence[str], last: str = "and") -> str:
    """Words with commas, and a word before the last one."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


def phrase(relations: Sequence[Relation], inner: str, rng: random.Random | None = None) -> str:
    """A noun phrase for what a chain of relations leads to.

    Args:
        relations: from the start on.
        inner: the start in words.
        rng: chooses among wordings; None takes the one that also suits long phrases.
    """
    place, depth = 0, 0
    while place < len(relations):
        pair = tuple(item.name for item in relations[place : place + 2])
        first = relations[place]
        if len(pair) == 2 and pair in COMPOSITES and depth <= 1 and relations[place + 1].entity:
            inner, place = COMPOSITES[pair].replace("{s}", inner), place + 2
        else:
            several = rng is not None and depth == 0 and len(relations) < 4
            chosen = rng.choice(first.phrases) if several and rng else first.phrases[0]
            inner, place = chosen.replace("{s}", inner), place + 1
        depth += 1
    return inner


def ask(relation: Relation, inner: str, rng: random.Random | None = None, depth: int = 0) -> str:
    """A question for the value of a relation.

    Args:
        relation: what is asked for.
        inner: of what, in words.
        rng: chooses among wordings; None takes the first.
        depth: hops within ``inner``.
    """
    choices = relation.asks if rng is not None and depth <= 1 else relation.asks[:1]
    chosen = rng.choice(choices) if rng is not None else choices[0]
    return chosen.replace("{s}", inner)


def unit(name: str) -> str:
    """A unit in words."""
    return name.replace("_", " ")


def plural(label: str) -> str:
    """The plural of a label: of its noun, not of what follows it."""
    head, of, rest = label.partition(" of ")
    words = head.split(" ")
    last = words[-1]
    if last.endswith("s") and not last.endswith("ss"):
        pass
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        words[-1] = last[:-1] + "ies"
    else:
        words[-1] = last + ("es" if last.endswith(("s", "x", "ch", "sh")) else "s")
    return " ".join(words) + of + rest


def day(text: str) -> str:
    """An ISO date as people write it."""
    date = datetime.date.fromisoformat(text)
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


def answer_text(value: Any) -> str:
    """The text of a value, as its JSON has it; parts are joined with a comma."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(answer_text(item) for item in value.values())
    if isinstance(value, list | tuple):
        return ", ".join(answer_text(item) for item in value)
    return json.dumps(value)


def variants(text: str) -> tuple[str, ...]:
    """Other ways to write an answer that are as right, after the first."""
    try:
        date = datetime.date.fromisoformat(text)
    except ValueError:
        return (text,)
    month = MONTHS[date.month - 1]
    return (text, f"{date.day} {month} {date.year}", f"{month} {date.day}, {date.year}")
