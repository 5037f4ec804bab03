"""Episodes and rows, looked at: ``toolgym view``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym._util.text import shortened
from toolgym.cli import options
from toolgym.cli.shell import print_json, stage_bars, table
from toolgym.errors import BadInputError, did_you_mean

if TYPE_CHECKING:
    from toolgym.trajectory import Step, Trajectory
    from toolgym.viewer.rows import Viewer

__all__ = ["describe", "view"]

_REPLACED = "\N{REPLACEMENT CHARACTER}"
_SHOWN = 3  # episodes in a terminal


class Which(StrEnum):
    """Which episodes to show."""

    ALL = "all"
    REWARDED = "rewarded"
    UNREWARDED = "unrewarded"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    TOOL_ERRORS = "tool-errors"


def view(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder, selection, or .jsonl file: trajectories, scenarios, training rows."
        ),
    ],
    episode: Annotated[
        str | None,
        typer.Option("--episode", "--id", help="Only this one: task id, or task id#sample."),
    ] = None,
    which: Annotated[Which, typer.Option("--which", help="Which episodes.")] = Which.ALL,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only such as 'exact_match>=1 and calls<=2', see filter."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="An earlier run: tasks side by side, changed ones first."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", help="At most so many.  [default: 3; html: all]")
    ] = None,
    width: Annotated[int, typer.Option("--width", help="Characters of a text shown.")] = 600,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one page for a browser, such as page.html.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="html: folder or hub id; shows tokens as their texts."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show episodes as a person reads them: what was asked, called, answered, and rewarded.

    In the terminal, or as a page with search and filters (--html). Also training rows, and what a
    plug-in knows to show, such as scenarios and those that a build rejected.
    """
    from toolgym.viewer.rows import file_of_rows, viewer_of

    if tokenizer is not None and html is None:
        raise typer.BadParameter("--tokenizer goes with --html")
    file = file_of_rows(run)
    show = viewer_of(file) if file is not None else None
    if file is not None and show is not None:
        _check_rows(run, where=where, against=against, which=which is not Which.ALL)
        if html is not None and (episode is not None or count is not None):
            raise typer.BadParameter("of rows --html holds all: leave out --id and -n")
    chosen = _Chosen(run, episode, which, where) if file is None or show is None else None
    if html is not None:
        _write_page(run, html, chosen, against, count, tokenizer, as_json)
    elif chosen is None and file is not None and show is not None:
        _view_rows(file, show, episode, count or _SHOWN, width, as_json)
    elif against is not None and chosen is not None:
        _view_changes(run, against, chosen, count or _SHOWN, width, as_json)
    elif chosen is not None:
        _view_episodes(run, chosen, count or _SHOWN, width, as_json)


class _Chosen:
    """Whether an episode is to be shown, and how to say that none is.

    Args:
        run: as the user wrote it.
        episode: task id, or task id and sample; None: all.
        which: a kind.
        where: a condition; None: all.

    Raises:
        BadInputError: the condition cannot be read.
        UnknownNameError: it names what nobody knows.
    """

    def __init__(self, run: Path, episode: str | None, which: Which, where: str | None) -> None:
        from toolgym.data.conditions import condition

        self._run, self._episode, self._which, self._where = run, episode, which, where
        self._condition = condition(where, _read(run)) if where is not None else None

    @property
    def all(self) -> bool:
        """Nothing is left out."""
        return self._episode is None and self._which is Which.ALL and self._where is None

    def __call__(self, trajectory: Trajectory) -> bool:
        """Whether it is one of them."""
        named = self._episode is None or self._episode in (trajectory.id, trajectory.task.id)
        held = self._condition is None or self._condition(trajectory)
        return named and held and _is(trajectory, self._which)

    def nothing(self) -> BadInputError:
        """None is: why."""
        kind = "" if self._which is Which.ALL else f" that is {self._which.value!r}"
        kind += "" if self._where is None else f" with {self._where!r}"
        if self._episode is None:
            return BadInputError(f"{str(self._run)!r} holds no episode{kind}")
        ids = [trajectory.id for trajectory in _read(self._run)]
        near = did_you_mean(self._episode, ids)
        return BadInputError(f"{str(self._run)!r} holds no episode {self._episode!r}{kind}{near}")


def _check_rows(run: Path, **given: Any) -> None:
    for name, value in given.items():
        if value:
            raise BadInputError(f"--{name} is for episodes, which {str(run)!r} does not hold")


def _view_episodes(run: Path, chosen: _Chosen, count: int, width: int, as_json: bool) -> None:
    found: list[Trajectory] = []
    for trajectory in _read(run):
        if chosen(trajectory):
            found.append(trajectory)
            if len(found) >= count:
                break
    if not found:
        raise chosen.nothing()
    if as_json:
        print_json([trajectory.to_row() for trajectory in found])
        return
    print("\n\n".join(describe(trajectory, width) for trajectory in found))


def _write_page(
    run: Path,
    html: Path,
    chosen: _Chosen | None,
    against: Path | None,
    count: int | None,
    tokenizer: str | None,
    as_json: bool,
) -> None:
    from toolgym.viewer import view_html

    left = count

    def first(trajectory: Trajectory) -> bool:
        """Whether it is one of the first that are to be shown."""
        nonlocal left
        if left == 0 or not (chosen is None or chosen(trajectory)):
            return False
        left = None if left is None else left - 1
        return True

    if chosen is not None and not any(map(chosen, _read(run))):
        raise chosen.nothing()
    written = 0
    with stage_bars() as advance:

        def progress(finished: int, planned: int) -> None:
            nonlocal written
            written = finished
            if finished % 100 == 0:
                advance("page", finished, max(planned, finished), "")

        where = None if chosen is None or (chosen.all and count is None) else first
        view_html(run, html, against=against, where=where, tokenizer=tokenizer, progress=progress)
    size = html.stat().st_size
    if as_json:
        print_json({"file": str(html), "items": written, "bytes": size})
    else:
        print(table([("items", str(written)), ("size", f"{size:,} bytes"), ("file", str(html))]))


def _view_changes(
    run: Path, against: Path, chosen: _Chosen, count: int, width: int, as_json: bool
) -> None:
    """The test of the two runs, and the tasks that changed most, each in both runs."""
    from toolgym.data.conditions import measure
    from toolgym.evaluation import compare
    from toolgym.evaluation.score import task_key

    tested = compare(against, run)
    means: tuple[_Means, _Means] = defaultdict(list), defaultdict(list)
    right = measure("accuracy")
    for side, path in enumerate((against, run)):
        for trajectory in _read(path):
            if side == 0 or chosen(trajectory):
                means[side][task_key(trajectory)].append(right(trajectory))
    if not means[1]:
        raise chosen.nothing()
    changes = {
        key: sum(new) / len(new) - sum(means[0][key]) / len(means[0][key])
        for key, new in means[1].items()
        if key in means[0]
    }
    # Of those that changed as much the lost ones first; then in the order of the run.
    listed = sorted(changes, key=lambda key: (-abs(changes[key]), changes[key]))[:count]
    kept: dict[tuple[str, str], tuple[list[Trajectory], list[Trajectory]]]
    kept = {key: ([], []) for key in listed}
    for side, path in enumerate((against, run)):
        for trajectory in _read(path):
            key = task_key(trajectory)
            if key in kept and (side == 0 or chosen(trajectory)):
                kept[key][side].append(trajectory)
    if as_json:
        rows = [
            {"task": key[1], "change": changes[key]}
            | {name: [t.to_row() for t in side] for name, side in zip(_SIDES, pair, strict=True)}
            for key, pair in kept.items()
        ]
        print_json({"test": tested.to_dict(), "tasks": rows})
        return
    print(tested)
    for key, pair in kept.items():
        print(f"\n##### {_printable(key[1])}: accuracy {_moved(changes[key])}")
        for name, episodes in zip(_SIDES, pair, strict=True):
            for trajectory in episodes:
                print(f"\n({name}) {describe(trajectory, width)}")


_Means = defaultdict[tuple[str, str], list[float]]
_SIDES = ("before", "after")


def _moved(change: float) -> str:
    return f"{change:+g}" if change else "the same"


def _view_rows(
    file: Path, show: Viewer, name: str | None, count: int, width: int, as_json: bool
) -> None:
    from toolgym._util.jsonl import read_rows

    shown: list[str] = []
    rows: list[dict[str, Any]] = []
    ids: list[str] = []
    for _, row in read_rows(file, torn=True):
        ids.append(str(row.get("id")))
        if name is not None and ids[-1] != name:
            continue
        rows.append(row)
        if not as_json:
            shown.append((show(row, width) or ("", ""))[1])
        if len(rows) >= count:
            break
    if not rows:
        raise BadInputError(f"{str(file)!r} holds no {name!r}{did_you_mean(name or '', ids)}")
    if as_json:
        print_json(rows)
    else:
        print(_printable("\n\n".join(shown)))


def describe(trajectory: Trajectory, width: int = 600) -> str:
    """An episode as text.

    Args:
        trajectory: the episode.
        width: characters of each text that are shown.
    """
    task = trajectory.task
    ended = "answered" if trajectory.terminated else "cut off" if trajectory.truncated else "open"
    lines = [
        f"=== {trajectory.id}  {trajectory.env_id}  {ended}  reward {trajectory.reward:g}",
        f"question: {task.question}",
        f"gold:     {' | '.join(task.answers[:5])}",
        f"answer:   {shortened(trajectory.answer or '(none)', width)}",
    ]
    if trajectory.examples:
        lines.append(f"examples: {trajectory.examples} worked ones before the question")
    for number, step in enumerate(trajectory.steps, 1):
        lines += [f"--- turn {number}", *_step_lines(step, width)]
    return _printable("\n".join(lines))


def _printable(text: str) -> str:
    """A model wrote some of it: control characters would drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else _REPLACED for c in text)


def _step_lines(step: Step, width: int) -> Iterator[str]:
    yield shortened(step.action, width)
    for call, result in zip(step.calls, step.results, strict=True):
        mark = f"[{result.error}] " if result.error else ""
        yield f"  -> {shortened(call.name, width)}({shortened(str(call.arguments), width)})"
        yield f"  <- {mark}{shortened(result.content, width)}"
    for problem in step.problems:
        yield f"  !! {problem.kind}: {problem.message}"
    parts = "  ".join(f"{name} {value:g}" for name, value in step.reward_parts.items())
    yield f"  == reward {step.reward:g}" + (f"  ({parts})" if parts else "")


def _read(path: Path) -> Iterator[Trajectory]:
    from toolgym.rollouts.recording import open_recording

    return iter(open_recording(path))


def _is(trajectory: Trajectory, which: Which) -> bool:
    tests: dict[Which, Any] = {
        Which.ALL: lambda: True,
        Which.REWARDED: lambda: trajectory.reward > 0,
        Which.UNREWARDED: lambda: trajectory.reward <= 0,
        Which.TRUNCATED: lambda: trajectory.truncated,
        Which.MALFORMED: lambda: any(step.problems for step in trajectory.steps),
        Which.TOOL_ERRORS: lambda: any(result.error for _, result in trajectory.calls),
    }
    return bool(tests[which]())
