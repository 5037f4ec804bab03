"""The report of a self-training run: what was run, what it gave, and what that means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_json, write_text
from toolgym.evaluation.document import (
    Block,
    Heading,
    Paragraph,
    Quote,
    Table,
    to_html,
    to_markdown,
)
from toolgym.evaluation.intervals import wilson
from toolgym.registry import CORPORA
from toolgym.rollouts.engine import Run
from toolgym.rollouts.tables import source_sentence
from toolgym.selftrain import report_sections
from toolgym.selftrain.environments import (
    Used,
    arguments,
    bundled,
    made_for,
    practice_rows,
    used,
)
from toolgym.selftrain.judging import WAYS, Evaluations
from toolgym.selftrain.settings import SelfTrainSettings, own_model
from toolgym.selftrain.stages import Work, recorded
from toolgym.trajectory import Trajectory

__all__ = ["Accuracy", "write_report"]

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
    tables = [{way: accuracies(found[way]) for way in WAYS} for found in history]
    found, last = Evaluations(work, len(history) - 1), len(history) - 1
    parts = _parts(work, last)
    title = "Self-training report"
    blocks: list[Block] = [
        Heading(title, 1),
        *report_sections.result(found, last),
        *report_sections.by_environment(found, last),
        *_by_round(found, tables, rounds),
        *report_sections.between_rounds(found, last),
        *report_sections.passed(work, rounds),
        *report_sections.steering(work),
        *report_sections.need(work, last),
        *_filtered(rounds),
        *_examples(found, last),
        *_run(work),
        *_sources(work, parts),
        *report_sections.lineage(work, last),
        *_care(work, history, found, parts),
    ]
    facts = _data(work, tables, rounds) | report_sections.data(found, last)
    facts["sources"] = [{"environment": e, "part": p, **asdict(u)} for e, p, u in parts]
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


def _run(work: Work) -> list[Block]:
    settings = work.settings
    sampling = settings.sampling
    rows = [["model", settings.model]]
    for environment in work.environments:
        args = f": {arguments(environment.args)}" if environment.args else ""
        rows.append([f"environment {environment.label}", _inside(work, environment.id + args)])
        rows += [[name, _inside(work, s)] for name, s in practice_rows(settings, environment)]
    filters = [settings.filters(number) for number in range(1, settings.rounds + 1)]
    one = all(each == filters[0] for each in filters)
    rows += [
        ["rounds", str(settings.rounds)],
        ["samples of each question in a round", str(settings.samples_per_task)],
        ["sampling", f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"],
        ["guided by the format's grammar", sampling.guided],
        *([["guided replies narrowed to", str(sampling.narrow)]] if sampling.narrow.said else []),
        *(
            [
                "kept" if one else f"kept in round {number}",
                arguments(each.model_dump(exclude_none=True)),
            ]
            for number, each in enumerate(filters[:1] if one else filters, 1)
        ),
        *_trainings(settings),
        ["seed", str(settings.seed)],
        ["versions", ", ".join(f"{k} {v}" for k, v in _versions(work).items())],
        ["time of each stage's last attempt", _time(work.seconds)],
    ]
    return [Heading("What was run"), Table(["what", "value"], rows)]


def _parts(work: Work, last: int) -> list[tuple[str, str, Used]]:
    """Environment, part of the run, and what it was played on there."""
    found = []
    for environment in work.environments:
        label = environment.label
        rounds = [work.out / f"round-{number}" / "practice" for number in range(1, last + 1)]
        runs = [run for folder in rounds for run in recorded(folder, label)]
        practised = [run.path for run in runs if run.path is not None]
        evaluated = [
            work.out / f"evaluation-{number}" / f"{label}-{way}"
            for number in range(last + 1)
            for way in WAYS
        ]
        if environment.train is not None and last:
            made = work.settings.curriculum is not None
            parts = (
                made_for(environment, practised)
                if made
                else used(environment, "train", practised, last)
            )
            found += [(label, "practice", u) for u in parts]
        if environment.test is not None:
            found += [(label, "evaluation", u) for u in used(environment, "test", evaluated)]
    return found


def _sources(work: Work, parts: Sequence[tuple[str, str, Used]]) -> list[Block]:
    rows = []
    for label, part, said in parts:
        source = _inside(work, source_sentence(_inside(work, said.source), said.family))
        questions = "as the training drew them" if said.tasks is None else str(said.tasks)
        corpus = _inside(work, bundled(said.corpus)) if said.corpus else "nothing"
        passages = (
            "-"
            if not said.corpus
            else "not there now"
            if said.passages is None
            else f"{said.passages:,}"
        )
        hashes = said.tasks_hash[:12], said.corpus_hash[:12] or "-"
        rows.append([f"{label}, {part}", source, questions, hashes[0], corpus, passages, hashes[1]])
    head = ["part", "tasks", "played", "hash of all", "searched", "passages", "hash"]
    return [Heading("Tasks and corpora, as they were used"), Table(head, rows)]


def _trainings(settings: SelfTrainSettings) -> list[list[str]]:
    used = dict.fromkeys(settings.method(number) for number in range(1, settings.rounds + 1))
    return [
        [f"training, {method}", arguments(settings.training(method).model_dump(exclude_none=True))]
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
    found: Evaluations,
    tables: Sequence[Mapping[str, Mapping[str, Accuracy]]],
    rounds: Sequence[Mapping[str, Any]],
) -> list[Block]:
    lines = []
    for number in range(len(tables)):
        done = rounds[number - 1] if number else None
        cells = ["-"] * 5
        if done is not None:
            cells = _practised(done)
            trained = done["training"]
            figures = trained.get("figures", {})
            cells += [str(trained["steps"]), f"{trained['loss']:.3f}"]
            if "reward" in figures:
                cells[-1] += f" (reward {figures['reward']:.3f})"
        held_out = (found.score(number, way) for way in WAYS)
        lines.append([str(number) if number else "before", *cells, *held_out])
    head = ["round", "method", "right in practice", "kept", "steps", "loss", *WAYS]
    text = (
        f"Sampled and greedy: {found.judge()} over all held-out questions. Right in practice is "
        "by `accuracy`."
    )
    return [Heading("Rounds"), Paragraph(text), Table(head, lines)]


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


def _examples(found: Evaluations, last: int) -> list[Block]:
    """One question that was wrong before and right after, one still wrong, one more right one."""
    kinds = {
        "Wrong before, right after": (False, True),
        "Right before and after": (True, True),
        "Wrong before and after": (False, False),
        "Right before, wrong after": (True, False),
    }
    pairs = [
        (label, key, (score >= 1, found.of(last, label).scores[key] >= 1))
        for label in found.labels
        for key, score in found.of(0, label).scores.items()
        if key in found.of(last, label).scores
    ]
    blocks: list[Block] = [
        Heading("Three episodes"),
        Paragraph(f"Right is {found.judge()} of 1."),
    ]
    shown = 0
    for title, kind in kinds.items():
        # From another environment each time, where that has one of the kind.
        wanted = found.labels[shown % len(found.labels)]
        fitting = [pair for pair in pairs if pair[2] == kind]
        chosen = min(fitting, key=lambda pair: pair[0] != wanted, default=None)
        if chosen is None or shown == 3:
            continue
        before, after = (_played(found.work, n, *chosen[:2]) for n in (0, last))
        shown += 1
        text = f"Question {after.task.id}, gold answer {after.task.target!r}, sampled."
        blocks.append(Paragraph(f"{title}. {text}"))
        if kind[0] != kind[1]:
            blocks += [Paragraph("Before:"), Quote(_episode(before)), Paragraph("After:")]
        blocks.append(Quote(_episode(after)))
    return blocks


def _played(work: Work, number: int, label: str, key: str) -> Trajectory:
    run = Run.open(work.out / f"evaluation-{number}" / f"{label}-sampled")
    return next(trajectory for trajectory in run if trajectory.id == key)


def _episode(trajectory: Trajectory, limit: int = 600) -> str:
    """The conversation without instructions and examples; long texts cut, with a note."""
    lines = []
    for message in trajectory.messages[max(0, trajectory.opening - 1) :]:
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
    found: Evaluations,
    parts: Sequence[tuple[str, str, Used]],
) -> list[Block]:
    last = len(history) - 1
    lines = [
        "Each held-out question was played once before and once after, with the same seeds. The "
        "intervals cover the draw of questions and replies, not the training: another seed gives "
        "another model.",
        _judged(work.settings, found),
        "Only the final answer decided what was kept. A right answer by luck, without a tool, was "
        "kept as well unless the filter says otherwise.",
    ]
    own = own_model(work.settings.model)
    lines += [own.caution] if own is not None else []
    counts = [c for played in history for way in WAYS for c in played[way].values()]
    if any(said.source == "sample" for *_, said in parts):
        lines.append("Some tasks are the bundled sample: these are not figures on a benchmark.")
    corpora = dict.fromkeys(said.corpus for *_, said in parts)
    lines += [f"The search looked in {bundled(corpus)}." for corpus in corpora if corpus in CORPORA]
    shared, held_out = report_sections.overlap(work)
    lines.append(
        f"{shared} of {held_out} held-out questions were practised, too: their answers may have "
        "been learned by heart."
        if shared
        else "No held-out question was practised."
    )
    if last < work.settings.rounds:
        lines.append(
            f"It was ended after round {last} of {work.settings.rounds}: by {found.judge()} the "
            "held-out answers had become worse (one test a round, not corrected)."
        )
    failures = sum(int(count.get("failures", 0)) for count in counts)
    if failures:
        lines.append(f"{failures} attempts failed for reasons outside the episode; none is scored.")
    if last and found.change(0, last).verdict == "no difference shown":
        lines.append(
            "That no difference is shown does not say that there is none: more questions may show "
            "one."
        )
    return [Heading("How to read this"), *(Paragraph(line) for line in lines)]


def _judged(settings: SelfTrainSettings, found: Evaluations) -> str:
    """Why this metric decides."""
    if settings.judge_by is not None:
        return f"The verdict is by {found.judge()}, as `judge_by` says."
    return (
        f"The verdict is by {found.judge()}, the default: an answer that pastes a passage or lists "
        "candidates cannot raise it, as it can raise `accuracy_paper`; it also asks for the gold "
        "answer alone, so that an answer in a whole sentence counts as wrong. `judge_by` names "
        "another metric."
    )


def _data(
    work: Work,
    tables: Sequence[Mapping[str, Mapping[str, Accuracy]]],
    rounds: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    evaluations = [
        {way: {name: a.to_dict() for name, a in table[way].items()} for way in WAYS}
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


def _time(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 1)
    return f"{total:.0f} s" + (f" ({parts})" if parts else "")
