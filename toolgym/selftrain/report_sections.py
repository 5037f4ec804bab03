"""What a self-training run shows beside its accuracy: rounds against each other, pass@k, need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym.data.conditions import measure
from toolgym.evaluation.compare import KINDS, compare, need_rows, tool_need
from toolgym.evaluation.document import Block, Heading, Paragraph, Table
from toolgym.evaluation.groups import pass_rates
from toolgym.evaluation.intervals import Interval, mcnemar
from toolgym.rollouts.engine import Run
from toolgym.rollouts.playing import make_env
from toolgym.rollouts.sources import open_recording
from toolgym.selftrain.stages import BASELINE, Work
from toolgym.trajectory import Trajectory

__all__ = ["between_rounds", "data", "fell", "need", "overlap", "passed", "sampled"]

_P = 0.05


def sampled(work: Work, number: int) -> list[Trajectory]:
    """The held-out episodes of an evaluation at the sampling temperature, ids made unique."""
    tested = [e.label for e in work.environments if e.test is not None]
    return list(open_recording([_evaluated(work, number, label) for label in tested]))


def fell(work: Work, number: int) -> bool:
    """Whether a round's held-out accuracy is below the one before it, by more than chance."""
    lost, gained = _changes(work, number)
    return lost > gained and mcnemar(lost, gained) < _P


def _changes(work: Work, number: int) -> tuple[int, int]:
    """Questions that went from right to wrong in a round, and from wrong to right."""
    right = measure("accuracy")
    lost = gained = 0
    for environment in work.environments:
        if environment.test is None:
            continue
        before, after = (
            {t.id: right(t) >= 1 for t in Run.open(_evaluated(work, n, environment.label))}
            for n in (number - 1, number)
        )
        for key in before.keys() & after.keys():
            lost += before[key] and not after[key]
            gained += after[key] and not before[key]
    return lost, gained


def _evaluated(work: Work, number: int, label: str) -> Path:
    return work.out / f"evaluation-{number}" / f"{label}-sampled"


def between_rounds(work: Work, last: int) -> list[Block]:
    """Each round against the one before: the paired change, its interval and test."""
    if last < 1:
        return []
    rows = []
    for number in range(1, last + 1):
        found = compare(sampled(work, number - 1), sampled(work, number), seed=work.settings.seed)
        row = found["accuracy"]
        lost, gained = _changes(work, number)
        ends = "-" if row.low is None or row.high is None else f"[{_p(row.low)}, {_p(row.high)}]"
        change = f"{_p(row.change)} {ends}"
        rows.append(
            [
                f"{number} against {number - 1}",
                str(gained),
                str(lost),
                change,
                f"{mcnemar(lost, gained):.2g}",
            ]
        )
    text = (
        "Sampled, the same questions: change of the accuracy in points with its 95 % interval "
        "(bootstrap over questions), and the exact McNemar test."
    )
    head = ["round", "wrong to right", "right to wrong", "change", "p"]
    return [Heading("Rounds against each other"), Paragraph(text), Table(head, rows)]


def _p(value: float) -> str:
    return f"{100 * value:+.1f}"


def passed(work: Work, rounds: Sequence[Mapping[str, Any]]) -> list[Block]:
    """pass@k of each round's practice: what more samples would have found."""
    rates = {number: _practice_rates(work, number) for number in range(1, len(rounds) + 1)}
    rates = {number: found for number, found in rates.items() if found}
    if not rates:
        return []
    ks = sorted({k for found in rates.values() for k in found})
    rows = [
        [str(number), *(_share(found[k]) if k in found else "-" for k in ks)]
        for number, found in rates.items()
    ]
    text = "Share of practice questions with a right one among k episodes (before the round)."
    head = ["round", *(f"pass@{k}" for k in ks)]
    return [Heading("Practice"), Paragraph(text), Table(head, rows)]


def _practice_rates(work: Work, number: int) -> dict[int, Interval]:
    practised = [e.label for e in work.environments if e.train is not None]
    folders = [work.out / f"round-{number}" / "practice" / label for label in practised]
    episodes = list(open_recording([folder for folder in folders if folder.is_dir()]))
    return pass_rates(episodes, seed=work.settings.seed)


def need(work: Work, last: int) -> list[Block]:
    """Where tools were needed, over-used and under-used, before and after."""
    if not (work.out / BASELINE).is_dir():
        return []
    rows = []
    for number, when in ((0, "before"), (last, "after")):
        for found in tool_need(sampled(work, number), _alone(work)):
            cells = [_share(found.shares[kind]) for kind in KINDS]
            rows.append([f"{when}, {found.label}", str(found.count), *cells])
    text = (
        "Beside the base model without tools: needed = wrong without, right with; over-used = "
        "right without, called all the same; under-used = wrong without, not called, still wrong; "
        "harmed = right without, wrong with."
    )
    head = ["questions", "n", *(kind.replace("_", "-") for kind in KINDS)]
    return [Heading("When a tool was worth it"), Paragraph(text), Table(head, rows)]


def _alone(work: Work) -> list[Trajectory]:
    tested = [e.label for e in work.environments if e.test is not None]
    return list(open_recording([work.out / BASELINE / label for label in tested]))


def _share(found: Interval) -> str:
    if found.value is None:
        return "-"
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{100 * found.value:.1f} %{ends}"


def overlap(work: Work) -> tuple[int, int]:
    """Held-out questions that are practised, too (letters and digits compared); and all."""
    practised: set[str] = set()
    for environment in work.environments:
        if environment.train is not None:
            tasks = make_env(environment.id, {**environment.args, **environment.train}).tasks
            practised.update(_key(task.question) for task in tasks)
    held_out = {_key(trajectory.task.question) for trajectory in sampled(work, 0)}
    return len(held_out & practised), len(held_out)


def _key(question: str) -> str:
    return "".join(filter(str.isalnum, question.casefold()))


def data(work: Work, last: int) -> dict[str, Any]:
    """The findings as plain values."""
    found: dict[str, Any] = {
        "overlap": dict(zip(("shared", "held_out"), overlap(work), strict=True))
    }
    found["changes"] = [
        dict(zip(("lost", "gained"), _changes(work, number), strict=True))
        for number in range(1, last + 1)
    ]
    if (work.out / BASELINE).is_dir():
        found["need"] = {
            when: need_rows(tool_need(sampled(work, number), _alone(work)))
            for number, when in ((0, "before"), (last, "after"))
        }
    return found
