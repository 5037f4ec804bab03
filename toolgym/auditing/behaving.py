"""Checks of how an environment behaves: the same twice, nothing left behind, whatever is said."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolgym.auditing.floors import ANSWER, hostile
from toolgym.auditing.processes import EndedError, Played, Player, Script
from toolgym.auditing.report import FAILS, NOT_SHOWN, PASSES, Verdict
from toolgym.auditing.session import Session
from toolgym.auditing.subjects import Item

__all__ = [
    *(
        "COMPARED",
        "check_code",
        "check_cost",
        "check_deadline",
        "check_ends",
        "check_repeats",
        "check_robust",
        "check_runs",
    ),
    *("first_plays", "probes"),
]

_KEPT = 64 << 10  # bytes an episode that may stay behind
_GROWN = 8 << 20  # bytes below which growth is noise of the allocator
_SLOWER = 5.0
_PAUSE = 0.1  # seconds below which being slower is noise
_SILENT = 60  # turns
COMPARED = 50
"""Tasks whose prompts are compared between two processes."""
Probe = tuple[Script, int]


def probes(session: Session) -> list[Probe]:
    """Three tasks, each with a wrong answer and with its gold, which are played again and again."""
    found = []
    for item in session.items[:3]:
        turns = session.turns if session.facts.turns else 1
        wrong = Script("probe", (("say", ANSWER), ("answer", ANSWER)), min(3, turns))
        found.append((wrong, item.number))
        if item.golds:
            found.append((Script("gold", (("answer", item.golds[0]),)), item.number))
    return found


def first_plays(player: Player, asked: Sequence[Probe]) -> list[Played | None]:
    """The probes, each with a fresh instance; None where one had to be ended."""
    found: list[Played | None] = []
    for script, number in asked:
        try:
            player.ask("renew")
            found.append(player.play(script, number))
        except EndedError:  # the same replies are played later, and told then
            found.append(None)
    return found


def _differ(before: Sequence[Played | None], after: Sequence[Played | None]) -> list[Played]:
    pairs = zip(before, after, strict=True)
    return [b for a, b in pairs if a is not None and b is not None and a.seen != b.seen]


def check_repeats(
    session: Session,
    tasks: Sequence[Item],
    asked: Sequence[Probe],
    first: Sequence[Played | None],
    other: Player,
) -> None:
    """The same twice: in another process, after other episodes, and beside another instance.

    Args:
        session: of the audit.
        tasks: that the first process read first.
        asked: the probes, which it played next.
        first: what came of them.
        other: the second process, which has done nothing yet.
    """
    rule = (
        "fails where the same seed and the same replies give another opening, observation, reward "
        "or end in a second process that has done the same, in which Python's hashes have another "
        "seed, or another gold that does not earn all"
    )
    try:
        other.write_as(session.form)
        again = other.items([item.number for item in tasks])
        changed = _differ(first, first_plays(other, asked))
    except EndedError as error:
        for check in ("determinism", "reset"):
            session.add(check, NOT_SHOWN, f"a second process could not play: {error}", rule)
        return
    n = len(asked)
    kinds = [f"{len(changed)} of {n} episodes differ in a second process"] if changed else []
    unlike, other_golds = _unlike(session, tasks, again)
    kinds += [f"prompts or golds of {len(unlike)} of {len(tasks)} tasks differ: "
              f"{', '.join(unlike[:5])}"] if unlike else []  # fmt: skip
    says = "; ".join(kinds) or f"{n} episodes and {len(tasks)} tasks are the same in two processes"
    if other_golds:
        says += f"; {len(other_golds)} tasks have another gold there, which is right, too: "
        says += ", ".join(other_golds[:5])
    session.add("determinism", FAILS if changed or unlike else PASSES, says, rule, changed)
    rule = (
        "fails where an episode that is the same in two processes differs after other episodes "
        "(one of them broken off), or while another instance plays"
    )
    if changed:
        says = "what is not deterministic cannot be compared"
        session.add("reset", NOT_SHOWN, says, rule)
        return
    left: list[Played] = []
    beside: list[Played] = []
    numbers = [number for _, number in asked]
    for place in reversed(range(n)):
        (script, number), before = asked[place], first[place]
        if before is None:
            continue
        another = next((each for each in numbers if each != number), number)
        session.play(Script("broken off", (("say", ANSWER),)), another)
        after = session.play(script, number)
        left += _differ([before], [after])
        try:
            beside += _differ([before], [session.player.play(script, number, "both", another)])
        except EndedError as error:
            session.hung.append((script.name, number, str(error)))
    kinds = [f"{len(left)} of {n} episodes differ after other ones"] if left else []
    kinds += [f"{len(beside)} differ while another instance plays"] if beside else []
    says = "; ".join(kinds) or f"{n} episodes are the same after all others, and beside another one"
    session.add("reset", FAILS if left or beside else PASSES, says, rule, left or beside)


def _unlike(
    session: Session, tasks: Sequence[Item], again: Sequence[Item]
) -> tuple[list[str], list[str]]:
    """Tasks that differ between two processes, and those that have another gold which is right."""
    unlike, other_golds = list[str](), list[str]()
    for one, two in zip(tasks, again, strict=True):
        if one == two:
            continue
        same = (one.prompt, one.tools) == (two.prompt, two.tools) and one.golds and two.golds
        good = same and session.right(two.golds[0], one.number)
        (other_golds if good else unlike).append(one.key)
    return unlike, other_golds


def check_runs(session: Session) -> None:
    """Whether resets, golds and plain answers go through at all."""
    plain = ("oracle", "gold", "probe", "null", "empty", "echo", "paste", "spam")
    raised = [p for p in session.played if p.raised is not None and p.script in plain]
    rule = "fails where a reset, or a step with a gold, an empty or a wrong answer, raises"
    says = f"{len(session.played)} episodes were played"
    if raised:
        says = f"{len(raised)} episodes raised, such as {raised[0].raised!r:.200}"
    session.add("runs", FAILS if raised else PASSES, says, rule, raised)


def check_robust(session: Session) -> None:
    """Replies that a model may write, and that no environment may fall over."""
    number = session.items[0].number
    raised: dict[str, Played] = {}
    tried = died = 0
    for name, text in hostile():
        for kind in ("say", "answer"):
            if kind == "say" and not session.player.ask("accepts", text):
                continue
            tried += 1
            try:
                played = session.player.play(Script(f"hostile: {name}", ((kind, text),)), number)
            except EndedError as error:
                session.hung.append((f"hostile: {name}", number, str(error)))
                died += "died" in str(error)
                break
            session.played.append(played)
            if played.raised is not None:
                raised.setdefault(name, played)
    rule = "fails where a step raises, or takes the process down, for a text that a model may write"
    says = f"{tried} odd replies were taken"
    if raised or died:
        first = next(iter(raised.values()), None)
        names = ", ".join(raised) or "a reply"
        says = f"{len(raised) + died} odd replies raised ({names})"
        says += f": {first.raised[:160]!r}" if first is not None and first.raised else ""
    bad = list(raised.values())
    session.add("robust", FAILS if raised or died else PASSES, says, rule, bad)


def check_code(session: Session) -> None:
    """Whether a reply is evaluated as Python, or by a shell: it would leave a folder behind."""
    rule = (
        "fails where a reply that is a Python expression, or a shell's, is evaluated with the "
        "rights of the environment: a folder that it makes is found afterwards"
    )
    found: list[Played] = []
    tried = 0
    with tempfile.TemporaryDirectory(prefix="toolgym-audit-") as folder:
        mark = Path(folder) / "seen"
        call = f"__import__('os').mkdir({str(mark)!r})"
        for text in (call, f"[{call}]", f"$(mkdir {mark})"):
            for kind in ("say", "answer"):
                if kind == "say" and not session.player.ask("accepts", text):
                    continue
                tried += 1
                number = session.items[0].number
                played = session.play(Script("code", ((kind, text),)), number, late=True)
                if mark.is_dir():
                    mark.rmdir()
                    found += [played] if played is not None else []
    says = f"none of {tried} replies of code was evaluated"
    if found:
        says = f"{len(found)} of {tried} replies of code were evaluated: {found[0].replies[0]!r}"
    session.add("code", FAILS if found else PASSES, says, rule, found)


def check_deadline(session: Session) -> None:
    """Whether each call came back by the deadline; those that did not were ended."""
    slow = [p for p in session.played if max(p.seconds, default=0.0) > session.deadline]
    rule = (
        f"fails where a step does not return within {session.deadline:g} s, and had to be ended; "
        "not shown where one returned late: a machine that others use, too, may be why"
    )
    says = f"every step returned within {session.deadline:g} s"
    ended = [each for each in session.hung if "return" in each[2]]
    if ended:
        name, number, said = ended[0]
        says = f"{len(ended)} calls were ended, such as {name!r} on task {number}: {said}"
    elif slow:
        says = f"{len(slow)} episodes have a step of up to {max(slow[0].seconds):.1f} s"
    tasks = [f"{name} on task {number}" for name, number, _ in ended]
    verdict: Verdict = FAILS if ended else NOT_SHOWN if slow else PASSES
    session.add("deadline", verdict, says, rule, slow, calls=tasks)


def check_ends(session: Session) -> None:
    """Whether episodes end."""
    rule = (
        "fails where no episode ever ended; not shown where one did, but a policy that is silent "
        f"for {_SILENT} turns is never cut off"
    )
    ended = any(p.ended for p in session.played)
    if not session.facts.turns:
        session.add("ends", PASSES, "each episode has one turn", rule)
        return
    silent = session.play(Script("silent", (("say", ""),), _SILENT), session.items[0].number)
    if silent is not None and silent.ended:
        says = f"a silent policy is cut off after {len(silent.outcomes)} turns"
        session.add("ends", PASSES, says, rule)
        return
    says = f"a policy that is silent for {_SILENT} turns is not cut off"
    shown = [silent] if silent is not None else []
    says = says if ended else "none of the episodes ended"
    session.add("ends", NOT_SHOWN if ended else FAILS, says, rule, shown)


def check_cost(session: Session, first: Sequence[Played | None], asked: Sequence[Probe]) -> None:
    """Time and memory a step, and whether either grows with the episodes that were played."""
    seconds = [each for played in session.played for each in played.seconds]
    again = [session.play(script, number) for script, number in asked]
    before = sum(sum(p.seconds) for p, q in zip(first, again, strict=True) if p and q)
    after = sum(sum(q.seconds) for p, q in zip(first, again, strict=True) if p and q)
    middle = statistics.median(seconds) if seconds else 0.0
    says = f"a step takes {1e3 * middle:.3g} ms in the middle, {1e3 * max(seconds, default=0):.3g} "
    says += f"ms at most; the probes took {before:.3g} s first and {after:.3g} s last"
    rule = f"fails where the probes take over {_SLOWER:g} times as long after all other episodes"
    grows = after > _SLOWER * before + _PAUSE
    session.add("time", FAILS if grows else PASSES, says, rule, median=middle)
    notes = session.memory
    rule = f"fails where over {_KEPT >> 10} kB an episode stay behind in the second half of them"
    if len(notes) < 2 or notes[-1][0] <= notes[-2][0] or not notes[-1][1]:
        session.add("memory", NOT_SHOWN, "there is nothing to compare", rule)
        return
    (begun, held), (played, now) = notes[-2:]
    each = (now - held) / (played - begun)
    says = f"{now / 2**20:.0f} MB are held; {each / 1024:.1f} kB an episode stay behind"
    grows = each > _KEPT and now - held > _GROWN
    session.add("memory", FAILS if grows else PASSES, says, rule, bytes_an_episode=each)
