"""Answers that stand where they should not, and tasks that stand twice."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from toolgym.auditing.subjects import Item

__all__ = ["Rule", "contradictions", "copying_rules", "holds", "own_rate", "shared", "twins"]

_CONTEXTS = (14, 8, 5)  # characters before the gold that a rule looks for
_WORD = re.compile(r"\w")


def holds(text: str, gold: str) -> bool:
    """Whether a gold stands in a text as whole words; an empty one never does."""
    return bool(_places(text, gold))


def _places(text: str, gold: str) -> list[int]:
    gold = gold.strip()
    found: list[int] = []
    begin = text.find(gold) if gold else -1
    while begin >= 0:
        end = begin + len(gold)
        before, after = text[begin - 1 : begin], text[end : end + 1]
        whole = not (_WORD.match(gold[0]) and _WORD.match(before or " "))
        # 12 is not in 12.5, nor in 112.
        tail = text[end : end + 2]
        decimal = gold[-1].isdigit() and bool(re.match(r"[.,]\d", tail))
        if whole and not decimal and not (_WORD.match(gold[-1]) and _WORD.match(after or " ")):
            found.append(begin)
        begin = text.find(gold, begin + 1)
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    """Copying what stands behind a text of the prompt.

    Args:
        context: the text.
        fires: tasks that have it, of the half in which it was not found.
        right: of these, tasks whose gold stands right behind it.
        numbers: of the tasks in which it is right.
    """

    context: str
    fires: int
    right: int
    numbers: tuple[int, ...]


def copying_rules(items: Sequence[Item]) -> list[Rule]:
    """What copying rules that hold in one half of the tasks are worth in the other half.

    A gold may stand in a prompt rightly: one of two candidates, a word of a passage. That gives it
    away only where a fixed text stands before it: in the odd tasks the texts before their golds are
    collected, and in the even ones it is counted how often what stands behind such a text is the
    gold. Nothing of the second half decided what was looked for, so that the counts are honest.

    Args:
        items: with prompts and golds.

    Returns:
        The five rules that were right most often where they were found.
    """
    counts: Counter[str] = Counter()
    for item in items[1::2]:
        seen = set()
        for gold in item.golds:
            for place in _places(item.prompt, gold):
                for length in _CONTEXTS:
                    context = item.prompt[max(0, place - length) : place]
                    # Alone at the beginning of a line there is nothing to look for.
                    words = sum(map(str.isalpha, context)) >= 3
                    if words or re.search(r"[#=:>]\s*$", context):
                        seen.add(context)
        counts.update(text for text in seen if len(text) >= 3)
    rules = []
    for context, _ in counts.most_common(40):
        fired, right = [], []
        for item in items[::2]:
            if context not in item.prompt:
                continue
            fired.append(item.number)
            begin = item.prompt.rfind(context) + len(context)
            rest = item.prompt[begin:]
            if any(0 in _places(rest, gold) for gold in item.golds):
                right.append(item.number)
        if fired:
            rules.append(Rule(context, len(fired), len(right), tuple(right)))
    rules.sort(key=lambda rule: (-rule.right, rule.fires, -len(rule.context)))
    return rules[:5]


def own_rate(texts: Sequence[str], items: Sequence[Item]) -> tuple[list[int], float]:
    """Tasks in whose text their own gold stands, and how often the gold of another task does.

    Args:
        texts: [items] one a task.
        items: the tasks.

    Returns:
        Places in the list, and the share among pairs of a text and a gold of another task.
    """
    own, pairs, others = [], 0, 0
    for place, (text, item) in enumerate(zip(texts, items, strict=True)):
        if any(holds(text, gold) for gold in item.golds):
            own.append(place)
        for step in (1, 2, 3):
            other = items[(place + step) % len(items)]
            if other.golds and not set(other.golds) & set(item.golds):
                pairs += 1
                others += holds(text, other.golds[0])
    return own, others / pairs if pairs else 0.0


def twins(items: Sequence[Item]) -> list[list[Item]]:
    """Groups of tasks that ask the same and have the same golds; case and blanks do not count."""
    groups: defaultdict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in items:
        groups[(_loose(item), *item.golds)].append(item)
    return [group for group in groups.values() if len(group) > 1]


def contradictions(items: Sequence[Item]) -> list[list[Item]]:
    """Groups of tasks that ask the same, to the letter, and have different golds."""
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.prompt.strip() + item.tools].append(item)
    return [g for g in groups.values() if len({tuple(sorted(item.golds)) for item in g}) > 1]


def shared(items: Sequence[Item], others: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Tasks of the other split that ask what one of these asks, each with that one."""
    known = {_loose(item): item for item in items}
    return [(item, known[_loose(item)]) for item in others if _loose(item) in known]


def _loose(item: Item) -> str:
    return re.sub(r"\s+", " ", item.prompt).strip().casefold() + item.tools
