"""An audit from beginning to end: the tasks, the policies, the checks, the report."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from toolgym.auditing import behaving, rewarding
from toolgym.auditing.floors import ANSWER, oracle, wrong_gold
from toolgym.auditing.opening import maker
from toolgym.auditing.processes import EndedError, Player, Script
from toolgym.auditing.report import FAILS, NOT_SHOWN, PASSES, AuditReport, Finding
from toolgym.auditing.session import Session, least, total
from toolgym.auditing.subjects import Facts, Item, Subject
from toolgym.auditing.texts import contradictions, copying_rules, own_rate, shared, twins
from toolgym.errors import BadInputError, CheckError

__all__ = ["audit"]

_READ = {
    "tasks with a reward": 20_000,
    "toolgym": 300,
    "gymnasium": 200,
    "reasoning-gym": 300,
}  # prompts that are read
_PIECE = 25  # tasks that are read at once
_ASKED = 10  # groups of tasks that ask the same, whose golds are tried in each other
_DRAWN = 0.05  # of drawn tasks that may stand twice
Tell = Callable[[str, int, int, str], None]


def audit(
    env: str | gym.Env[Any, Any] | Subject | Callable[[], Any],
    *,
    env_args: Mapping[str, Any] | None = None,
    tasks: int = 50,
    seed: int = 0,
    turns: int = 8,
    deadline: float = 10.0,
    seconds: float = 600.0,
    out: str | Path | None = None,
    progress: Tell | None = None,
    **options: Any,
) -> AuditReport:
    """Check an environment, or tasks with a reward, for what makes training on it go wrong.

    Everything is played in processes of its own, and ended where a step never returns.

    Args:
        env: an id of ours or of gymnasium, ``reasoning-gym:NAME``, ``skyrl:NAME``,
            ``openenv:module:Class``, ``verifiers:MODULE``, a ``.jsonl`` file of tasks, an instance
            that can be pickled, or a function that makes one.
        env_args: keyword arguments, for an id.
        tasks: that are played, at least 3.
        seed: chooses them.
        turns: most turns of an episode.
        deadline: seconds a step may take.
        seconds: after which no further episode is begun; what was not played is not judged.
        out: folder of the report and its episodes.
        progress: called with stage, done, planned and a note.
        options: by kind, see `toolgym.auditing.opening.maker`: ``reward``, ``held_out``, ``gold``,
            ``form``, ``reward_range``, ``question``, ``oracle``, ``rows``.

    Raises:
        UnknownNameError: nothing has that id.
        BadInputError: an argument that cannot be used, or an environment that cannot be made.
        MissingExtraError: the package of the environment is not installed.
    """
    if tasks < 3 or turns < 1 or deadline <= 0 or seconds <= 0:
        raise BadInputError(
            "an audit needs tasks of at least 3, turns of at least 1, and deadline and seconds "
            f"above 0, not {tasks!r}, {turns!r}, {deadline!r} and {seconds!r}"
        )
    make = maker(env, dict(env_args or {}), options)
    told = {"tasks": tasks, "seed": seed, "turns": turns, "deadline": deadline}
    tell = progress or (lambda stage, done, planned, note: None)
    player, other = Player(make, deadline, 1), Player(make, deadline, 2)
    try:
        facts = player.start()
        try:
            session = _begin(facts, player, turns, deadline, seconds)
        except EndedError as error:  # nothing can be played, which is what has to be told
            rule = "fails where a reset, by which prompts are read, does not return"
            hangs = Finding("deadline", FAILS, f"no prompt could be read: {error}", rule)
            return AuditReport(facts, told, [hangs])
        _check_all(session, other, tasks, seed, tell)
    finally:
        player.close()
        other.close()
    report = AuditReport(session.facts, told, session.findings, list(session.evidence.values()))
    if out is not None:
        report.write(out)
    return report


def _begin(facts: Facts, player: Player, turns: int, deadline: float, seconds: float) -> Session:
    """The first tasks, and the form of answers, in a process that is fresh again."""
    most = _READ.get(facts.kind, 500)
    count = most if facts.count is None else min(facts.count, most)
    first = player.items(range(min(count, behaving.COMPARED)))
    if not first:
        raise BadInputError(f"{facts.name} has no task")
    end = time.monotonic() + seconds
    session = Session(facts, player, first, turns if facts.turns else 1, deadline, end)
    if len(facts.forms) > 1 or facts.forms[0] != "{}":
        _choose_form(session)
        player.close()
        player.items(range(len(first)))  # as the second process will
    session.rest = range(len(first), count)
    return session


def _read_on(session: Session) -> list[Item]:
    """The prompts of further tasks, as many as can be read in a fifth of the time that there is."""
    end, found = time.monotonic() + (session.end - time.monotonic()) / 5, list[Item]()
    for begin in range(0, len(session.rest), _PIECE):
        if time.monotonic() > end:
            break
        try:
            found += session.player.items(session.rest[begin : begin + _PIECE])
        except EndedError as error:
            session.hung.append(("reading of prompts", session.rest[begin], str(error)))
            break
    return found


def _choose_form(session: Session) -> None:
    """The way of writing an answer under which golds earn most."""
    forms, best = session.facts.forms, ""
    most = -1e9
    for form in forms:
        session.player.write_as(form)
        earned = 0.0
        for item in session.items[:5] if len(forms) > 1 else ():
            if item.golds:
                try:
                    earned += max(-1e9, total(session.player.play(oracle(item), item.number)))
                except EndedError:
                    break
        if earned > most + 1e-9:
            most, best = earned, form
    session.player.write_as(best)
    session.form = best


def _check_all(session: Session, other: Player, tasks: int, seed: int, tell: Tell) -> None:
    stages, first = 6, session.items
    tell("audit", 0, stages, "the same twice")
    asked = behaving.probes(session)
    plays = behaving.first_plays(session.player, asked)
    session.played += [played for played in plays if played is not None]
    read = [*first, *_read_on(session)]
    session.items = random.Random(seed).sample(read, min(tasks, len(read)))
    tell("audit", 1, stages, "golds")
    session.play_honest()
    tell("audit", 2, stages, "floors")
    tried = rewarding.play_floors(session)
    rewarding.play_late(session)
    rewarding.check_oracle(session, tried)
    rewarding.check_floors(session, tried)
    rewarding.check_spread(session, read)
    tell("audit", 3, stages, "repeats")
    behaving.check_repeats(session, first, asked, plays, other)
    behaving.check_cost(session, plays, asked)
    tell("audit", 4, stages, "odd replies")
    _check_errors(session)
    behaving.check_ends(session)
    behaving.check_robust(session)
    behaving.check_code(session)
    tell("audit", 5, stages, "texts")
    rewarding.check_range(session)
    behaving.check_runs(session)
    behaving.check_deadline(session)
    _check_prompts(session, read)
    _check_tasks(session, read)
    _check_overlap(session, read)
    tell("audit", stages, stages, "")


def _check_prompts(session: Session, read: Sequence[Item]) -> None:
    """Golds that a prompt, or a tool's document, gives away."""
    rule = (
        "what stands right behind a fixed text of the prompt is the gold; such texts are found in "
        "half of the tasks and counted in the other half; fails where the 99.9 % interval of the "
        "share that is right lies above one half, and they are right with at least 3 golds"
    )
    known = [item for item in read if item.golds]
    rules = copying_rules(known)
    golds = {item.number: item.golds[0] for item in known}
    leaks = [
        each
        for each in rules
        if least(each.right, each.fires) > 0.5 and len({golds[n] for n in each.numbers}) >= 3
    ]
    says = f"no text of {len(known)} prompts tells what the gold is"
    verdict = PASSES
    if leaks:
        one = leaks[0]
        says = f"what stands behind {one.context!r} is the gold in {one.right} of {one.fires} tasks"
        says += " that have it"
        verdict = FAILS
    elif len(known) < 22:
        says, verdict = f"{len(known)} tasks with golds are too few to say", NOT_SHOWN
    script = Script("opening", (("say", ANSWER),))
    shown = [session.play(script, n) for n in leaks[0].numbers[:3]] if leaks else []
    kept = [played for played in shown if played is not None]
    session.add("prompts", verdict, says, rule, kept)
    with_tools = [item for item in known if item.tools]
    rule = "the share of tasks whose own gold stands in the documents of their tools"
    if len(with_tools) < 10:
        session.add("tools", NOT_SHOWN, "there are no tools, or too few tasks with them", rule)
        return
    own, chance = own_rate([item.tools for item in with_tools], with_tools)
    says = f"the documents of tools hold the task's own gold in {len(own)} of {len(with_tools)} "
    says += f"tasks, that of another task in {chance:.1%}"
    rule += ", beyond that of golds of other tasks by over 10 %"
    session.judge("tools", len(own), len(with_tools), min(0.9, chance + 0.1), says, rule)


def _check_errors(session: Session) -> None:
    """Golds in what an environment answers to a wrong, an empty or a broken reply."""
    rule = "the share of tasks in which an answer to a wrong, empty or broken reply holds the gold"
    broken = '<tool_call>\n{"name": "no_such_tool", "arguments": {'
    texts, items, plays = [], [], []
    if session.facts.turns:
        for item in session.items:
            wrong = wrong_gold(item, session.items) or ANSWER
            moves = (("answer", wrong), ("say", ""), ("say", broken), ("say", "Action: nothing[]"))
            heard = []
            for move in moves:
                played = session.play(Script("error", (move,)), item.number)
                if played is not None and not played.ended and played.outcomes:
                    heard.append((played.outcomes[0].observation.replace(wrong, ""), played))
            # What a prompt says already is not told by an error.
            quiet = not any(gold in item.prompt for gold in item.golds)
            if heard and item.golds and quiet:
                texts.append("\n".join(text for text, _ in heard))
                items.append(item)
                plays.append(heard)
    if len(items) < 5:
        says = "nothing is told before the end of an episode, or too few tasks have golds"
        session.add("errors", NOT_SHOWN, says, rule)
        return
    own, chance = own_rate(texts, items)
    shown = [
        next((p for text, p in plays[place] if any(g in text for g in items[place].golds)), None)
        for place in own
    ]
    says = f"what is told after a wrong reply holds the gold in {len(own)} of {len(items)} tasks, "
    says += f"that of another task in {chance:.1%}"
    kept = [played for played in shown if played is not None]
    bound = min(0.9, chance + 0.1)
    rule += ", beyond that of golds of other tasks by over 10 %"
    session.judge("errors", len(own), len(items), bound, says, rule, kept)


def _names(groups: Sequence[Sequence[Item]]) -> str:
    return "; ".join(" = ".join(item.key for item in group[:3]) for group in groups[:5])


def _check_tasks(session: Session, read: Sequence[Item]) -> None:
    """Tasks that stand twice, contradict each other, or cannot be solved."""
    doubled, n = twins(read), len(read)
    more = sum(len(group) - 1 for group in doubled)
    says = f"{more} of {n} tasks repeat another one" + (f": {_names(doubled)}" if doubled else "")
    if session.facts.drawn:
        rule = "the share of drawn tasks that repeat an earlier one"
        session.judge("duplicates", more, n, _DRAWN, says, rule)
    else:
        rule = "fails where any task of a set repeats another one, but for case and blanks"
        session.add("duplicates", FAILS if doubled else PASSES, says, rule, hits=more, of=n)
    # Where a user speaks again, tasks may differ in what he says later.
    apart = () if session.facts.oracle else [item for item in read if item.golds]
    asked = contradictions(apart)
    against = [group for group in asked[:_ASKED] if not _agree(session, group)]
    rule = "fails where two tasks ask the same, and the gold of one does not earn all in the other"
    says = f"{len(against)} groups of tasks ask the same and have different golds"
    says += f": {_names(against)}" if against else ""
    if more := min(len(asked), _ASKED) - len(against):
        says += f"; in {more} groups the golds are right for each other"
    session.add("contradictions", FAILS if against else PASSES, says, rule, hits=len(against))
    some = any(item.golds for item in read)
    bare = [i for i in read if not i.prompt.strip()]
    bare += [i for i in read if some and not any(g.strip() for g in i.golds) and i not in bare]
    rule = "fails where a task has no prompt, or no gold while others have one"
    says = f"{len(bare)} of {n} tasks have no prompt or no gold"
    says += f": {', '.join(item.key for item in bare[:5])}" if bare else ""
    verdict = FAILS if bare else PASSES if some else NOT_SHOWN
    session.add("solvable", verdict, says, rule, hits=len(bare), of=n)


def _agree(session: Session, group: Sequence[Item]) -> bool:
    """Whether the golds of tasks that ask the same earn all in each other, as far as is tried."""
    first, *others = group[:3]
    pairs = [(first, other) for other in others if other.golds != first.golds]
    pairs += [(other, first) for first, other in pairs]
    return bool(pairs) and all(session.right(one.golds[0], other.number) for one, other in pairs)


def _check_overlap(session: Session, read: Sequence[Item]) -> None:
    """Tasks of the other split that stand in this one."""
    try:
        others = session.player.ask("held_out", max(300, len(read)))
    except EndedError as error:
        session.add("overlap", NOT_SHOWN, f"the other split was not read in time: {error}")
        return
    except CheckError as error:
        session.add("overlap", FAILS, f"the other split cannot be read: {error}")
        return
    rule = "the share of tasks of the other split that ask what one of these asks"
    if others is None:
        session.add("overlap", NOT_SHOWN, "no other split is known; name one with --held-out", rule)
        return
    found, n = shared(read, others), len(others)
    says = f"{len(found)} of {n} tasks of the other split stand here, too"
    says += f": {_names([(b, a) for a, b in found])}" if found else ""
    if session.facts.drawn:
        session.judge("overlap", len(found), n, _DRAWN, says, rule)
        return
    rule = "fails where any task of the other split stands in this one"
    session.add("overlap", FAILS if found else PASSES, says, rule, hits=len(found), of=n)
