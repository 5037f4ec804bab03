"""The report of a self-training run: what was run, what it gave, and what that means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_json, write_text
from toolgym.data.conditions import measure
from toolgym.data.export import source_sentence
from toolgym.evaluation.intervals import mcnemar, wilson
from toolgym.registry import CORPORA
from toolgym.report.document import (
    Block,
    Heading,
    Paragraph,
    Quote,
    Table,
    to_html,
    to_markdown,
)
from toolgym.rollouts.engine import Run
from toolgym.selftrain import report_sections
from toolgym.selftrain.environments import bundled, searched
from toolgym.selftrain.settings import SelfTrainSettings, own_model
from toolgym.selftrain.stages import Work
from toolgym.trajectory import Trajectory

__all__ = ["Accuracy", "write_report"]

_WAYS = ("sampled", "greedy")
_POOLED = "all"


class Accuracy:
    """Right answers out of questions, with Wilson's 95 % interval.

    Args:
        right: right answers.
        count: questions, one episode each.
    """

    def __init__(self, right: int, count: int) -> None:
        self.right, self.count = right, count
        self.share = right / count if count else 0.0
        self.low, self.high = wilson(self.share, count) if count else (0.0, 1.0)

    def __str__(self) -> str:
        ends = f"{100 * self.low:.1f}, {100 * self.high:.1f}"
        return f"{100 * self.share:.1f} % [{ends}]"

    def overlaps(self, other: Accuracy) -> bool:
        """Whether the intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high

    def to_dict(self) -> dict[str, float]:
        """Plain data."""
        ends = {"low": self.low, "high": self.high}
        return {"right": self.right, "n": self.count, "accuracy": self.share, **ends}


def write_report(
    work: Work, history: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]
) -> Path:
    """Write ``report.md``, ``report.html`` and ``report.json`` into the run's folder.

    Args:
        work: settings and folder.
        history: results of the evaluations: before, and after each round.
        rounds: results of the other stages, by round.

    Returns:
        The Markdown file.
    """
    tables = [{way: accuracies(found[way]) for way in _WAYS} for found in history]
    title = "Self-training report"
    blocks: list[Block] = [
        Heading(title, 1),
        *_result(work, tables),
        *_run(work, history),
        *_by_round(tables, rounds),
        *report_sections.between_rounds(work, len(rounds)),
        *report_sections.passed(work, rounds),
        *report_sections.need(work, len(rounds)),
        *_filtered(rounds),
        *_examples(work, len(history) - 1),
        *_care(work, history, tables),
    ]
    facts = _data(work, tables, rounds) | report_sections.data(work, len(rounds))
    write_json(work.out / "report.json", facts)
    write_text(work.out / "report.html", to_html(blocks, title))
    target = work.out / "report.md"
    write_text(target, to_markdown(blocks))
    return target


def accuracies(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Accuracy]:
    """Accuracy by environment, and pooled over all of them as ``all``."""
    by_name = {name: Accuracy(int(c["right"]), int(c["episodes"])) for name, c in found.items()}
    right = sum(accuracy.right for accuracy in by_name.values())
    return {_POOLED: Accuracy(right, sum(a.count for a in by_name.values())), **by_name}


def _result(work: Work, tables: Sequence[Mapping[str, Mapping[str, Accuracy]]]) -> list[Block]:
    rows = []
    for way in _WAYS:
        for name, before in tables[0][way].items():
            after = tables[-1][way][name]
            apart = "overlap" if before.overlaps(after) else "do not overlap"
            rows.append([f"{name}, {way}", str(before.count), str(before), str(after), apart])
    first, last = tables[0]["sampled"][_POOLED], tables[-1]["sampled"][_POOLED]
    return [
        Paragraph(
            f"Accuracy on {last.count} held-out questions, sampled: {first} before, {last} after. "
            f"The 95 % intervals {'overlap' if first.overlaps(last) else 'do not overlap'}."
        ),
        Paragraph(_paired(work, len(tables) - 1)),
        Heading("Before and after"),
        Table(["held-out questions", "n", "before", "after", "95 % intervals (Wilson)"], rows),
    ]


def _paired(work: Work, last: int) -> str:
    """What became of single questions: the test that knows that both sides were asked the same."""
    pairs = _pairs(work, last)
    gained = sum(not before and after for *_, before, after in pairs)
    lost = sum(before and not after for *_, before, after in pairs)
    return (
        f"Of {len(pairs)} questions, {gained} went from wrong to right and {lost} from right to "
        f"wrong (exact McNemar test: p = {mcnemar(lost, gained):.2g})."
    )


def _run(work: Work, history: Sequence[Mapping[str, Any]]) -> list[Block]:
    settings = work.settings
    found = {**history[0]["sampled"]}
    sampling = settings.sampling
    rows = [["model", settings.model]]
    for environment in work.environments:
        counts = found.get(environment.label, {})
        source = _inside(work, str(counts.get("task_source", "not evaluated")))
        source = source_sentence(source, str(counts.get("task_family", "")))
        corpus = _inside(work, searched(environment))
        rows.append([f"environment {environment.label}", f"{environment.id}, tasks: {source}"])
        if corpus:
            rows.append([f"searched in {environment.label}", corpus])
        practised = "no" if environment.train is None else _arguments(environment.train)
        practised = _inside(work, practised)
        rows.append([f"practised in {environment.label}", practised])
    rows += [
        ["rounds", str(settings.rounds)],
        ["samples of each question in a round", str(settings.samples_per_task)],
        ["sampling", f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"],
        ["guided by the format's grammar", sampling.guided],
        ["kept", _arguments(settings.filter.model_dump(exclude_none=True))],
        *_trainings(settings),
        ["seed", str(settings.seed)],
        ["versions", ", ".join(f"{k} {v}" for k, v in _versions(work).items())],
        ["time of each stage's last attempt", _time(work.seconds)],
    ]
    return [Heading("What was run"), Table(["what", "value"], rows)]


def _trainings(settings: SelfTrainSettings) -> list[list[str]]:
    used = dict.fromkeys(settings.method(number) for number in range(1, settings.rounds + 1))
    return [
        [f"training, {method}", _arguments(settings.training(method).model_dump(exclude_none=True))]
        for method in used
    ]


def _versions(work: Work) -> dict[str, str]:
    """What the recorded runs depended on; a resumed run may have seen several."""
    found: dict[str, set[str]] = {}
    for file in sorted(work.out.glob("evaluation-*/*/run.json")):
        for name, version in Run.open(file.parent).settings.get("versions", {}).items():
            found.setdefault(name, set()).add(str(version))
    return {name: " and ".join(sorted(seen)) for name, seen in found.items()}


def _by_round(
    tables: Sequence[Mapping[str, Mapping[str, Accuracy]]], rounds: Sequence[Mapping[str, Any]]
) -> list[Block]:
    lines = []
    for number, table in enumerate(tables):
        done = rounds[number - 1] if number else None
        cells = ["-"] * 5
        if done is not None:
            cells = _practised(done)
            trained = done["training"]
            figures = trained.get("figures", {})
            cells += [str(trained["steps"]), f"{trained['loss']:.3f}"]
            if "reward" in figures:
                cells[-1] += f" (reward {figures['reward']:.3f})"
        sampled, greedy = table["sampled"][_POOLED], table["greedy"][_POOLED]
        lines.append([str(number) if number else "before", *cells, str(sampled), str(greedy)])
    head = ["round", "method", "right in practice", "kept", "steps", "loss", "sampled", "greedy"]
    return [Heading("Rounds"), Table(head, lines)]


def _practised(done: Mapping[str, Any]) -> list[str]:
    """Method, right episodes of the practice, and what was kept of them."""
    if "practice" not in done:
        return [str(done["method"]), "played while it trained", "-"]
    played = accuracies(done["practice"])[_POOLED]
    right = f"{played.right} of {played.count}"
    if "selection" not in done:
        return [str(done["method"]), right, "every prefix"]
    kept = sum(counts["kept"] for counts in done["selection"].values())
    return [str(done["method"]), right, str(kept)]


def _filtered(rounds: Sequence[Mapping[str, Any]]) -> list[Block]:
    lines = []
    for number, done in enumerate(rounds, 1):
        for name, counts in done.get("selection", {}).items():
            reasons = "; ".join(f"{n} {why}" for why, n in counts["dropped"].items()) or "nothing"
            lines.append([f"{number}, {name}", str(counts["total"]), str(counts["kept"]), reasons])
    if not lines:
        return []
    head = ["round", "episodes", "kept", "filtered out, and why"]
    return [Heading("What was filtered"), Table(head, lines)]


def _examples(work: Work, last: int) -> list[Block]:
    """One question that was wrong before and right after, one still wrong, one more right one."""
    pairs = _pairs(work, last)
    places = [
        environment.label for environment in work.environments if environment.test is not None
    ]
    kinds = {
        "Wrong before, right after": (False, True),
        "Right before and after": (True, True),
        "Wrong before and after": (False, False),
        "Right before, wrong after": (True, False),
    }
    blocks: list[Block] = [Heading("Three episodes")]
    shown: set[str] = set()
    for title, kind in kinds.items():
        # From another environment each time, where that has one of the kind.
        wanted = places[len(shown) % len(places)]
        fitting = [pair for pair in pairs if pair[3:] == kind]
        found = min(fitting, key=lambda pair: pair[0] != wanted, default=None)
        if found is None or len(shown) == 3:
            continue
        before, after = found[1:3]
        shown.add(after.id)
        text = f"Question {after.task.id}, gold answer {after.task.target!r}, sampled."
        blocks.append(Paragraph(f"{title}. {text}"))
        if kind[0] != kind[1]:
            blocks += [Paragraph("Before:"), Quote(_episode(before)), Paragraph("After:")]
        blocks.append(Quote(_episode(after)))
    return blocks


def _pairs(work: Work, last: int) -> list[tuple[str, Trajectory, Trajectory, bool, bool]]:
    """Environment, episode before, the same question's after, and whether each is right."""
    right = measure("accuracy")
    pairs = []
    for environment in work.environments:
        if environment.test is None:
            continue
        runs = [
            Run.open(work.out / f"evaluation-{number}" / f"{environment.label}-sampled")
            for number in (0, last)
        ]
        later = {trajectory.id: trajectory for trajectory in runs[1]}
        for before in runs[0]:
            after = later.get(before.id)
            if after is not None:
                sides = right(before) >= 1, right(after) >= 1
                pairs.append((environment.label, before, after, *sides))
    return pairs


def _episode(trajectory: Trajectory, limit: int = 600) -> str:
    """The conversation without the instructions; long texts cut, with a note."""
    lines = []
    for message in trajectory.messages:
        if message.role == "system":
            continue
        cut = message.content[:limit]
        if len(message.content) > limit:
            cut += f" [{len(message.content) - limit} more characters]"
        lines.append(f"[{message.role}] {cut}")
    return "\n".join(lines)


def _care(
    work: Work,
    history: Sequence[Mapping[str, Any]],
    tables: Sequence[Mapping[str, Mapping[str, Accuracy]]],
) -> list[Block]:
    lines = [
        "Each held-out question was played once before and once after, with the same seeds. The "
        "intervals cover the draw of questions and replies, not the training: another seed gives "
        "another model.",
        "Only the final answer decided what was kept. A right answer by luck, without a tool, was "
        "kept as well unless the filter says otherwise.",
    ]
    own = own_model(work.settings.model)
    lines += [own.caution] if own is not None else []
    counts = [c for found in history for way in _WAYS for c in found[way].values()]
    if any(count.get("task_source") == "sample" for count in counts):
        lines.append("Some tasks are the bundled sample: these are not figures on a benchmark.")
    corpora = dict.fromkeys(searched(environment) for environment in work.environments)
    lines += [f"The search looked in {bundled(corpus)}." for corpus in corpora if corpus in CORPORA]
    shared, held_out = report_sections.overlap(work)
    lines.append(
        f"{shared} of {held_out} held-out questions were practised, too: their answers may have "
        "been learned by heart."
        if shared
        else "No held-out question was practised."
    )
    if len(history) - 1 < work.settings.rounds:
        lines.append(
            f"It was ended after round {len(history) - 1} of {work.settings.rounds}: the accuracy "
            "on held-out questions had fallen."
        )
    failures = sum(int(count.get("failures", 0)) for count in counts)
    if failures:
        lines.append(f"{failures} attempts failed for reasons outside the episode; none is scored.")
    first, last = tables[0]["sampled"][_POOLED], tables[-1]["sampled"][_POOLED]
    if first.overlaps(last):
        lines.append("The intervals of before and after overlap: so many questions decide nothing.")
    return [Heading("How to read this"), *(Paragraph(line) for line in lines)]


def _data(
    work: Work,
    tables: Sequence[Mapping[str, Mapping[str, Accuracy]]],
    rounds: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    evaluations = [
        {way: {name: a.to_dict() for name, a in table[way].items()} for way in _WAYS}
        for table in tables
    ]
    first, last = tables[0]["sampled"][_POOLED], tables[-1]["sampled"][_POOLED]
    return {
        "settings": work.settings.model_dump(mode="json"),
        "evaluations": evaluations,
        "rounds": [dict(done) for done in rounds],
        "intervals_overlap": first.overlaps(last),
        "seconds": work.seconds,
    }


def _inside(work: Work, text: str) -> str:
    """Paths in the run's folder without that folder: it may be moved."""
    return text.replace(f"{work.out}/", "")


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "all tasks"


def _time(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 1)
    return f"{total:.0f} s" + (f" ({parts})" if parts else "")
