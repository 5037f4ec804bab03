"""Checks of what is paid: the ceiling, the floors, the range, and how answers are spread."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

from toolgym.auditing.floors import Floor, floors, same, wrong_gold
from toolgym.auditing.processes import Played, Script
from toolgym.auditing.report import FAILS, NOT_SHOWN, PASSES
from toolgym.auditing.session import Session, least, most, total
from toolgym.auditing.subjects import Item

__all__ = [
    "check_floors",
    "check_oracle",
    "check_range",
    "check_spread",
    "play_floors",
    "play_late",
]

_PART = 0.10  # of all that can be earned: what a reward of degrees may pay for nothing
_MUCH = 1 / 3  # of all, which the gold of another task may earn in part
_WHOLE = 0.05  # of tasks in which a trick earns all
_SKEW = 2 / 3  # of tasks that one constant answers
_LATE = 10  # tasks whose gold is said late
_ROUNDING = 1e-9
Tried = dict[str, list[tuple[Floor, Played]]]


def play_floors(session: Session) -> Tried:
    """All policies on all tasks, task by task; what each of them played, by its name."""
    tried: defaultdict[str, list[tuple[Floor, Played]]] = defaultdict(list)
    for place, item in enumerate(session.items):
        if place == len(session.items) // 2:
            session.note_memory()
        for floor in floors(item, session.items, session.facts, session.turns):
            played = session.play(floor.script, item.number)
            if played is not None:
                tried[floor.name].append((floor, played))
    session.note_memory()
    return tried


def check_oracle(session: Session, tried: Tried) -> None:
    """Whether the gold earns all that there is."""
    honest = [played for played in session.honest.values() if played.raised is None]
    rule = "fails where the gold, or the reference solution, of any task earns less than all"
    if not honest:
        session.add("oracle", NOT_SHOWN, "no task has a gold answer that could be said", rule)
        return
    nothing = {played.number: total(played) for _, played in tried.get("empty", ())}
    low = [played for played in honest if not session.whole(played)]
    # Without a declared range what a gold earns may differ from task to task.
    worthless = [p for p in low if total(p) <= nothing.get(p.number, session.low) + _ROUNDING]
    if (len(low) == len(honest) and not session.facts.own_gold) or session.high is None:
        says = "no way of writing the gold was found that earns anything"
        session.add("oracle", NOT_SHOWN, says, rule, low)
        return
    broken = low if session.facts.high is not None else worthless
    n = len(honest)
    all_of = f" ({session.high:g})" if session.facts.high is not None else ""
    says = f"{n - len(low)} of {n} golds earn all{all_of}"
    if broken:
        items = {item.number: item for item in session.items}
        said = f"{len(broken)} of {n} golds do not earn all{all_of}, such as that of "
        says = said + repr(items[broken[0].number].key)
    verdict = FAILS if broken else NOT_SHOWN if low else PASSES
    session.add("oracle", verdict, says, rule, broken or low, hits=n - len(low), of=n)


def check_floors(session: Session, tried: Tried) -> None:
    """What the policies earn that do not do the work, beyond what is right by chance."""
    items = {item.number: item for item in session.items}
    constant: list[tuple[float, str, int, list[Played]]] = []
    nothing = _nothing(session, tried)
    for name, plays in tried.items():
        hits, earned, shown, n = 0.0, 0.0, [], 0
        whole = plays[0][0].whole
        for floor, played in plays:
            share = session.share(played, nothing)
            if share is None or played.raised is not None:
                continue
            n += 1
            earned += share
            by_chance = floor.says is not None and same(floor.says, items[played.number].golds)
            gained = float(session.whole(played)) if whole else share
            if gained > 0 and not by_chance:
                hits += gained
                shown.append(played)
        if not n:
            continue
        shown.sort(key=total, reverse=True)
        if name.startswith("constant"):
            constant.append((hits, name, n, shown))
            continue
        kind = "earns all" if whole else "of all that can be earned"
        says = f"{plays[0][0].what}: {hits:g} of {n} tasks earn all"
        if not whole:
            says = f"{plays[0][0].what}: earns {hits / n:.1%} without merit"
        bound = _WHOLE if whole else _PART
        rule = f"the share {kind}, without tasks whose gold it says by chance"
        session.judge(f"floor: {name}", hits, n, bound, says, rule, shown, mean=earned / n)
    _check_part(session, tried.get("wrong gold", ()), nothing)
    if not any(name.startswith("constant") for name in tried) or not constant:
        if not tried or session.high is None:
            says = "the greatest reward is not known, so that no share of it is"
            session.add("floors", NOT_SHOWN, says, "give the range of the reward, or golds")
        return
    hits, name, n, shown = max(constant, key=lambda each: each[0] / each[2])
    says = f"the best of {len(constant)} constants, {name[9:]}, earns {hits / n:.1%} without merit"
    rule = "the share of all that can be earned, without tasks whose gold it is"
    session.judge("floor: constant", hits, n, _PART, says, rule, shown)


def _check_part(session: Session, plays: Sequence[tuple[Floor, Played]], nothing: float) -> None:
    """What golds of other tasks earn in part: a reward of degrees says little where it is much."""
    found = [(session.share(p, nothing), p) for _, p in plays if p.raised is None]
    known = [(share, played) for share, played in found if share is not None]
    if known:
        hits, n = sum(share for share, _ in known), len(known)
        says = f"answers as another task is answered: earns {hits / n:.1%} in the mean"
        rule = "the share of all that can be earned, of which a wrong answer is paid a part"
        shown = [played for share, played in known if share > 0]
        session.judge("floor: wrong gold, in part", hits, n, _MUCH, says, rule, shown)


def _nothing(session: Session, tried: Tried) -> float:
    """What earning nothing means: a wrong answer may earn 0 where a reply without one earns less.

    A penalty that is avoided is no reward: where rewards go below zero, shares are counted from
    what the golds of other tasks earn in the middle, but never from above zero.
    """
    if session.low >= 0:
        return session.low
    wrong = [total(p) for _, p in tried.get("wrong gold", ()) if p.raised is None]
    wrong = [value for value in wrong if math.isfinite(value)]
    return max(session.low, min(0.0, statistics.median(wrong))) if wrong else session.low


def check_spread(session: Session, read: Sequence[Item]) -> None:
    """Whether one answer is the gold of most tasks: a constant then looks like skill.

    Args:
        session: of the audit.
        read: all tasks whose golds are known, also those that are not played.
    """
    golds = [item.golds[0] for item in read if item.golds]
    rule = (
        "the share of tasks with the most common gold; fails where its 99.9 % interval lies above "
        "two of three, for then one constant answer earns more than any learning can add; yes and "
        "no in equal parts is no defect"
    )
    if len(golds) < 10:
        session.add("answers", NOT_SHOWN, f"{len(golds)} golds are too few to say", rule)
        return
    gold, count = Counter(golds).most_common(1)[0]
    n = len(golds)
    says = f"{count} of {n} golds are {gold[:60]!r}, which is what chance gives a constant"
    low, high = least(count, n), most(count, n)
    verdict = FAILS if low > _SKEW else PASSES if high <= _SKEW else NOT_SHOWN
    session.add("answers", verdict, says, rule, hits=count, of=n, distinct=len(set(golds)))


def _bad(value: object) -> bool:
    try:
        return not math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True


def play_late(session: Session) -> None:
    """Say the gold one turn late, or again and again: neither may earn more than to say it once."""
    for item in session.items[:_LATE] if session.facts.turns else ():
        wrong = wrong_gold(item, session.items)
        if wrong is not None and item.number in session.honest and not session.facts.oracle:
            moves = (("answer", wrong), ("answer", item.golds[0]))
            session.play(Script("gold after a wrong answer", moves, 2), item.number)
            session.play(Script("gold again and again", moves[1:], 3), item.number)


def check_range(session: Session) -> None:
    """Whether rewards are finite, within their range, and at most those of honesty."""
    broken = [p for p in session.played if any(_bad(o.reward) for o in p.outcomes)]
    rule = (
        "fails where any reward is not a finite number, an episode earns outside the declared "
        "range, or a policy without merit, or one that says the gold late or several times, earns "
        "more than the gold of the task"
    )
    good = [p for p in session.played if not any(_bad(o.reward) for o in p.outcomes)]
    facts = session.facts
    outside = [
        p
        for p in good
        if (facts.high is not None and total(p) > facts.high + _ROUNDING)
        or (facts.low is not None and total(p) < facts.low - _ROUNDING)
    ]
    more = _more(session, good)
    bad: Sequence[Played] = broken or outside or more
    if broken:
        says = f"{len(broken)} episodes have a reward that is not a finite number: " + repr(
            next(o.reward for o in broken[0].outcomes if _bad(o.reward))
        )
    elif outside:
        says = f"{len(outside)} episodes earn outside {facts.low:g} to {facts.high:g}: "
        says += f"{total(outside[0]):g} with {outside[0].script!r}"
    elif more:
        says = f"{len(more)} episodes earn more than the gold: {total(more[0]):g} with "
        says += f"{more[0].script!r}, the gold {total(session.honest[more[0].number]):g}"
    else:
        totals = [total(p) for p in good if p.outcomes]
        says = f"{len(good)} episodes earn {min(totals, default=0):g} to {max(totals, default=0):g}"
    session.add("reward", FAILS if bad else PASSES, says, rule, bad)


def _more(session: Session, good: Sequence[Played]) -> list[Played]:
    """Episodes without merit that earn more than a gold which does earn."""
    found = []
    for played in good:
        honest = session.honest.get(played.number)
        if honest is None or honest.raised is not None or played.script == "oracle":
            continue
        earns = session.whole(honest) or total(honest) > session.low
        if earns and total(played) > total(honest) + _ROUNDING:
            found.append(played)
    return found
