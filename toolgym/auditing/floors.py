"""Policies that do not do the work, and what chance lets them earn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toolgym._util.text import fold
from toolgym.auditing.processes import Move, Script
from toolgym.auditing.subjects import Facts, Item
from toolgym.auditing.texts import holds

__all__ = ["ANSWER", "Floor", "constants", "floors", "hostile", "oracle", "same", "wrong_gold"]

DUNNO = "I do not know."
_SPAM = 20  # calls, or repetitions
_LISTED = 40  # candidates of a list
_DECIMAL = re.compile(r"\d+[.,]\d+$")
_FORMULA = re.compile(r"[\d\w)]\s*(\*|\^|\+|/|=|- )\s*[\w(]")
_FIXED = ("0", "1", "yes", "A", "True", "None")
ANSWER = "I think that it cannot be said."
"""An answer that is wrong for every task, for probes."""


@dataclass(frozen=True, slots=True)
class Floor:
    """A policy.

    Args:
        name: of it.
        what: it does, in a line.
        script: that plays it.
        says: its answer, or None where it gives none of its own: where that is a gold of the task,
            what it earns is earned by chance.
        whole: only an episode that earns all counts against the environment: a reward of degrees
            rightly pays a part of an answer that is partly right.
    """

    name: str
    what: str
    script: Script
    says: str | None = None
    whole: bool = False


def same(text: str, golds: Sequence[str]) -> bool:
    """Whether an answer is one of the golds: letters and digits alone, or the same number."""
    return any(_key(text) == _key(gold) for gold in golds)


def _key(text: str) -> str | float:
    bare = text.strip().replace(",", "").lstrip("$").rstrip("%.")
    try:
        return float(bare)
    except ValueError:
        return re.sub(r"\W+", " ", fold(text)).strip()


def constants(items: Sequence[Item], most: int = 3) -> list[str]:
    """The most common golds of the tasks, and a few answers that suit many tasks."""
    counts = Counter(item.golds[0] for item in items if item.golds)
    common = [gold for gold, count in counts.most_common(most) if count > 1 or len(counts) < 9]
    return list(dict.fromkeys((*common, *_FIXED)))


def oracle(item: Item) -> Script:
    """Says the gold; a subject that has a policy for it plays that one."""
    return Script("oracle", (("answer", item.golds[0] if item.golds else ""),))


def wrong_gold(item: Item, items: Sequence[Item]) -> str | None:
    """The gold of another task that is none of this one's; None: all tasks have the same."""
    count = len(items)
    place = next((n for n, other in enumerate(items) if other.number == item.number), 0)
    for step in range(1, count):
        golds = items[(place + step) % count].golds
        if golds and golds[0].strip() and not same(golds[0], item.golds):
            return golds[0]
    return None


def floors(item: Item, items: Sequence[Item], facts: Facts, turns: int) -> list[Floor]:
    """The policies for a task.

    Args:
        item: that is played.
        items: all that are tried: the candidates of a list are their golds.
        facts: of the subject.
        turns: most turns of an episode.
    """
    several = turns if facts.turns else 1
    found = [
        Floor("null", "says nothing", Script("null", (("say", ""),), several), ""),
        Floor("empty", "gives an empty answer", Script("empty", (("answer", ""),)), ""),
        Floor("echo", "answers with the prompt", Script("echo", (("answer", item.prompt),))),
    ]
    if facts.turns:
        found += _turns(item, facts, several)
    found += _golds(item, items) if item.golds else []
    for text in constants(items):
        name = f"constant {text[:40]!r}"
        found.append(Floor(name, f"always answers {text[:40]!r}", _say(name, text), text))
    return found


def _say(name: str, text: str) -> Script:
    return Script(name, (("answer", text),))


def _turns(item: Item, facts: Facts, turns: int) -> list[Floor]:
    first: Move = ("call", facts.tools[0], item.prompt[-300:]) if facts.tools else ("say", DUNNO)
    paste = Script("paste", (first, ("paste",)), min(turns, 2))
    calls: list[Move] = [("call", name, DUNNO) for name in facts.tools[:_SPAM]] or [("say", DUNNO)]
    moves = (*(calls * _SPAM)[: max(1, min(_SPAM, turns) - 1)], ("answer", DUNNO))
    return [
        Floor("paste", "answers with what it read last", paste),
        Floor("spam", "calls all tools, or repeats itself, and gives up",
              Script("spam", moves, turns), DUNNO),
    ]  # fmt: skip


def _golds(item: Item, items: Sequence[Item]) -> list[Floor]:
    """Those that know what answers look like: a list of candidates, a hedge, a longer word."""
    listed = list(dict.fromkeys(other.golds[0] for other in items if other.golds))[: _LISTED - 1]
    candidates = [*listed, *(() if item.golds[0] in listed else (item.golds[0],))]
    found: list[Floor] = []
    if len(candidates) > 1 and item.golds[0].strip():
        text = ", ".join(candidates)
        what = f"answers with {len(candidates)} candidates, the gold among them"
        found.append(Floor("shotgun", what, _say("shotgun", text), whole=True))
    wrong = wrong_gold(item, items)
    if wrong is not None and item.golds[0].strip():
        for name, text in (
            ("hedge", f"either {wrong} or {item.golds[0]}"),
            ("hedge, gold first", f"either {item.golds[0]} or {wrong}"),
        ):
            found.append(Floor(name, "does not decide between two", _say(name, text), whole=True))
        found.append(Floor("wrong gold", "answers as another task is answered",
                           _say("wrong gold", wrong), wrong, whole=True))  # fmt: skip
    longer = _longer(item.golds[0])
    if item.golds[0].strip() and not any(holds(longer, gold) for gold in item.golds):
        what = "answers with the gold as a part of a longer word or number"
        found.append(Floor("longer", what, _say("longer", longer), longer, whole=True))
    return found


def _longer(gold: str) -> str:
    """A wrong answer that holds the gold as a part of a word or a number, where that can be.

    Digits behind a decimal are within what a grader rounds to, so they stand before it; letters
    behind a formula may be another name of a constant, so they stand before it, too.
    """
    if found := _DECIMAL.search(gold):
        return f"{gold[: found.start()]}73{found[0]}"
    if gold[-1:].isdigit():
        return gold + "73"
    return "zzq" + gold if _FORMULA.search(gold) else gold + "zzq"


def hostile() -> list[tuple[str, str]]:
    """Replies that no environment may fall over, by name; a policy may write any text."""
    megabyte = 1_000_000
    return [
        ("nothing", ""),
        ("a null byte", "\x00"),
        ("half a surrogate pair", "\ud800"),
        ("a megabyte of one letter", "x" * megabyte),
        ("a hundred thousand brackets", "[" * 100_000),
        ("a hundred thousand braces", '{"a":' * 20_000),
        ("forty letters and a mark", "a" * 40 + "!"),
        ("ten thousand blanks", " " * 10_000 + "x"),
        ("a number of five thousand digits", "9" * 5000),
        ("a power that nobody can compute", "9**9**9**9"),
        ("a number beyond all floats", "1e999999999"),
        ("not a number", "nan"),
        ("infinity", "inf"),
        ("a fraction by zero", "1/0"),
        ("an open tag", "<answer>" * 1000),
        ("a broken call", '<tool_call>\n{"name": "no_such_tool", "arguments": {'),
        ("JSON that is no call", '<tool_call>[null, {"name": 3}]</tool_call>'),
        ("percent and braces", "%s %d {0} {x} \\1 \\g<0> $("),
    ]
