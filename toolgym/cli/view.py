"""``toolgym view``: what was played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json
from toolgym.errors import BadInputError

if TYPE_CHECKING:
    from toolgym.trajectory import Step, Trajectory

__all__ = ["describe", "view"]

_REPLACED = "\N{REPLACEMENT CHARACTER}"


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
        Path, typer.Argument(help="Run folder, or a .jsonl file of trajectories or scenarios.")
    ],
    episode: Annotated[
        str | None,
        typer.Option("--episode", "--id", help="Only this one: task id, or task id#sample."),
    ] = None,
    which: Annotated[Which, typer.Option("--which", help="Which episodes.")] = Which.ALL,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only such as 'exact_match>=1 and copied==0', see filter."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="At most so many.")] = 3,
    width: Annotated[int, typer.Option("--width", help="Characters of a text shown.")] = 600,
    as_json: options.Json = False,
) -> None:
    """Print episodes as a person reads them: what was asked, called, answered, and rewarded.

    Also what a plug-in knows to show, such as scenarios and those that a build rejected.
    """
    if run.is_file() and (show := _viewer(run)) is not None:
        if where is not None:
            raise BadInputError(f"--where is for episodes, which {str(run)!r} does not hold")
        _view_rows(run, show, episode, count, width, as_json)
        return
    from toolgym.data.conditions import condition

    holds = condition(where, _read(run)) if where is not None else lambda _: True
    chosen: list[Trajectory] = []
    for trajectory in _read(run):
        if _named(trajectory, episode) and _is(trajectory, which) and holds(trajectory):
            chosen.append(trajectory)
            if len(chosen) >= count:
                break
    if not chosen:
        raise BadInputError(_nothing(run, episode, which, where))
    if as_json:
        print_json([trajectory.to_row() for trajectory in chosen])
        return
    print("\n\n".join(describe(trajectory, width) for trajectory in chosen))


Viewer = Callable[[dict[str, Any], int], tuple[str, str] | None]


def _viewer(file: Path) -> Viewer | None:
    """Who shows the rows of a file; nobody where they are trajectories."""
    from toolgym._util.jsonl import read_rows
    from toolgym.registry import VIEWERS

    row = next((row for _, row in read_rows(file, torn=True)), None)
    if row is None or "steps" in row:
        return None
    viewers: list[Viewer] = [VIEWERS.get(name) for name in VIEWERS]
    return next((viewer for viewer in viewers if viewer(row, 10) is not None), None)


def _view_rows(
    file: Path, show: Viewer, name: str | None, count: int, width: int, as_json: bool
) -> None:
    from toolgym._util.jsonl import read_rows
    from toolgym.errors import did_you_mean

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
        f"answer:   {_short(trajectory.answer or '(none)', width)}",
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
    yield _short(step.action, width)
    for call, result in zip(step.calls, step.results, strict=True):
        mark = f"[{result.error}] " if result.error else ""
        yield f"  -> {_short(call.name, width)}({_short(str(call.arguments), width)})"
        yield f"  <- {mark}{_short(result.content, width)}"
    for problem in step.problems:
        yield f"  !! {problem.kind}: {problem.message}"
    parts = "  ".join(f"{name} {value:g}" for name, value in step.reward_parts.items())
    yield f"  == reward {step.reward:g}" + (f"  ({parts})" if parts else "")


def _short(text: str, width: int) -> str:
    """At most ``width`` characters, and how many more there are."""
    return text if len(text) <= width else f"{text[:width]} [... {len(text) - width:,} more]"


def _read(path: Path) -> Iterator[Trajectory]:
    from toolgym.rollouts.sources import open_recording

    return iter(open_recording(path))


def _named(trajectory: Trajectory, episode: str | None) -> bool:
    return episode is None or episode in (trajectory.id, trajectory.task.id)


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


def _nothing(run: Path, episode: str | None, which: Which, where: str | None) -> str:
    from toolgym.errors import did_you_mean

    kind = "" if which is Which.ALL else f" that is {which.value!r}"
    kind += "" if where is None else f" with {where!r}"
    if episode is None:
        return f"{str(run)!r} holds no episode{kind}"
    ids = [trajectory.id for trajectory in _read(run)]
    return f"{str(run)!r} holds no episode {episode!r}{kind}{did_you_mean(episode, ids)}"
