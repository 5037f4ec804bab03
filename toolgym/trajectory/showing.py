"""An episode at a glance: a line, a row of a table, and a conversation in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from toolgym._util.notebook import Shown, folded, fragment, quoted
from toolgym._util.text import number, shortened

if TYPE_CHECKING:
    from toolgym.trajectory.record import Step, Trajectory

__all__ = ["OnSight", "glance", "summary_row"]

_SHOWN = 2000  # characters of a text
_LISTED = 5  # episodes of a table


class OnSight:
    """What an episode shows of itself."""

    __slots__ = ()

    def __repr__(self: Trajectory) -> str:  # type: ignore[misc]
        calls = sum(1 for _ in self.calls)
        answer = None if self.answer is None else shortened(self.answer, 60)
        return (
            f"Trajectory({self.id}, {_counted(len(self.steps), 'step')}, "
            f"{_counted(calls, 'call')}, answer {answer!r}, reward {self.reward:g})"
        )

    def _repr_html_(self: Trajectory) -> str:  # type: ignore[misc]
        ended = "answered" if self.terminated else "cut off" if self.truncated else "not ended"
        lines = [
            f"Question: {shortened(self.task.question, _SHOWN)}",
            f"Gold: {' | '.join(self.task.answers[:5])}",
            f"Answer: {shortened(self.answer, _SHOWN) if self.answer is not None else '(none)'}",
        ]
        opening = "\n\n".join(f"[{m.role}] {m.content}" for m in self.messages[: self.opening])
        body = folded("What the policy was told", quoted(shortened(opening, 4 * _SHOWN)))
        body += "".join(_turn(number, step) for number, step in enumerate(self.steps, 1))
        title = f"{self.id}, {ended}, reward {self.reward:g}"
        return fragment(lines, title=title, below=body)


def _turn(place: int, step: Step) -> str:
    inside = quoted(shortened(step.action, _SHOWN))
    for call, result in zip(step.calls, step.results, strict=True):
        failed = f" ({result.error})" if result.error else ""
        asked = shortened(str(call.arguments), 200)
        content = quoted(shortened(result.content, _SHOWN))
        inside += folded(f"{call.name}({asked}){failed}", content, open=bool(failed))
    for problem in step.problems:
        inside += quoted(f"{problem.kind}: {problem.message}")
    if step.user is not None:
        inside += folded("The user", quoted(shortened(step.user, _SHOWN)), open=True)
    parts = ", ".join(f"{name} {value:g}" for name, value in step.reward_parts.items())
    told = f"Turn {place}, reward {step.reward:g}" + (f" ({parts})" if parts else "")
    return folded(told, inside, open=True)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def summary_row(trajectory: Trajectory) -> dict[str, Any]:
    """An episode as a row of a table, without its texts but question and answer.

    Returns:
        Identity, question, first gold answer, answer, total reward and its parts as
        ``reward/NAME``, counts, how it ended, and metrics as ``metric/NAME``.
    """
    parts: dict[str, float] = {}
    for step in trajectory.steps:
        for name, value in step.reward_parts.items():
            parts[f"reward/{name}"] = parts.get(f"reward/{name}", 0.0) + value
    calls = [result for _, result in trajectory.calls]
    return {
        "id": trajectory.id,
        "task": trajectory.task.id,
        "sample": trajectory.sample,
        "env": trajectory.env_id,
        "question": trajectory.task.question,
        "gold": next(iter(trajectory.task.answers), None),
        "answer": trajectory.answer,
        "reward": trajectory.reward,
        **parts,
        "steps": len(trajectory.steps),
        "calls": len(calls),
        "tool_errors": sum(result.error is not None for result in calls),
        "problems": sum(len(step.problems) for step in trajectory.steps),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        **{f"metric/{name}": value for name, value in trajectory.metrics.items()},
    }


def glance(episodes: Iterable[Trajectory], count: int) -> Shown:
    """The first episodes of many as a table for a notebook.

    Args:
        episodes: read only as far as they are shown.
        count: how many there are.
    """
    rows = [
        [
            trajectory.id,
            shortened(trajectory.task.question, 80),
            shortened(trajectory.answer or "(none)", 40),
            number(trajectory.reward),
            str(len(trajectory.steps)),
        ]
        for _, trajectory in zip(range(_LISTED), episodes, strict=False)
    ]
    title = f"The first {len(rows)} of {count}" if count > len(rows) else ""
    return title, ["id", "question", "answer", "reward", "steps"], rows
