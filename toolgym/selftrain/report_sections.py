"""What a self-training run shows: the judged metric and all others by round, pass@k, tool need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_text
from toolgym.data.conditions import COPIED_WORDS
from toolgym.data.lineage import LINEAGE
from toolgym.data.tracing import Lineage, trace
from toolgym.evaluation.compare import KINDS, need_rows, tool_need
from toolgym.evaluation.document import Block, Figure, Heading, Paragraph, Table, line, svg, text
from toolgym.evaluation.groups import pass_rates
from toolgym.evaluation.intervals import Interval, holm, wilson
from toolgym.rollouts.playing import make_env
from toolgym.rollouts.recording import Episodes, open_recording
from toolgym.selftrain.curriculum import Tally
from toolgym.selftrain.judging import WAYS, Change, Evaluated, Evaluations, average, share
from toolgym.selftrain.stages import BASELINE, Work, recorded
from toolgym.selftrain.steering import by_kind

__all__ = [
    *("between_rounds", "by_environment", "data", "lineage", "need", "overlap", "passed"),
    *("result", "steering"),
]

_SHOWN = (
    *("exact_match", "token_f1", "accuracy", "accuracy_paper", "Solve-P", "Solve-R"),
    *(
        "Solve-F1",
        "invoke_rate",
        "malformed_rate",
        "answer_words_median",
        "answer_words",
        "copied_passage",
        "empty_answers",
    ),
)
_NOT_SHARES = frozenset({"invoke_rate", "answer_words_median", "answer_words"})


def result(found: Evaluations, last: int) -> list[Block]:
    """The verdict, what else changed, and the judged metric before and after."""
    judge, labels = found.judge(), found.labels
    questions = sum(len(found.of(0, label).scores) for label in labels)
    before, after = (found.score(number, "sampled") for number in (0, last))
    if not last:
        text = f"Nothing was trained. {judge} on {questions} held-out questions, sampled: {before}."
        return [Paragraph(text), Heading("Before"), _before_and_after(found, last)]
    change = found.change(0, last)
    rounds = f"{last} round{'s' * (last > 1)}"
    return [
        Paragraph(
            f"Verdict: {change.verdict}. By {judge} on {questions} held-out questions, sampled: "
            f"{before} before, {after} after {rounds}; {change.gained} questions got better and "
            f"{change.lost} worse ({change.test}: p = {change.p:.2g})."
        ),
        Paragraph(_beside(found, last)),
        Paragraph(
            f"This is one test: the model after {rounds} against the base, on the same questions "
            "with the same seeds. Each table below holds several: there p is given as it is and "
            "corrected for their number (Holm 1979)."
        ),
        Heading("Before and after"),
        _before_and_after(found, last),
    ]


def _beside(found: Evaluations, last: int) -> str:
    """What else changed, and the metrics that say something else than the verdict."""
    verdict, parts = found.change(0, last).verdict, []
    for name in ("exact_match", "accuracy", "accuracy_paper"):
        change = found.change(0, last, metric=name)
        against = change.verdict not in (verdict, "no difference shown")
        other = f", which says {change.verdict} (p = {change.p:.2g})" if against else ""
        parts.append(f"{name} {_points(change.mean)} points{other}")
    sides = [
        [figures for label in found.labels for figures in found.of(n, label).figures.values()]
        for n in (0, last)
    ]
    words = ([f.answer_words for f in side if f.answered] for side in sides)
    lengths = (f"{sum(each) / len(each):.1f}" if each else "-" for each in words)
    copied = (f"{100 * sum(f.copied_passage for f in side) / len(side):.1f} %" for side in sides)
    parts.append(f"words of an answer {' to '.join(lengths)}")
    parts.append(f"answers that copy a passage {' to '.join(copied)}")
    return "Beside it: " + "; ".join(parts) + "."


def _before_and_after(found: Evaluations, last: int) -> Table:
    head = ["held-out questions", "judged by", "n", "before"]
    rows, changes = [], []
    for way in WAYS:
        for label in found.labels:
            sides = [found.score(n, way, label) for n in ((0, last) if last else (0,))]
            count = str(len(found.of(0, label, way).scores))
            rows.append([f"{label}, {way}", found.judge(label), count, *sides])
            changes.append(found.change(0, last, way, [label]))
    if not last:
        return Table(head, rows)
    corrected = holm([change.p for change in changes])
    cells = [
        [*row, *_change_cells(change), f"{p:.2g}"]
        for row, change, p in zip(rows, changes, corrected, strict=True)
    ]
    return Table([*head, "after", "better", "worse", "change", "p", "p, corrected"], cells)


def by_environment(found: Evaluations, last: int) -> list[Block]:
    """One table an environment: every figure before and after each round, with its interval."""
    blocks: list[Block] = [Heading("Every figure by round")]
    head = ["figure", "before", *(f"after round {number}" for number in range(1, last + 1))]
    for label in found.labels:
        judge = found.judge(label)
        blocks.append(Paragraph(f"{label}, {len(found.of(0, label).scores)} questions, sampled:"))
        rows = [
            [
                f"{judge} (judges)",
                *(found.score(n, "sampled", label) for n in range(last + 1)),
            ]
        ]
        known = found.of(0, label).rows
        names = [n for n in _SHOWN if n in known and n != judge]
        for name in names:
            cells = (found.of(n, label).rows[name] for n in range(last + 1))
            rows.append([name, *(map(average if name in _NOT_SHARES else share, cells))])
        rows.append(
            [f"{judge}, greedy", *(found.score(n, "greedy", label) for n in range(last + 1))]
        )
        for name in ("accuracy", "copied_passage"):
            cells = (found.of(n, label, "greedy").rows[name] for n in range(last + 1))
            rows.append([f"{name}, greedy", *map(share, cells)])
        blocks.append(Table(head, rows))
    blocks.append(
        Paragraph(
            "`invoke_rate` is calls an episode, `malformed_rate` the share of attempts that could "
            "not be read as a call, `answer_words` the words of an answer (mean, and median), "
            "`copied_passage` the share of episodes whose answer holds at least "
            f"{COPIED_WORDS} words in a row, and more than any gold answer has, of one tool "
            "result. `accuracy_paper` counts the gold anywhere in an answer: a pasted passage can "
            "raise it."
        )
    )
    return blocks


def between_rounds(found: Evaluations, last: int) -> list[Block]:
    """Each round against the one before: the paired change, its interval and test."""
    if last < 1:
        return []
    changes = [found.change(number - 1, number) for number in range(1, last + 1)]
    corrected = holm([change.p for change in changes])
    rows = [
        [f"{number} against {number - 1}", *_change_cells(change), f"{p:.2g}"]
        for number, (change, p) in enumerate(zip(changes, corrected, strict=True), 1)
    ]
    text = (
        f"Sampled, the same questions: change of {found.judge()} in points with its 95 % interval "
        f"(bootstrap over questions), and the {changes[0].test} of each round, as it is and "
        "corrected for the number of rounds (Holm 1979)."
    )
    head = ["round", "better", "worse", "change", "p", "p, corrected"]
    return [Heading("Rounds against each other"), Paragraph(text), Table(head, rows)]


def _change_cells(change: Change) -> list[str]:
    """Questions that got better and worse, the mean change in points, and p."""
    row = change.interval
    ends = (
        "" if row.low is None or row.high is None else f" [{_points(row.low)}, {_points(row.high)}]"
    )
    value = "-" if row.value is None else _points(row.value)
    return [str(change.gained), str(change.lost), value + ends, f"{change.p:.2g}"]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def passed(work: Work, rounds: Sequence[Mapping[str, Any]]) -> list[Block]:
    """pass@k of each round's practice: what more samples would have found."""
    rates = {number: _practice_rates(work, number) for number in range(1, len(rounds) + 1)}
    rates = {number: found for number, found in rates.items() if found}
    if not rates:
        return []
    ks = sorted({k for found in rates.values() for k in found})
    rows = [
        [str(number), *(share(found[k]) if k in found else "-" for k in ks)]
        for number, found in rates.items()
    ]
    text = (
        "Share of practice questions with a right one (`accuracy`) among k episodes, played before "
        "the round trained."
    )
    head = ["round", *(f"pass@{k}" for k in ks)]
    return [Heading("Practice"), Paragraph(text), Table(head, rows)]


def _practice_rates(work: Work, number: int) -> dict[int, Interval]:
    practised = [e.label for e in work.environments if e.train is not None]
    folder = work.out / f"round-{number}" / "practice"
    runs = [run for label in practised for run in recorded(folder, label)]
    episodes = open_recording([run.path for run in runs])
    return pass_rates(episodes)


def steering(work: Work) -> list[Block]:
    """What a curriculum asked, by kind and round, and what was learnt and forgotten."""
    settings = work.settings.curriculum
    if settings is None:
        return []
    table = by_kind(work)
    rounds = sorted({number for found in table.values() for number in found})
    rows, live, tasks = [], 0.0, 0.0
    for (label, kind), found in table.items():
        cells = []
        for number in rounds:
            tally = found.get(number)
            live, tasks = (live + tally.live, tasks + tally.tasks) if tally else (live, tasks)
            cells.append(
                f"{tally.right / tally.tries:.0%} of {tally.tasks:.0f} tasks" if tally else "-"
            )
        rows.append([f"{label}: {kind}", *cells, _course(found, settings.between[1])])
    low, high = (f"{100 * end:g}" for end in settings.between)
    text = (
        f"Tasks were made for each round, chosen by {settings.choose!r} (band {low} to {high} %): "
        "right episodes by the round's filter, and how many tasks were played. A kind is learnt "
        "when its episodes are above the band, with the lower end of the 95 % interval; forgotten "
        "when a later round's interval lies below the one in which it was. Of all tasks "
        f"{live / max(1.0, tasks):.0%} had episodes that were rewarded differently."
    )
    head = ["kind", *(f"round {number}" for number in rounds), "course"]
    return [Heading("What was asked"), Paragraph(text), Table(head, rows)]


def _course(found: Mapping[int, Tally], high: float) -> str:
    learnt: float | None = None
    said = "-"
    for number, tally in sorted(found.items()):
        low, top = wilson(tally.right / tally.tries, round(tally.tries))
        if learnt is not None and top < learnt:
            return f"{said}, forgotten in round {number}"
        if learnt is None and low > high:
            learnt, said = low, f"learnt by round {number}"
    return said


def need(work: Work, last: int) -> list[Block]:
    """Where tools were needed, over-used and under-used, before and after."""
    if not (work.out / BASELINE).is_dir():
        return []
    rows = []
    for number, when in ((0, "before"), (last, "after")):
        for found in tool_need(_sampled(work, number), _alone(work)):
            cells = [share(found.shares[kind]) for kind in KINDS]
            rows.append([f"{when}, {found.label}", str(found.count), *cells])
    text = (
        "Beside the base model without tools, by `accuracy`: needed = wrong without, right with; "
        "over-used = right without, called all the same; under-used = wrong without, not called, "
        "still wrong; harmed = right without, wrong with."
    )
    head = ["questions", "n", *(kind.replace("_", "-") for kind in KINDS)]
    return [Heading("When a tool was worth it"), Paragraph(text), Table(head, rows)]


def _sampled(work: Work, number: int) -> Episodes:
    """The held-out episodes of an evaluation at the sampling temperature, ids made unique."""
    tested = [e.label for e in work.environments if e.test is not None]
    folders = [work.out / f"evaluation-{number}" / f"{name}-sampled" for name in tested]
    return open_recording(folders)


def _alone(work: Work) -> Episodes:
    tested = [e.label for e in work.environments if e.test is not None]
    return open_recording([work.out / BASELINE / label for label in tested])


def overlap(work: Work) -> tuple[int, int]:
    """Held-out questions that are practised, too (letters and digits compared); and all."""
    practised: set[str] = set()
    for environment in work.environments:
        if environment.train is not None and work.settings.curriculum is not None:
            for number in range(1, work.settings.rounds + 1):
                folder = work.out / f"round-{number}" / "practice"
                for run in recorded(folder, environment.label):
                    practised.update(_key(trajectory.task.question) for trajectory in run)
        elif environment.train is not None:
            for given in environment.practices[: work.settings.rounds]:
                tasks = make_env(environment.id, {**environment.args, **given}).tasks
                practised.update(_key(task.question) for task in tasks)
    held_out = {_key(trajectory.task.question) for trajectory in _sampled(work, 0)}
    return len(held_out & practised), len(held_out)


def _key(question: str) -> str:
    return "".join(filter(str.isalnum, question.casefold()))


def lineage(work: Work, last: int) -> list[Block]:
    """Where the last model comes from, as a graph; nothing for a run from before it was recorded.

    Args:
        work: whose folder the drawing is written to, too.
        last: number of the last round.
    """
    model = work.out / f"round-{last}" / "training" / "model"
    if not (model / LINEAGE).is_file():
        return []
    found = trace(model)
    drawn = _graph(found)
    write_text(work.out / "lineage.svg", drawn)
    rows, tasks = sum(node.count for node in found.models), len(found.tasks())
    counts = ", ".join(f"{count} {kind}" for kind, count in found.checked.items())
    said = (
        f"{rows} rows of {tasks} tasks; each leads to its episode and its task by hashes, all of "
        f"which were compared ({counts}). `toolgym lineage` prints the rows, writes a data card, "
        "and says what has to be trained again without a task."
    )
    words = "From tasks to episodes, rows and models, oldest first."
    return [Heading("Lineage"), Paragraph(said), Figure(drawn, "lineage.svg", words)]


_LEFT, _STEP, _HIGH = (150.0, 400.0, 610.0, 800.0), 34.0, 26.0
"""Where the columns of the graph begin, in pixels: tasks, episodes, rows, models."""


def _graph(found: Lineage) -> str:
    """Tasks, episodes, rows and models, a line a run, the models below each other."""
    parts, y, places = [], 40.0, dict[int, float]()
    for x, words in zip(_LEFT, ("tasks", "episodes", "rows", "model"), strict=True):
        parts.append(text(x, 16, words))
    for number, node in enumerate(found.models):
        begun = y
        middle = y + _STEP * max(0, len(node.runs) - 1) / 2
        for run in node.runs:
            parts.append(line(_LEFT[0] + 95, y, _LEFT[1] - 105, y))
            parts.append(line(_LEFT[1] + 105, y, _LEFT[2] - 45, middle))
            parts.append(text(_LEFT[0], y + 4, Path(str(run["source"])).name[:26]))
            played = f", played by {run['player']}" if "player" in run else ""
            parts.append(
                text(_LEFT[1], y + 4, f"{run['episodes']} of {run['tasks']} tasks{played}")
            )
            y += _STEP
        if node.count:
            parts.append(text(_LEFT[2], middle + 4, f"{node.count} rows"))
            parts.append(line(_LEFT[2] + 50, middle, _LEFT[3] - 70, middle))
        if node.begins in places:
            parts.append(line(_LEFT[3], places[node.begins] + 8, _LEFT[3], middle - _HIGH / 2))
        kind = node.method or "base"
        parts.append(text(_LEFT[3], middle + 4, f"{number}: {kind} {node.hash[:8]}"))
        places[number] = middle
        y = max(y, begun + _STEP) + 10
    return svg(parts, 900, y + 10)


def data(found: Evaluations, last: int) -> dict[str, Any]:
    """The findings as plain values."""
    work = found.work
    facts: dict[str, Any] = {
        "overlap": dict(zip(("shared", "held_out"), overlap(work), strict=True)),
        "judged_by": {label: found.judge(label) for label in found.labels},
        "changes": [_change_row(found.change(n - 1, n)) for n in range(1, last + 1)],
        "figures": [
            {
                label: {way: _figure_rows(found.of(number, label, way)) for way in WAYS}
                for label in found.labels
            }
            for number in range(last + 1)
        ],
    }
    if last:
        facts["change"] = _change_row(found.change(0, last))
    if (work.out / BASELINE).is_dir():
        facts["need"] = {
            when: need_rows(tool_need(_sampled(work, number), _alone(work)))
            for number, when in ((0, "before"), (last, "after"))
        }
    return facts


def _change_row(change: Change) -> dict[str, Any]:
    interval = change.interval
    return {
        "lost": change.lost,
        "gained": change.gained,
        "change": [interval.value, interval.low, interval.high],
        "p": change.p,
        "test": change.test,
        "verdict": change.verdict,
    }


def _figure_rows(part: Evaluated) -> dict[str, list[float | None]]:
    """Value, low and high of every figure."""
    return {name: [row.value, row.low, row.high] for name, row in part.rows.items()}
