"""Tasks with a reward function, as a subject: a prompt, an answer, a reward, the end."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_rows
from toolgym.auditing.subjects import FORMS, Facts, Item, Outcome, Subject, texts_of
from toolgym.errors import BadInputError
from toolgym.grading.rubric import Rubric, make_rubric
from toolgym.messages import Message
from toolgym.registry import load
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

__all__ = ["OneTurn", "rows_subject"]

_QUESTIONS = ("question", "prompt", "problem", "input", "instruction")
_GOLDS = ("answers", "answer", "gold", "target", "ground_truth", "solution", "output")
Score = Callable[[str, int], Any]
"""The reward of an answer to the task of a number."""


@dataclass
class OneTurn(Subject):
    """Tasks with a reward function: an answer, a reward, the end.

    Args:
        told: see `Facts`.
        tasks: all of them.
        score: the reward.
        others: tasks of the other split, for overlap.
    """

    told: Facts
    tasks: Sequence[Item]
    score: Score
    others: Callable[[int], list[Item]] | None = None

    def __post_init__(self) -> None:
        """No episode yet."""
        self._number = 0

    def facts(self) -> Facts:
        """As given."""
        return self.told

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Those tasks."""
        return [self.tasks[number] for number in numbers]

    def held_out(self, count: int) -> list[Item] | None:
        """Tasks of the other split."""
        return None if self.others is None else self.others(count)

    def reset(self, number: int) -> str:
        """The prompt."""
        self._number = number
        return self.tasks[number].prompt

    def step(self, reply: str) -> Outcome:
        """The reward, and the end."""
        return Outcome("", self.score(reply, self._number), True)


def rows_subject(
    path: str,
    reward: Any = None,
    held_out: str | None = None,
    question: str | None = None,
    gold: str | None = None,
    form: str | None = None,
    reward_range: tuple[float, float] | None = None,
) -> OneTurn:
    """Tasks of a ``.jsonl`` file with a reward.

    Args:
        path: of the tasks.
        reward: a spec of rewards of ours, or ``module:function``: a reward of ours with the
            parameters ``task`` and ``trajectory``, or any function of an answer and the row.
        held_out: file of the other split.
        question: column of the prompt; None: the first of some usual names.
        gold: column of the gold answers; None likewise. Of ``answer`` in GSM8K's form, which ends
            with ``#### 42``, the part behind that mark is the gold.
        form: how an answer is written, with ``{}`` in its place.
        reward_range: least and greatest reward.

    Raises:
        MissingFileError: no such file.
        BadInputError: a broken line, a row without a question, or a reward that cannot be used.
    """
    rows = [row for _, row in read_rows(path, "task file")]
    if not rows:
        raise BadInputError(f"task file {path!r} holds no task")

    def read(found: Sequence[Mapping[str, Any]], where: str) -> list[Item]:
        return [_item(row, number, where, question, gold) for number, row in enumerate(found)]

    tasks = read(rows, path)
    score = _row_score(reward, rows, tasks)
    low, high = reward_range or ((0.0, 1.0) if not callable(_loaded(reward)) else (None, None))
    others = None
    if held_out is not None:
        beside = [row for _, row in read_rows(held_out, "task file")]
        others = lambda count: read(beside[:count], held_out)  # noqa: E731
    forms = (form,) if form else ("{}",) if not callable(_loaded(reward)) else FORMS
    name = str(Path(path))
    facts = Facts(name, "tasks with a reward", len(rows), low, high, turns=False, forms=forms)
    return OneTurn(facts, tasks, score, others)


def _item(
    row: Mapping[str, Any], number: int, where: str, question: str | None, gold: str | None
) -> Item:
    asked = question or next((name for name in _QUESTIONS if name in row), None)
    if asked is None or asked not in row:
        raise BadInputError(
            f"task file {where!r}, row {number}: no column {asked or ' or '.join(_QUESTIONS)!r}; "
            f"columns: {', '.join(row)}; name it with --question"
        )
    prompt = row[asked]
    if isinstance(prompt, list):  # a conversation
        prompt = "\n\n".join(str(chat.get("content", "")) for chat in prompt)
    named = gold or next((name for name in _GOLDS if name in row), None)
    golds = texts_of(row.get(named)) if named else ()
    golds = tuple(text.rpartition("\n#### ")[2].strip() for text in golds)
    return Item(number, str(row.get("id", f"line-{number + 1}")), str(prompt), golds)


def _loaded(reward: Any) -> Any:
    """``module:function`` as the function, a spec of ours as it is."""
    if isinstance(reward, str) and ":" in reward:
        try:
            return load(reward)
        except (ImportError, AttributeError) as error:
            raise BadInputError(f"reward {reward!r} cannot be loaded: {error}") from error
    return reward


def _row_score(reward: Any, rows: Sequence[Mapping[str, Any]], tasks: Sequence[Item]) -> Score:
    found = _loaded(reward)
    ours = not callable(found)
    if callable(found) and not isinstance(found, Rubric):
        names = list(inspect.signature(found).parameters)[:2]
        ours = names == ["task", "trajectory"]
    if ours:
        rubric = make_rubric({"accuracy": 1.0} if found is None else found)
        return lambda reply, number: _rubric_reward(rubric, tasks[number], reply)
    return lambda reply, number: found(reply, dict(rows[number]))


def _rubric_reward(rubric: Rubric, item: Item, reply: str) -> float:
    number = all(_is_number(gold) for gold in item.golds) and bool(item.golds)
    task = Task(
        item.key, item.prompt, item.golds or ("",), answer_type="number" if number else "text"
    )
    said = [Message("user", item.prompt), Message("assistant", reply)]
    step = Step(reply, answer=reply)
    return sum(rubric.total(rubric.parts(task, Trajectory(task, said, [step], terminated=True))))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text.replace(",", "")))
    except ValueError:
        return False
