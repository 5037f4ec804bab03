"""How the answer of a scenario follows from those of its sub-questions."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from decimal import Decimal

from toolgym.envs.toolscenario.records import Combination, Decomposition
from toolgym.grading.answers import last_number, normalise

__all__ = ["combine", "follows", "reaches"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_CLOSE = Decimal("1e-9")  # relative: sums of rounded parts


def reaches(made: Decomposition, name: str) -> set[str]:
    """All sub-questions that one needs, also through others."""
    found: set[str] = set()
    waiting = list(made.sub_question(name).needs)
    while waiting:
        need = waiting.pop()
        if need not in found:
            found.add(need)
            waiting += made.sub_question(need).needs
    return found


def combine(combination: Combination, answers: Mapping[str, str]) -> str | None:
    """The final answer from those of the sub-questions; None where it cannot be computed.

    Args:
        combination: the rule.
        answers: by sub-question.
    """
    texts = [answers[name] for name in combination.of]
    rule = combination.rule
    if rule == "last":
        return texts[0] if len(texts) == 1 else None
    if rule == "list":
        return ", ".join(texts)
    if rule == "count":
        return str(sum(len(text.split(", ")) for text in texts))
    if rule == "equal":
        return "yes" if len({_plain(text) for text in texts}) == 1 else "no"
    values = [_value(text) for text in texts]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    if rule == "sum":
        return _text(sum(numbers, Decimal(0)))
    if rule == "difference":
        return _text(abs(numbers[0] - numbers[1])) if len(numbers) == 2 else None
    best = max(numbers) if rule.endswith("maximum") else min(numbers)
    if not rule.startswith("first"):
        return texts[numbers.index(best)]
    labelled = len(combination.labels) == len(numbers) and numbers.count(best) == 1
    return combination.labels[numbers.index(best)] if labelled else None


def follows(made: Decomposition, answers: Mapping[str, str]) -> bool:
    """Whether the first of the answers is what the combination gives.

    Args:
        made: says rule and answers.
        answers: by sub-question.
    """
    result = combine(made.combination, answers)
    if result is None:
        return False
    wanted = made.answers[0]
    if _plain(result) == _plain(wanted):
        return True
    found, gold = last_number(result), last_number(wanted)
    if made.answer_type != "number" or found is None or gold is None:
        return False
    return abs(found - gold) <= _CLOSE * max(Decimal(1), abs(gold))


def _plain(text: str) -> str:
    return normalise(text) or text.strip().casefold()


def _value(text: str) -> Decimal | None:
    """A number, or the day of an ISO date."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return last_number(text)
    try:
        return Decimal(datetime.date.fromisoformat(found[0]).toordinal())
    except ValueError:
        return None


def _text(value: Decimal) -> str:
    plain = format(value, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
