"""What a model is asked in each stage, and the files of questions that scenarios begin with."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import read_rows
from toolgym.envs.toolscenario.records import Question
from toolgym.errors import BadInputError, did_you_mean
from toolgym.scenario import Decomposition, Documented, Integrated, Levels, Scaled

__all__ = [
    *("FINGERPRINT", "decompose", "deploy", "document", "feedback", "integrate", "read_questions"),
    *("scale", "world"),
]

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
        raise BadInputError("column 'question' holds half of a surrogate pair: it is not text")
    if len(text) > _LONGEST:
        raise BadInputError(f"a question of {len(text):,} characters; at most {_LONGEST:,}")
    if split and split not in SPLITS:
        raise BadInputError(
            f"split {split!r:.80}{did_you_mean(str(split), SPLITS)} is none of {SPLITS}"
        )
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
        hints = {column: did_you_mean("question", [column]) for column in row}
        hint = next((text for text in hints.values() if text), "").replace("did you mean", "is it")
        raise BadInputError(
            f"there is no column 'question'{hint}; columns: {', '.join(map(repr, row)) or 'none'}"
        )
    missing = [column for column in COLUMNS if column not in row]
    for column in row:
        alike = difflib.get_close_matches(column.casefold(), missing, n=1, cutoff=_NEAR)
        # `answers` is not a misspelt `answer`: both are columns.
        if column not in COLUMNS and alike:
            raise BadInputError(f"unknown column {column!r} (did you mean {alike[0]!r}?)")


_FILE = resources.files(__package__).joinpath("prompts.txt").read_text("utf-8")
_TEXTS = dict(part.split("\n", 1) for part in _FILE.split("=== ")[1:])
OPENING, DECOMPOSE, DOCUMENT = _TEXTS["OPENING"], _TEXTS["DECOMPOSE"], _TEXTS["DOCUMENT"]
INTEGRATE, SCALE, DEPLOY = _TEXTS["INTEGRATE"], _TEXTS["SCALE"], _TEXTS["DEPLOY"]
WORLD = _TEXTS["WORLD"]
FEEDBACK = _TEXTS["FEEDBACK"].rstrip("\n")
STRATEGIES = {
    "functional_generalisation": (
        "leave what the tools do as it is",
        "each tool also does one near thing (one more fact, one more operation)",
        "each tool covers a family of such things, chosen by a parameter",
        "each tool covers several families and more than one way of working",
    ),
    "parameter_expansion": (
        "add no parameters",
        "add at least 1 sensible parameter to each tool, optional ones with a default",
        "add at least 2 sensible parameters to each tool, at least one of them required",
        "add at least 4 sensible parameters to each tool, at least two of them required",
    ),
    "type_generalisation": (
        "leave the types as they are",
        "give at least one parameter of each tool a richer type than a plain text: a date "
        "(format), an enum, a number with bounds, a boolean",
        "give each tool two such parameters, or one that is a list or an object",
        "give each tool nested parameters: objects with properties of richer types, lists of them",
    ),
    "toolset_extension": (
        "no distractors",
        "add at least 1 distractor",
        "add at least 2 distractors",
        "add at least 4 distractors, some of them near misses of the needed tools",
    ),
}

FINGERPRINT = value_hash(
    [OPENING, DECOMPOSE, DOCUMENT, INTEGRATE, SCALE, STRATEGIES, DEPLOY, FEEDBACK]
)
"""Changes with every text: replies to other prompts are other replies."""


def _asked(stage: str, material: dict[str, Any]) -> str:
    shown = json.dumps(material, ensure_ascii=False, indent=1)
    return f"{OPENING}\n{stage}\nMATERIAL:\n{shown}"


def feedback(reason: str, message: str) -> str:
    """What a model is told about a reply that could not be used."""
    return FEEDBACK % (reason, message)


def decompose(question: Question, golds: list[str]) -> str:
    """The prompt of stage 1.

    Args:
        question: what is to be broken up.
        golds: answers that are known to be right.
    """
    known = {"known_answers": golds} if golds else {}
    return _asked(DECOMPOSE, {"question": question.text, **known})


def document(made: Decomposition) -> str:
    """The prompt of stage 2."""
    return _asked(DOCUMENT, _steps(made))


def integrate(made: Documented) -> str:
    """The prompt of stage 3."""
    return _asked(INTEGRATE, _steps(made) | _tools(made))


def scale(made: Integrated, levels: Levels, seed: int) -> str:
    """The prompt of stage 4.

    Args:
        made: of stage 3.
        levels: how far each strategy goes.
        seed: of the scenario: another one asks anew.
    """
    lines = [
        f"- {strategy}, level {level}: {STRATEGIES[strategy][level]}"
        for strategy, level in levels.model_dump().items()
    ]
    asked = SCALE % ("\n".join(lines) + "\n")
    return _asked(asked, {**_steps(made), **_tools(made), "variant": seed})


def deploy(made: Scaled) -> str:
    """The prompt of stage 5."""
    return _asked(DEPLOY, _steps(made) | _tools(made) | {"distractors": list(made.distractors)})


def world(question: Question) -> str:
    """The prompt of a world, which is written in one stage."""
    return _asked(WORLD, {"wish": question.text})


def _steps(made: Decomposition) -> dict[str, Any]:
    rows = [item.to_row() for item in made.sub_questions]
    return {"question": made.question, "sub_questions": rows}


def _tools(made: Documented) -> dict[str, Any]:
    return {
        "tools": [item.to_row() for item in made.documents],
        "reference_calls": [item.to_row() for item in made.calls],
    }
