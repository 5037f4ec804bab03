"""Reading a file of questions: one JSON object a line, each mistake named with its line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_rows
from toolgym.envs.toolscenario.records import Question
from toolgym.errors import BadInputError, near

__all__ = ["read_questions"]

COLUMNS = ("id", "question", "answer", "answers", "split")
SPLITS = ("train", "validation", "test")
_LONGEST = 10_000  # characters of a question
_NEAR = 0.8  # likeness from which a column is taken for a misspelt one


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a ``.jsonl`` file, such as a task file of any environment.

    Columns: ``question``; optional ``id`` (default: the file's stem and the line), ``answer`` (a
    text or a number) or ``answers`` (a list of acceptable ones, the canonical one first), ``split``
    (``train``, ``validation`` or ``test``). Other columns are left out, unless one looks like a
    misspelt column of these.

    Args:
        path: the file.

    Returns:
        In the file's order; further acceptable answers stand in ``notes["answers"]``.

    Raises:
        MissingFileError: no such file.
        BadInputError: a wrong line, an id that comes twice, or no question at all.
    """
    found: dict[str, Question] = {}
    lines: dict[str, int] = {}
    for number, row in read_rows(path, "question file"):
        try:
            question = _question(row, f"{Path(path).stem}-{number}")
            if question.id in found:
                raise BadInputError(f"the id {question.id!r} stands in line {lines[question.id]}")
        except BadInputError as error:
            raise BadInputError(f"question file {str(path)!r}, line {number}: {error}") from error
        found[question.id], lines[question.id] = question, number
    if not found:
        raise BadInputError(f"question file {str(path)!r} is empty")
    return list(found.values())


def _question(row: Mapping[str, Any], fallback: str) -> Question:
    _check_columns(row)
    text, split = row.get("question"), row.get("split") or ""
    if not isinstance(text, str) or not text.strip():
        raise BadInputError(f"column 'question' must be text, found {text!r:.80}")
    if not text.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise BadInputError("column 'question' holds half of a surrogate pair: it is no text")
    if len(text) > _LONGEST:
        raise BadInputError(f"a question of {len(text):,} characters; at most {_LONGEST:,}")
    if split and split not in SPLITS:
        raise BadInputError(f"split {split!r:.80}{near(str(split), SPLITS)} is none of {SPLITS}")
    name = row.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise BadInputError(f"column 'id' must be text or a whole number, found {name!r:.80}")
    golds = _answers(row)
    return Question(
        id=fallback if name is None or name == "" else str(name),
        text=text.strip(),
        answer=golds[0] if golds else "",
        split=split,
        notes={"answers": golds} if len(golds) > 1 else {},
    )


def _answers(row: Mapping[str, Any]) -> list[str]:
    if row.get("answer") is not None and row.get("answers") is not None:
        raise BadInputError("columns 'answer' and 'answers' are both there; give one")
    given = row.get("answers") if row.get("answer") is None else [row["answer"]]
    if given is None or given == [""]:
        return []
    if not isinstance(given, list):
        raise BadInputError(f"column 'answers' must be a list, found {given!r:.80}")
    for item in given:
        if isinstance(item, bool) or not isinstance(item, str | int | float) or item == "":
            raise BadInputError(f"an answer must be text or a number, found {item!r:.80}")
    return list(dict.fromkeys(str(item).strip() for item in given))


def _check_columns(row: Mapping[str, Any]) -> None:
    if "question" not in row:
        hints = {column: near("question", [column]) for column in row}
        hint = next((text for text in hints.values() if text), "").replace("did you mean", "is it")
        raise BadInputError(
            f"there is no column 'question'{hint}; columns: {', '.join(map(repr, row)) or 'none'}"
        )
    missing = [column for column in COLUMNS if column not in row]
    for column in row:
        alike = difflib.get_close_matches(column.casefold(), missing, n=1, cutoff=_NEAR)
        # `answers` is no misspelt `answer`: both are columns.
        if column not in COLUMNS and alike:
            raise BadInputError(f"unknown column {column!r} (did you mean {alike[0]!r}?)")
