"""Where tasks come from: files of rows, and lists, data frames and data sets in memory."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolgym._util.jsonl import read_rows, require_file
from toolgym._util.kinds import require
from toolgym.errors import BadInputError
from toolgym.task import RowReader, Task, TaskSet, task_from_row

__all__ = ["given_rows", "given_tasks", "names_file", "read_tasks"]

_TABLES = {".csv": ",", ".tsv": "\t"}
_KINDS = "a list of dicts or Task objects, a pandas or polars frame, or a datasets.Dataset"


def names_file(source: str | Path) -> bool:
    """Whether a task source is the path of a file: it ends like one, or is there."""
    return Path(source).suffix in (".jsonl", *_TABLES) or Path(source).is_file()


def given_tasks(given: Any, reader: RowReader = task_from_row, *, name: str = "tasks") -> TaskSet:
    """Tasks that stand in memory.

    Args:
        given: a `TaskSet`; or `Task` objects or rows: a list, a pandas or polars frame, or a
            ``datasets.Dataset``; or a ``DatasetDict``, whose names become the tasks' splits.
        reader: turns a row into a task.
        name: the family.

    Raises:
        BadInputError: something else, or a row that is not a task; its place is named.
    """
    if isinstance(given, TaskSet):
        return given
    tasks = []
    for fallback, row in given_rows(given):
        if isinstance(row, Task):
            tasks.append(row)
            continue
        try:
            tasks.append(reader(row, fallback))
        except BadInputError as error:
            place = fallback.removeprefix("row-")
            raise BadInputError(f"row {place} of the tasks: {error}") from error
    return TaskSet(tasks, source=f"given by a {type(given).__name__}", name=name)


def given_rows(given: Any) -> Iterator[tuple[str, Any]]:
    """What stands in memory, row by row.

    Args:
        given: see `given_tasks`.

    Yields:
        An id for where a row has none, and the row: a mapping with plain values, a `Task`, or an
        object of the family's own.

    Raises:
        BadInputError: it is nothing that has rows, or a row is neither mapping nor object.
    """
    if isinstance(given, Mapping) and given and all(map(_is_dataset, given.values())):
        for split, rows in given.items():
            for number, row in enumerate(rows):
                yield f"{split}-{number}", {"split": str(split)} | _plain(row)
        return
    if isinstance(given, str | bytes | Mapping | Task) or not isinstance(given, Iterable):
        raise BadInputError(
            f"tasks are 'sample', 'hub', a registered name, a path, or {_KINDS}, not {given!r:.80}"
        )
    frame = _records(given)
    for number, row in enumerate(given if frame is None else frame):
        if isinstance(row, Mapping):
            yield f"row-{number}", _plain(row, missing=frame is not None)
        elif row is None or isinstance(row, str | bytes | int | float | list | tuple):
            raise BadInputError(
                f"row {number} of the tasks is {row!r:.80}, not a mapping of columns: tasks are "
                f"{_KINDS}"
            )
        else:
            yield f"row-{number}", row


def _is_dataset(value: Any) -> bool:
    return hasattr(value, "column_names") and isinstance(value, Iterable)


def _records(given: Any) -> list[dict[str, Any]] | None:
    """The rows of a frame of pandas or polars; None: it is no frame."""
    if not hasattr(given, "columns") or not hasattr(given, "dtypes"):
        return None
    columns = [str(column) for column in given.columns]
    if len(set(columns)) < len(columns):
        raise BadInputError(f"the frame of the tasks has a column twice: {columns!r:.200}")
    rows = given.to_dicts() if hasattr(given, "to_dicts") else given.to_dict("records")
    return [{str(column): cell for column, cell in row.items()} for row in rows]


def _plain(value: Any, missing: bool = False) -> Any:
    """A value of a row as JSON can hold it: numpy's as Python's, points in time as text.

    Args:
        value: any.
        missing: whether it stands in a frame, where NaN, NaT and NA say that there is none.
    """
    if isinstance(value, Mapping):
        return {key: _plain(item, missing) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, missing) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), missing)
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    if missing and type(value).__name__ in ("NAType", "NaTType"):
        return None
    if missing and isinstance(value, float) and math.isnan(value):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value


def read_tasks(
    path: str | Path, reader: RowReader = task_from_row, *, source: str = "", name: str = "tasks"
) -> TaskSet:
    """Read a file of tasks: ``.jsonl``, or a table whose name ends in ``.csv`` or ``.tsv``.

    Cells of a table are strings, and empty ones are missing; in the column ``answers`` a cell is
    one answer, or a JSON list of them.

    Args:
        path: one JSON object a line, or a table with a header.
        reader: turns a row into a task; families read the columns of their data sets.
        source: for reports; default: the path.
        name: the family.

    Raises:
        MissingFileError: no such file.
        BadInputError: a broken line (its number is named), an id twice, or no task at all.
    """
    tasks, what = [], "task file"
    require(path, (str, Path), "a task file is a path")
    table = Path(path).suffix in _TABLES
    for number, row in _table(path, what) if table else read_rows(path, what):
        try:
            tasks.append(reader(row, f"line-{number}"))
        except BadInputError as error:
            raise BadInputError(f"{what} {str(path)!r}, line {number}: {error}") from error
    return TaskSet(tasks, source=source or str(path), name=name)


def _table(path: str | Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the last line and cells by column of each row of a table.

    Raises:
        MissingFileError: no such file.
        BadInputError: no UTF-8, a quotation that does not end, or another number of cells than the
            header has.
    """
    place, number = f"{what} {str(path)!r}", 0
    with require_file(path, what).open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, delimiter=_TABLES[Path(path).suffix], strict=True)
        header: list[str] | None = None
        try:
            for cells in lines:
                number = lines.line_num
                if not any(cells):
                    continue
                if header is None:
                    header = _header(cells, place)
                elif len(cells) != len(header):
                    raise BadInputError(
                        f"{place}, line {number}: {len(cells)} cells, and the header has "
                        f"{len(header)} columns: quote a cell that holds "
                        f"{lines.dialect.delimiter!r}"
                    )
                else:
                    both = zip(header, cells, strict=True)
                    row: dict[str, Any] = {column: cell or None for column, cell in both}
                    yield number, row | _listed(row.get("answers"), place, number)
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInputError(f"{place}, behind line {number}: {error}") from error


def _header(cells: list[str], place: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    if "" in header or len(set(header)) < len(header):
        raise BadInputError(
            f"{place}: its first line names each column, none of them twice, not {header!r:.200}"
        )
    return header


def _listed(cell: str | None, place: str, number: int) -> dict[str, Any]:
    """The column ``answers`` as a list."""
    if cell is None or not cell.lstrip().startswith("["):
        return {}
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise BadInputError(
            f'{place}, line {number}: column \'answers\' is one answer or a JSON list ["a", "b"], '
            f"not {cell!r:.80}; pandas writes lists for JSON with "
            "frame.to_json(path, orient='records', lines=True)"
        )
    return {"answers": found}
