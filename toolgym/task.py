"""Tasks: one problem with its gold answers, and ordered sets of them."""

from __future__ import annotations

import math
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Literal, get_args, overload

from toolgym._util.hashes import rows_hash
from toolgym._util.kinds import require, require_each
from toolgym.errors import BadInputError, did_you_mean

__all__ = [
    *("SUB_ANSWERS", "RowReader", "SourceFacts", "SubAnswer", "Task", "TaskSet", "task_from_row"),
    "whole_number",
]

AnswerType = Literal["text", "number"]
_OWN_COLUMNS = ("id", "question", "answers", "split", "answer_type")
_READ_COLUMNS = frozenset((*_OWN_COLUMNS, "answer"))
SUB_ANSWERS = "sub_answers"
"""The column of a task's sub-answers, see `Task.sub_answers`."""


@dataclass(frozen=True, slots=True)
class SubAnswer:
    """What one sub-question of a task is answered by.

    Args:
        id: of the sub-question, such as ``q1``.
        tool: name of the tool whose call must give it.
        answer: the text; ``, `` separates parts that may stand apart in the result.
    """

    id: str
    tool: str
    answer: str

    def to_row(self) -> dict[str, str]:
        """An entry of the column `SUB_ANSWERS`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Task:
    """One problem.

    Args:
        id: unique within its set.
        question: what the policy is asked.
        answers: the acceptable answers, the canonical one first; never shown to the policy.
        metadata: all other columns of the row, such as ``s_pop``; plain JSON values, under other
            names than the fields here.
        split: ``train``, ``validation``, ``test``, or empty where the source has none.
        answer_type: how an answer is compared: as ``text``, or as a ``number``.

    Raises:
        BadInputError: a field of another type, such as one string for the answers; or metadata
            under the name of a field, which a row could not tell apart.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    split: str = ""
    answer_type: AnswerType = "text"

    def __post_init__(self) -> None:
        """Refuse what a row cannot hold."""
        if type(self.answers) is not tuple or not all(type(text) is str for text in self.answers):
            meant = "answers of a task are a list of strings, such as ['Paris']"
            object.__setattr__(self, "answers", require_each(self.answers, str, meant))
        require(self.id, str, "the id of a task is a string")
        require(self.question, str, f"the question of task {self.id!r} is a string")
        require(self.split, str, f"the split of task {self.id!r} is a string")
        if self.answer_type not in get_args(AnswerType):
            kind = f"the answer type of task {self.id!r} is 'text' or 'number'"
            raise BadInputError(f"{kind}, not {self.answer_type!r:.80}")
        require(self.metadata, Mapping, f"metadata of task {self.id!r} are values by name")
        if not self.metadata.keys().isdisjoint(_OWN_COLUMNS):
            name = next(column for column in _OWN_COLUMNS if column in self.metadata)
            raise BadInputError(f"metadata of task {self.id!r} may not be named {name!r}")

    @property
    def sub_answers(self) -> tuple[SubAnswer, ...]:
        """What its calls must give, as the column `SUB_ANSWERS` lists them; none without it.

        Raises:
            BadInputError: an entry that does not have the three fields as strings, or an id twice.
        """
        rows = self.metadata.get(SUB_ANSWERS)
        if rows is None:
            return ()
        found = []
        for row in rows if isinstance(rows, list | tuple) else (rows,):
            parts = [row.get(key) if isinstance(row, dict) else None for key in _PARTS]
            if not all(isinstance(part, str) for part in parts):
                raise BadInputError(
                    f"task {self.id!r}: a sub-answer is {{'id', 'tool', 'answer'}} of texts, "
                    f"not {row!r:.200}"
                )
            found.append(SubAnswer(*map(str, parts)))
        if len({entry.id for entry in found}) < len(found):
            raise BadInputError(f"task {self.id!r} has two sub-answers of one id: {rows!r:.200}")
        return tuple(found)

    @property
    def goal(self) -> Any:
        """What the tools' state has to come to, see `toolgym.grading.states.Goal`; or None."""
        return self.metadata.get("goal")

    @property
    def target(self) -> str:
        """The canonical gold answer."""
        return self.answers[0]

    @property
    def targets(self) -> tuple[str, ...]:
        """All gold answers."""
        return self.answers

    def to_row(self) -> dict[str, Any]:
        """The task in our own JSONL schema."""
        row: dict[str, Any] = {
            "id": self.id,
            "question": self.question,
            "answers": list(self.answers),
        }
        row |= {"split": self.split} if self.split else {}
        row |= {"answer_type": self.answer_type} if self.answer_type != "text" else {}
        return row | self.metadata

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Task:
        """Read exactly what `to_row` wrote; `task_from_row` reads what people write.

        Raises:
            KeyError: a row that `to_row` did not write.
        """
        return cls(
            id=row["id"],
            question=row["question"],
            answers=tuple(row["answers"]),
            metadata={key: value for key, value in row.items() if key not in _OWN_COLUMNS},
            split=row.get("split", ""),
            answer_type=row.get("answer_type", "text"),
        )


_PARTS = tuple(part.name for part in fields(SubAnswer))
_NUMBERS = re.compile(r"\d(?:[.,٫٬'’\u00a0\u2009\u202f]?\d)*")
RowReader = Callable[[Mapping[str, Any], str], Task]
"""Turns a row and a fallback id into a task; raises BadInputError without the place."""


def task_from_row(row: Mapping[str, Any], fallback_id: str) -> Task:
    """Read our own schema: ``question``, ``answers`` or ``answer``, optional ``id``, ``split``.

    Gold answers and ids are read exactly: numbers as their decimal digits, never a Python notation.

    Args:
        row: the columns; all others become metadata.
        fallback_id: where ``id`` is missing, null or empty.

    Raises:
        BadInputError: a column is missing or of the wrong type, or no answer could be right.
    """
    if "question" not in row:
        raise _no_column("question", row)
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadInputError(f"column 'question' must be a string, found {question!r:.80}")
    answers = row.get("answers")
    answers = row.get("answer") if answers is None else answers
    if answers is None and not {"answers", "answer"} & row.keys():
        raise _no_column("answers", row)
    golds = [answers] if isinstance(answers, str | Real) else answers
    if not isinstance(golds, list | tuple) or not golds:
        raise BadInputError(
            f"column 'answers' must be a list with an answer, found {answers!r:.80}"
        )
    texts = tuple(map(_gold, golds))
    answer_type: AnswerType = "text" if row.get("answer_type") is None else row["answer_type"]
    if answer_type not in ("text", "number"):
        raise BadInputError(f"column 'answer_type' must be 'text' or 'number', not {answer_type!r}")
    if answer_type == "number":
        wrong = next((text for text in texts if len(_NUMBERS.findall(text)) != 1), None)
        if wrong is not None:  # of 1/2 and 1e5 the last number would be the gold
            some = "a number" if _NUMBERS.search(wrong) is None else "one number, as a decimal"
            raise BadInputError(
                f"the answer of a number task must hold {some}, found {wrong!r:.80}"
            )
    split = row.get("split")
    if split is not None and not isinstance(split, str):
        raise BadInputError(f"column 'split' must be a string, found {split!r:.80}")
    metadata = {key: value for key, value in row.items() if key not in _READ_COLUMNS}
    return Task(
        id=_id(row.get("id"), fallback_id),
        question=question,
        answers=texts,
        metadata=metadata,
        split=split or "",
        answer_type=answer_type,
    )


_MEANT = {
    "question": ("prompt", "query", "problem", "input", "instruction", "text"),
    "answers": (
        *("gold", "golds", "gold_answer", "target", "targets", "label", "labels", "output"),
        *("expected", "expected_answer", "solution", "reference", "response", "completion"),
    ),
}
"""What others call our columns."""


def _no_column(name: str, row: Mapping[str, Any]) -> BadInputError:
    columns = list(map(str, row))
    meant = [column for column in columns if column.casefold() in _MEANT[name]]
    near = did_you_mean(name, columns, cutoff=0.7) or "".join(
        f" (is it {column!r}? rename that)" for column in meant[:1]
    )
    return BadInputError(
        f"there is no column {name!r}{near}; columns: {', '.join(columns) or 'none'}"[:400]
    )


def whole_number(what: str, value: Any, least: int = 0) -> int:
    """A number that counts something; those of numpy and the like are numbers.

    Args:
        what: for the message.
        value: any value.
        least: the smallest that is allowed, not negative.

    Raises:
        BadInputError: it is something else.
    """
    try:
        # numpy's truth values have an index, too, and are not bools.
        truth = type(value).__name__ in ("bool", "bool_")
        number = -1 if truth else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise BadInputError(f"{what} is a whole number of at least {least}, not {value!r:.80}")
    return number


def _gold(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    number = not isinstance(value, bool)
    if number and isinstance(value, Integral):
        return str(int(value))
    if number and isinstance(value, Real) and math.isfinite(value):
        return format(Decimal(repr(float(value))), "f")  # the shortest digits, but never 1e-05
    raise BadInputError(f"each answer must be some text or a finite number, found {value!r:.80}")


def _id(value: Any, fallback: str) -> str:
    if value is None or value == "":
        return fallback
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise BadInputError(f"column 'id' must be a string or a whole number, found {value!r:.80}")
    return value if isinstance(value, str) else str(int(value))


class TaskSet(Sequence[Task]):
    """Tasks in a fixed order.

    Args:
        tasks: at least one, with unique ids.
        source: where they come from, as reports show it: ``sample``, a path, or a hub name.
        name: the family, such as ``PopQA``.

    Raises:
        BadInputError: no task, something else than a task, or an id twice.
    """

    def __init__(self, tasks: Sequence[Task], *, source: str, name: str = "tasks") -> None:
        meant = "tasks of a set are Task objects (toolgym.read_tasks reads them from a file)"
        self._tasks: tuple[Task, ...] = require_each(tasks, Task, meant)
        if not self._tasks:
            raise BadInputError(f"no tasks in {source!r}: an environment needs at least one")
        self.source, self.name = source, name
        self._by_id = {task.id: index for index, task in enumerate(self._tasks)}
        if len(self._by_id) < len(self._tasks):
            twice = Counter(task.id for task in self._tasks).most_common(1)[0][0]
            raise BadInputError(f"task id {twice!r} stands twice in {source!r}; ids must be unique")

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> Task | TaskSet:
        """One task, or a set of them."""
        if isinstance(index, slice):
            return TaskSet(self._tasks[index], source=self.source, name=self.name)
        return self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __repr__(self) -> str:
        return f"TaskSet({self.name!r}, {len(self)} tasks from {self.source!r})"

    def index_of(self, task: Any) -> int:
        """Where a task stands.

        Args:
            task: its id, or its number, also one of numpy's.

        Raises:
            BadInputError: there is none.
        """
        if isinstance(task, str):
            if task not in self._by_id:
                raise BadInputError(f"no task {task!r} among the {len(self)} of {self.source!r}")
            return self._by_id[task]
        place = whole_number("a task that is not named by its id", task)
        if place >= len(self):
            raise BadInputError(f"task {place} is out of range: there are {len(self)}")
        return place

    def split(self, name: str) -> TaskSet:
        """The tasks of one split.

        Raises:
            BadInputError: there are none; the splits that exist are named.
        """
        chosen = [task for task in self._tasks if task.split == name]
        if not chosen:
            known = sorted({task.split for task in self._tasks if task.split})
            raise BadInputError(
                f"split {name!r} is empty in {self.source!r}; "
                f"splits there: {', '.join(known) or 'none (leave the split out)'}"
            )
        return TaskSet(chosen, source=self.source, name=self.name)

    def shuffled(self, seed: int) -> TaskSet:
        """The tasks in an order drawn by seed."""
        tasks = list(self._tasks)
        random.Random(seed).shuffle(tasks)
        return TaskSet(tasks, source=self.source, name=self.name)

    def describe(self) -> dict[str, Any]:
        """Plain data for ``run.json``, which a hash of all rows stands in, too."""
        return {"source": self.source, "name": self.name, "tasks": len(self)}

    def fingerprint(self) -> str:
        """SHA-256 over all rows in order: the same hash means the same tasks."""
        return rows_hash(task.to_row() for task in self._tasks)


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What an environment knows of a task source before it is opened.

    Args:
        source: as `TaskSet.source` will say it.
        tasks: how many there are, or None where only the source itself can say.
        dataset: the hub's name of a data set that has to be in its cache, or will be fetched.
    """

    source: str
    tasks: int | None = None
    dataset: str = ""
