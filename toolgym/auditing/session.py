"""What the checks of an audit share: the tasks that are tried, the players, what was played."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolgym.auditing.floors import oracle
from toolgym.auditing.processes import EndedError, Played, Player, Script
from toolgym.auditing.report import FAILS, NOT_SHOWN, PASSES, Finding, Verdict, ids, recorded
from toolgym.auditing.subjects import Facts, Item
from toolgym.evaluation.intervals import wilson

__all__ = ["FAIL_CONFIDENCE", "Session", "least", "most", "total"]

FAIL_CONFIDENCE = 0.999
"""Of the interval that has to lie beyond a threshold before a check fails: about twenty shares are
judged in an audit, so that together they err in at most one of a hundred."""
_ROUNDING = 1e-9


def least(hits: float, n: int) -> float:
    """Lower end of a share's interval, for a verdict that something fails."""
    return wilson(min(1.0, max(0.0, hits / n)), n, FAIL_CONFIDENCE)[0] if n else 0.0


def most(hits: float, n: int) -> float:
    """Upper end of a share's 95 % interval, for a verdict that something passes."""
    return wilson(min(1.0, max(0.0, hits / n)), n)[1] if n else 1.0


def total(played: Played) -> float:
    """The rewards of an episode, summed; NaN where one of them is not a number."""
    found = 0.0
    for outcome in played.outcomes:
        try:
            found += float(outcome.reward)
        except (TypeError, ValueError):
            return math.nan
    return found


@dataclass
class Session:
    """One audit while it runs.

    Args:
        facts: of the subject.
        player: plays in the first process.
        items: the tasks that are tried.
        turns: most turns of an episode.
        deadline: seconds a step.
        end: reading of the monotonic clock after which no episode is begun.
        form: how answers are written.
        rest: numbers of the tasks whose prompts are read beside the first ones.
    """

    facts: Facts
    player: Player
    items: list[Item]
    turns: int
    deadline: float
    end: float
    form: str = "{}"
    rest: range = range(0)
    played: list[Played] = field(default_factory=list)
    hung: list[tuple[str, int, str]] = field(default_factory=list)
    """Script, task, and what was said of each call that had to be ended."""
    findings: list[Finding] = field(default_factory=list)
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    honest: dict[int, Played] = field(default_factory=dict)
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Episodes played so far, and bytes that the process holds."""
    high: float | None = None
    low: float = 0.0

    def __post_init__(self) -> None:
        """Nothing is played yet."""
        self.high, self.low = self.facts.high, self.facts.low or 0.0
        self._samples: dict[str, int] = {}

    def play(self, script: Script, number: int, late: bool = False) -> Played | None:
        """One episode; None where it had to be ended. A script that hung twice is left alone.

        Args:
            script: of the policy.
            number: of the task.
            late: also after the end of the time: what decides a verdict and is short.
        """
        if sum(name == script.name for name, _, _ in self.hung) >= 2:
            return None
        if not late and time.monotonic() > self.end:
            return None
        try:
            played = self.player.play(script, number)
        except EndedError as error:
            self.hung.append((script.name, number, str(error)))
            return None
        self.played.append(played)
        return played

    def note_memory(self) -> None:
        """Write down what the process holds now."""
        self.memory.append((len(self.played), int(self.player.ask("held"))))

    def play_honest(self) -> None:
        """The gold, or the reference solution, of each task that has one."""
        for item in self.items:
            if item.golds or self.facts.oracle:
                played = self.play(oracle(item), item.number)
                if played is not None:
                    self.honest[item.number] = played
        totals = [t for t in map(total, self.honest.values()) if math.isfinite(t)]
        if self.high is None and totals:
            self.high = max(totals)

    def most_of(self, number: int) -> float | None:
        """What an episode of a task can earn: as declared, or else what its solution earns."""
        honest = self.honest.get(number)
        if self.facts.high is None and honest is not None and total(honest) > self.low:
            return total(honest)
        return self.high

    def share(self, played: Played, nothing: float | None = None) -> float | None:
        """What an episode earned as a share of all that there is, from 0 to 1; None: unknown.

        Args:
            played: the episode.
            nothing: reward of which the share is 0; None: the least that there is.
        """
        value, high = total(played), self.most_of(played.number)
        low = self.low if nothing is None else nothing
        if high is None or high <= low or not math.isfinite(value):
            return None
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def whole(self, played: Played) -> bool:
        """Whether an episode earned all."""
        high = self.most_of(played.number)
        return high is not None and high > self.low and total(played) >= high - _ROUNDING

    def right(self, gold: str, number: int) -> bool:
        """Whether the gold of a task, or of another reading of it, earns all in a task."""
        played = self.play(Script("another gold", (("answer", gold),)), number, late=True)
        return played is not None and played.raised is None and self.whole(played)

    def keep(self, played: Iterable[Played]) -> tuple[str, ...]:
        """Record episodes as evidence; their ids."""
        rows = []
        known = {item.number: item for item in self.items}
        for each in list(played)[:5]:
            item = known.get(each.number)
            key = item.key if item is not None else str(each.number)
            sample = self._samples[key] = self._samples.get(key, -1) + 1
            row = recorded(each, item, self.facts.name, sample)
            if row is not None:
                self.evidence[row["id"]] = row
            rows.append(row)
        return ids(rows)

    def add(
        self,
        check: str,
        verdict: Verdict,
        says: str,
        rule: str = "",
        played: Sequence[Played] = (),
        **figures: Any,
    ) -> None:
        """Write down a finding with the episodes that show it."""
        kept = self.keep(played) if played else ()
        self.findings.append(Finding(check, verdict, says, rule, figures, kept))

    def judge(
        self,
        check: str,
        hits: float,
        n: int,
        bound: float,
        says: str,
        rule: str,
        played: Sequence[Played] = (),
        **figures: Any,
    ) -> None:
        """A finding on a share that may not lie above a bound.

        Args:
            check: its name.
            hits: of how many, not always whole.
            n: of how many.
            bound: of the share.
            says: what was seen.
            rule: what the share is of; the thresholds are added.
            played: episodes that show it.
            figures: further ones.
        """
        verdict: Verdict = NOT_SHOWN
        if least(hits, n) > bound:
            verdict = FAILS
        elif most(hits, n) <= bound or hits == 0:
            verdict = PASSES
        rule = (
            f"{rule}; fails where the 99.9 % interval of the share lies above {bound:.0%}, passes "
            f"where none was seen or the 95 % interval lies below"
        )
        shown = played if verdict != PASSES else ()
        self.add(check, verdict, says, rule, shown, hits=hits, of=n, bound=bound, **figures)
