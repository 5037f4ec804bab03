"""Which tool calls solved which sub-answers of a scenario, turn by turn, in two presets.

``paper`` is arXiv 2508.08791 as its authors published it, quirks included; ``ours`` is the
corrected reading. The formulas on top of it and the differences stand in docs/rewards.md. The
assignment is our own: scipy's would be the largest dependency of the core for tables of a few rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolgym.errors import UnknownNameError
from toolgym.grading.matching import coverage
from toolgym.messages import ToolCall
from toolgym.task import SubAnswer, Task
from toolgym.tools.cassette import cache_key
from toolgym.trajectory import MALFORMED_CALLS, Step

__all__ = ["PRESETS", "CallCounts", "Solving", "Turn", "assign", "count_calls", "solves", "turns"]


class CallCounts(NamedTuple):
    """Calls of one or more steps.

    Args:
        made: calls that could be read.
        succeeded: of those, calls that named a known tool with valid arguments and did not fail.
        malformed: attempts that could not be read as a call, or only as one not in the format.
        loose: of those, the ones that were made all the same.
    """

    made: int = 0
    succeeded: int = 0
    malformed: int = 0
    loose: int = 0

    @property
    def attempts(self) -> int:
        """All calls, malformed ones included."""
        return self.made + self.malformed - self.loose

    @property
    def precision(self) -> float | None:
        """Succeeded over attempts; None when nothing was attempted."""
        attempts = self.attempts
        return self.succeeded / attempts if attempts else None


def count_calls(steps: Iterable[Step]) -> CallCounts:
    """Count the calls of some steps.

    A call succeeded when its result carries no error. Unknown tools, invalid arguments, failures of
    the tool, time-outs, bugs and refused calls are marked as errors. An empty one is not.
    """
    made = succeeded = malformed = loose = 0
    for step in steps:
        made += len(step.calls)
        succeeded += [result.error for result in step.results].count(None)
        if step.problems:
            kinds = [problem.kind for problem in step.problems]
            malformed += sum(kind in MALFORMED_CALLS for kind in kinds)
            loose += kinds.count("loose_call")
    return CallCounts(made, succeeded, malformed, loose)


_SCALE = 1 << 30  # a fit as a whole number: finer than any difference that matters
_ALONE = -1


def assign(fit: Sequence[Sequence[float]]) -> list[int | None]:
    """Match rows with columns: as many pairs as possible, then the largest sum of fits.

    Among equal ways earlier rows are preferred.

    Args:
        fit: [rows][columns] from 0.0 (cannot be paired) to 1.0.

    Returns:
        [rows] the column of each row, or None.
    """
    rows = len(fit)
    if rows and len(fit[0]) == 1:  # the usual turn makes one call
        best = max(range(rows), key=lambda row: fit[row][0])
        return [0 if row == best and fit[row][0] > 0 else None for row in range(rows)]
    # No row ever needs more than its best few columns: the other rows can take no more of them.
    kept: set[int] = set()
    for row in fit:
        best_first = sorted((-value, column) for column, value in enumerate(row) if value > 0)
        kept.update(column for _, column in best_first[:rows])
    columns = sorted(kept)
    if not columns:
        return [None] * rows
    finest = rows * rows + 1  # one step of fit outweighs any preference for early rows
    pair = (rows + 1) * finest * (_SCALE + 1)  # one pair more outweighs any sum of fits
    gain = [
        [
            pair + round(row[column] * _SCALE) * finest + rows - number if row[column] > 0 else 0
            for column in columns
        ]
        + [0] * rows  # where a row stays alone
        for number, row in enumerate(fit)
    ]
    chosen = _largest(gain)
    return [
        columns[place] if place < len(columns) and gain[row][place] else None
        for row, place in enumerate(chosen)
    ]


def _largest(gain: list[list[int]]) -> list[int]:
    """The column of each row in the complete assignment of largest gain (Kuhn 1955, Munkres 1957).

    Rows are added one by one along the best alternating path, in rows x rows x columns steps.

    Args:
        gain: [rows][columns], at least as many columns as rows.
    """
    rows, columns = len(gain), len(gain[0]) if gain else 0
    far = 1 + 2 * sum(map(max, gain))
    row_price, column_price = [0] * rows, [0] * columns
    owner = [_ALONE] * columns
    for start in range(rows):
        loss = [far] * columns  # of the best path that ends in a column
        before = [_ALONE] * columns  # the column before it on that path
        open_columns = list(range(columns))
        visited: list[int] = []
        row, here = start, _ALONE
        while row != _ALONE:
            for column in open_columns:
                short = row_price[row] + column_price[column] - gain[row][column]
                if short < loss[column]:
                    loss[column], before[column] = short, here
            here = min(open_columns, key=loss.__getitem__)
            step = loss[here]
            row_price[start] -= step
            for column in visited:
                row_price[owner[column]] -= step
                column_price[column] += step
            for column in open_columns:
                loss[column] -= step
            open_columns.remove(here)
            visited.append(here)
            row = owner[here]
        while here != _ALONE:
            owner[here] = start if before[here] == _ALONE else owner[before[here]]
            here = before[here]
    return [owner.index(row) for row in range(rows)]


PRESETS = ("ours", "paper")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one assistant turn did to the sub-answers.

    Args:
        open: still open before the turn, in the task's order.
        solved: by number of the call within the turn, the sub-answer that it solved.
        calls: calls made; under ``ours`` with attempts that could not be read as a call.
    """

    open: tuple[SubAnswer, ...]
    solved: dict[int, SubAnswer]
    calls: int

    @property
    def left(self) -> tuple[SubAnswer, ...]:
        """Still open after the turn."""
        gone = {entry.id for entry in self.solved.values()}
        return tuple(entry for entry in self.open if entry.id not in gone)


@dataclass(frozen=True, slots=True)
class Solving:
    """An episode's solving in numbers (arXiv 2508.08791, Evaluation).

    Args:
        total: sub-answers of the task, at least 1.
        solved: of those.
        calls: calls made; under ``ours`` with attempts that could not be read as a call.
        preset: one of `PRESETS`; decides the precision of an episode without calls.
    """

    total: int
    solved: int
    calls: int
    preset: str = "ours"

    @property
    def precision(self) -> float:
        """Solve-P: solved over calls; without calls 1.0 in ``paper`` and 0.0 in ``ours``."""
        return self.solved / self.calls if self.calls else float(self.preset == "paper")

    @property
    def rate(self) -> float:
        """Solve-R: solved over all sub-questions."""
        return self.solved / self.total

    @property
    def f1(self) -> float:
        """Solve-F1: 2 solved / (calls + sub-questions)."""
        return 2 * self.solved / (self.calls + self.total)

    @classmethod
    def of(cls, played: Sequence[Turn], total: int, preset: str = "ours") -> Solving:
        """Add up turns.

        Args:
            played: as `turns` gives them.
            total: sub-answers of the task.
            preset: that the turns were read with.
        """
        solved = sum(len(turn.solved) for turn in played)
        return cls(total, solved, sum(turn.calls for turn in played), preset)


def _check_preset(preset: str) -> None:
    """Refuse a preset that does not exist.

    Raises:
        UnknownNameError: it is none of `PRESETS`.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)


def solves(answer: str, result: str, preset: str = "ours") -> bool:
    """Whether a call's result gives a sub-answer; time is linear in both texts.

    ``ours``: every ``, ``-separated part of the answer stands in the result on token borders.
    Numbers are compared by value (``1,234.50`` is ``1234.5``, whatever the digits; ``1`` is
    neither ``10`` nor ``1.5`` nor ``-1``), dates, times and versions as wholes, words case-folded
    with their accents. A unit in the answer must stand beside the number in the result. Results
    that are JSON are read as keys and values. An empty answer is never solved.

    ``paper``: every part is a substring of the result, both lower-cased, commas dropped, stripped.

    Args:
        answer: the sub-answer.
        result: what the tool said.
        preset: one of `PRESETS`.

    Raises:
        UnknownNameError: an unknown preset.
    """
    _check_preset(preset)
    return coverage(answer, result) > 0 if preset == "ours" else _holds(answer, result)


def _holds(answer: str, result: str) -> bool:
    said = _plain(result)
    return all(_plain(part) in said for part in answer.split(", "))


def _plain(text: str) -> str:
    return text.lower().replace(",", "").strip()


def turns(task: Task, steps: Sequence[Step], preset: str = "ours") -> list[Turn]:
    """Play the sub-answers of a task through an episode.

    A call can only solve sub-answers of its own tool, each once, and a call solves at most one.

    ``paper``: the calls in their order take the first open sub-answer that their result holds;
    failed calls too, by their error text.

    ``ours``: within a turn as many calls as possible solve a sub-answer each, and among the ways
    to do so that is taken in which the sub-answers make up most of the results: a result that says
    ``10 and 20`` solves ``10, 20`` rather than ``10``. A failed call solves nothing, nor does a
    call with the tool and arguments of one that has solved before, or of an earlier call of the
    same turn; arguments that differ in case or white space only are the same.

    Args:
        task: with sub-answers, see `Task.sub_answers`.
        steps: of the episode, in order; the turn of step *k* depends on nothing after it.
        preset: one of `PRESETS`.

    Returns:
        One a step.

    Raises:
        UnknownNameError: an unknown preset.
        BadInputError: a broken list of sub-answers.
    """
    _check_preset(preset)
    still_open = task.sub_answers
    used: dict[str, list[ToolCall]] = {}
    played = []
    for step in steps:
        calls, solved = len(step.calls), {}
        if preset == "ours":
            calls += sum(problem.kind in MALFORMED_CALLS for problem in step.problems)
        if still_open and step.calls and preset == "ours":
            solved = _best_match(still_open, step, used)
        elif still_open and step.calls:
            solved = _first_match(still_open, step)
        turn = Turn(still_open, solved, calls)
        played.append(turn)
        still_open = turn.left if solved else still_open
    return played


def _first_match(still_open: Sequence[SubAnswer], step: Step) -> dict[int, SubAnswer]:
    left, solved = list(still_open), {}
    for number, (call, result) in enumerate(zip(step.calls, step.results, strict=False)):
        for entry in left:
            if entry.tool == call.name and _holds(entry.answer, result.content):
                solved[number] = entry
                left.remove(entry)
                break
    return solved


def _best_match(
    still_open: Sequence[SubAnswer], step: Step, used: dict[str, list[ToolCall]]
) -> dict[int, SubAnswer]:
    """Optimal assignment within a turn; calls that solved are added to ``used``, by tool."""
    by_tool: dict[str, list[SubAnswer]] = {}
    for entry in still_open:
        by_tool.setdefault(entry.tool, []).append(entry)
    fits: dict[str, dict[int, list[float]]] = {}  # by tool and number of the call: to each entry
    for number, (call, result) in enumerate(zip(step.calls, step.results, strict=False)):
        if call.name in by_tool and result.error is None:
            fit = [coverage(entry.answer, result.content) for entry in by_tool[call.name]]
            if any(fit):
                fits.setdefault(call.name, {})[number] = fit
    solved = {}
    for tool, fitting in fits.items():
        numbers = _first_uses(step, list(fitting), used.get(tool, ()))
        if not numbers:
            continue
        table = list(zip(*(fitting[number] for number in numbers), strict=True))
        for entry, column in zip(by_tool[tool], assign(table), strict=True):
            if column is not None:
                solved[numbers[column]] = entry
                used.setdefault(tool, []).append(step.calls[numbers[column]])
    return dict(sorted(solved.items()))


def _first_uses(step: Step, numbers: list[int], used: Sequence[ToolCall]) -> list[int]:
    """Of a turn's calls of one tool, those that repeat neither a used one nor one another."""
    if len(numbers) == 1 and not used:
        return numbers
    seen, first = {_identity(call) for call in used}, []
    for number in numbers:
        identity = _identity(step.calls[number])
        if identity not in seen:
            seen.add(identity)
            first.append(number)
    return first


def _identity(call: ToolCall) -> str:
    return cache_key(_plainer(call.arguments)) or repr(call.arguments)


def _plainer(value: Any) -> Any:
    """Arguments without what a tool is unlikely to tell apart: case, white space, 1 and 1.0."""
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return {name: _plainer(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plainer(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
