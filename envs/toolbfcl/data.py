"""The leaderboard's data, as the wheel of ``bfcl-eval`` carries it: tasks and tool documents.

Nothing here imports the wheel's own readers: they make folders beside the package, and bring the
clients of every model that was ever evaluated.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from toolgym._util.jsonl import copy_json, read_rows
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, MissingFileError, did_you_mean, explain
from toolgym.registry import TASKS
from toolgym.task import SourceFacts, Task, TaskSet, task_from_row
from toolgym.tasksource import given_tasks, names_file, read_tasks

__all__ = [
    *("CLASSES", "GROUPS", "SHOWN", "documents_of", "gold_plan", "open_tasks", "published"),
    *("source_facts", "user_turns"),
]

CLASSES = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}
"""Classes whose instances remember, and the names of their modules and documents."""

SHOWN = "I have updated some more functions you can choose from. What about now?"
"""What the user says where functions appear, as published."""

_SIZES = {
    "multi_turn": {
        "multi_turn_base": 200,
        "multi_turn_miss_func": 200,
        "multi_turn_miss_param": 200,
        "multi_turn_long_context": 200,
    },
    "non_live": {
        "simple_python": 400,
        "simple_java": 100,
        "simple_javascript": 50,
        "multiple": 200,
        "parallel": 200,
        "parallel_multiple": 200,
        "irrelevance": 240,
    },
    "live": {
        "live_simple": 258,
        "live_multiple": 1053,
        "live_parallel": 16,
        "live_parallel_multiple": 24,
        "live_irrelevance": 884,
        "live_relevance": 16,
    },
}
GROUPS: dict[str, tuple[str, ...]] = {name: tuple(sizes) for name, sizes in _SIZES.items()}
GROUPS["single_turn"] = (*GROUPS["non_live"], *GROUPS["live"])
GROUPS["all"] = (*GROUPS["multi_turn"], *GROUPS["single_turn"])
"""Categories by group; a task source names a group or a category."""

_TYPES = {
    **dict.fromkeys(("integer", "byte", "short", "long", "Bigint"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("boolean", "bool", "Boolean"), "boolean"),
    **dict.fromkeys(("array", "list", "tuple", "ArrayList", "Array", "Queue", "Stack"), "array"),
    **dict.fromkeys(("dict", "object", "HashMap", "Hashtable"), "object"),
}
_LANGUAGES = {"simple_java": ("Java", "Java 8 SDK"), "simple_javascript": ("JavaScript",) * 2}


def source_facts(source: str, split: str | None) -> SourceFacts | None:
    """What is known of a task source before it is opened.

    Args:
        source: a group or a category; nothing is known of others.
        split: a category of it, or None.
    """
    if source not in GROUPS and source not in GROUPS["all"]:
        return None
    counts = {name: count for sizes in _SIZES.values() for name, count in sizes.items()}
    chosen = [name for name in GROUPS.get(source, (source,)) if split in (None, name)]
    return SourceFacts(f"bfcl:{source}", sum(counts[name] for name in chosen))


def open_tasks(source: Any = "multi_turn", split: str | None = None) -> TaskSet:
    """Open a task source.

    Args:
        source: a group of `GROUPS` or a category of it, a registered name, the path of a
            ``.jsonl`` file, or tasks that stand in memory.
        split: one category of it; default: all.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
        MissingFileError: the source is none of these.
        BadInputError: a row that is not such a task, or an unknown split.
    """
    if not isinstance(source, str | Path):
        found = given_tasks(source, _own_row, name="BFCL")
        for task in found:
            _check(task)
    elif source in GROUPS or source in GROUPS["all"]:
        chosen = GROUPS.get(str(source), (str(source),))
        tasks = [task for name in chosen for task in _category(name)]
        found = TaskSet(tasks, source=f"bfcl:{source}", name="BFCL")
    else:
        if source in TASKS:
            path: str | Path = TASKS.get(str(source)).path()
        elif names_file(source):
            path = source
        else:
            known = [*GROUPS, *GROUPS["all"], *TASKS]
            raise MissingFileError(
                f"task source {str(source)!r} is not a group ({', '.join(GROUPS)}), a category of "
                f"one, or the path of a .jsonl file{did_you_mean(str(source), known)}"
            )
        found = read_tasks(path, _own_row, source=str(source), name="BFCL")
    return found.split(split) if split else found


def gold_plan(task: Task) -> list[Any]:
    """The gold calls of a task.

    Args:
        task: of `open_tasks`.

    Returns:
        Of several user turns: ``{"name", "arguments"}`` a call, by turn. Else
        ``{name: {parameter: acceptable values}}`` a call.
    """
    found: list[Any] = json.loads(task.target)
    return found


def user_turns(task: Task) -> list[tuple[str, tuple[str, ...]]]:
    """What the user of a task says after its question, with the names of tools that appear then."""
    shown = task.metadata.get("withheld", {})
    turns = enumerate(task.metadata.get("turns", ()), 1)
    return [(text, tuple(shown.get(str(place), ()))) for place, text in turns]


def documents_of(task: Task) -> list[dict[str, Any]]:
    """The tools of a task as function documents with JSON Schema: ``name``, ``description``, ...

    Types are converted as the leaderboard's own handlers do, which tell of parameters in Java and
    JavaScript that they are written as text. What a function responds is left out.

    Args:
        task: of `open_tasks`.
    """
    if "classes" in task.metadata:
        return [item for name in task.metadata["classes"] for item in _class_documents(name)]
    category = task.metadata["category"]
    return [_document(item, category) for item in task.metadata["functions"]]


@functools.cache
def published() -> Path:
    """The folder of the wheel's data.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
    """
    return Path(str(require_extra("bfcl_eval", "bfcl").__file__)).parent / "data"


@functools.cache
def _category(name: str) -> tuple[Task, ...]:
    file = f"BFCL_v4_{name}.json"
    answers = published() / "possible_answer" / file
    golds = [row["ground_truth"] for row in _rows(answers)] if answers.is_file() else []
    rows = list(_rows(published() / file))
    make = _dialogue if name in GROUPS["multi_turn"] else _single
    golds = golds or [[]] * len(rows)
    return tuple(make(row, gold, name) for row, gold in zip(rows, golds, strict=True))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in read_rows(path, "data file"))


def _dialogue(row: Mapping[str, Any], gold: list[list[str]], category: str) -> Task:
    """A task of several user turns."""
    texts = [turn[0]["content"] if turn else SHOWN for turn in row["question"]]
    classes = row["involved_classes"]
    metadata = {
        "category": category,
        "turns": texts[1:],
        "classes": classes,
        "initial_config": {k: v for k, v in row["initial_config"].items() if k in classes},
    }
    if "long_context" in category:
        metadata["long_context"] = True
    places = {d["name"]: list(d["parameters"]["properties"]) for d in _all_documents(classes)}
    plan = [[_call(text, places) for text in turn] for turn in gold]
    if "missed_function" in row:
        metadata["withheld"] = {
            # One published plan calls a function before it appears: there it is not withheld.
            place: [n for n in names if n not in {c["name"] for t in plan[: int(place)] for c in t}]
            for place, names in row["missed_function"].items()
        }
    return Task(row["id"], texts[0], (json.dumps(plan),), metadata, category)


def _single(row: Mapping[str, Any], gold: list[Any], category: str) -> Task:
    """A task of one reply; what stands before the user's last message becomes part of it."""
    messages = row["question"][0]
    texts = [message["content"].strip() for message in messages]
    roles = [message["role"] for message in messages]
    if set(roles) - {"system"} != {"user"} or roles.count("user") > 1:
        said = zip(roles, texts, strict=True)
        texts = [f"{role.capitalize()}: {text}" for role, text in said]
    metadata = {"category": category, "functions": row["function"]}
    return Task(row["id"], "\n\n".join(texts), (json.dumps(gold),), metadata, category)


def _call(text: str, places: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A call that is written in Python, such as ``sort('a.txt')``; it is read, not run."""
    node = ast.parse(text, mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise BadInputError(f"not a call of a function: {text!r:.200}")
    placed = zip(places[node.func.id], node.args, strict=False)
    named = [*placed, *((str(item.arg), item.value) for item in node.keywords)]
    return {"name": node.func.id, "arguments": {k: ast.literal_eval(v) for k, v in named}}


def _own_row(row: Mapping[str, Any], fallback_id: str) -> Task:
    task = task_from_row(row, fallback_id)
    _check(task)
    return task


class _Gold(BaseModel):
    name: str
    arguments: dict[str, Any]


class _Dialogue(BaseModel):
    """Columns of a task of several user turns, and its gold plan."""

    classes: list[Literal[tuple(CLASSES)]]  # type: ignore[valid-type]
    initial_config: dict[str, dict[str, Any]]
    gold: list[list[_Gold]]
    turns: list[str] = []
    withheld: dict[str, list[str]] = {}
    long_context: bool = False


class _Function(BaseModel):
    name: str
    description: str
    parameters: dict[str, Any]


class _Single(BaseModel):
    """Columns of a task of one reply, and its gold plan."""

    category: str
    functions: list[_Function]
    gold: list[dict[str, dict[str, list[Any]]]]


def _check(task: Task) -> None:
    """Refuse a task that could not be played.

    Raises:
        BadInputError: what is wrong with it.
    """
    kind = _Dialogue if "classes" in task.metadata else _Single
    try:
        held = kind.model_validate(task.metadata | {"gold": gold_plan(task)}, strict=True)
    except ValidationError as error:
        raise BadInputError(f"task {task.id!r}: {explain(error, kind, 'column')}") from error
    except ValueError as error:
        raise BadInputError(
            f"the answer of task {task.id!r} is not its gold plan as JSON: {task.target!r:.80}"
        ) from error
    if isinstance(held, _Dialogue) and len(held.gold) != len(held.turns) + 1:
        raise BadInputError(
            f"task {task.id!r} has {len(held.turns) + 1} user turns and a gold plan of "
            f"{len(held.gold)}"
        )


def _all_documents(classes: Sequence[str]) -> list[dict[str, Any]]:
    return [item for name in classes for item in _class_documents(name)]


@functools.cache
def _class_documents(name: str) -> tuple[dict[str, Any], ...]:
    rows = _rows(published() / "multi_turn_func_doc" / f"{CLASSES[name]}.json")
    return tuple(_document(row, "multi_turn") for row in rows)


def _document(published: Mapping[str, Any], category: str) -> dict[str, Any]:
    """A published document in JSON Schema, with the published hint of the language."""
    language, syntax = _LANGUAGES.get(category, ("", "Python 3"))
    parameters = copy_json(published["parameters"])
    if language:
        for schema in parameters["properties"].values():
            _as_text(schema, language)
    parameters["type"] = "object"
    parameters["properties"] = {
        name: _json_schema(schema) for name, schema in parameters["properties"].items()
    }
    parameters.setdefault("required", [])
    hint = f" Note that the provided function is in {syntax} syntax."
    described = {"name": published["name"], "description": published["description"] + hint}
    return described | {"parameters": parameters}


def _as_text(schema: dict[str, Any], language: str) -> None:
    """A parameter that is written as text of the language, in the published words."""
    told = schema.get("description", "")
    if schema["type"] == "any":
        told += f" This parameter can be of any type of {language} object in string representation."
    else:
        told += f" This is {language} {schema['type']} type parameter in string representation."
    items, properties = schema.pop("items", None), schema.pop("properties", None)
    if items is not None:
        told += f" The list elements are of type {items['type']}; they are not in string"
        told += " representation."
    if properties is not None:
        told += " The dictionary entries have the following schema; they are not in string"
        told += f" representation. {json.dumps(properties)}"
    schema["description"], schema["type"] = told, "string"


def _json_schema(schema: Any) -> Any:
    """A published schema with the types of JSON Schema, at any depth."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    kind = schema.get("type")
    found["type"] = _TYPES.get(str(kind), "string")
    if kind == "float":
        found["format"] = "float"
        found["description"] = f"{schema.get('description', '')} This is a float type value."
    if "items" in schema:
        found["items"] = _json_schema(schema["items"])
    if isinstance(schema.get("properties"), dict):
        found["properties"] = {k: _json_schema(v) for k, v in schema["properties"].items()}
    return found
