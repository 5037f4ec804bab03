"""What a training was made from, written down by hashes; `toolgym.data.tracing` checks them.

Each stage writes down the hashes of what it was made from. Beside the rows of a training lie
``links.jsonl``, a line a row: the hash of the row, and of the episodes that it was made of, the
hashes of the lines that they are in their runs and of their tasks; and ``lineage.json``: hashes of
rows, links, runs and task files, and which model played. In the folder of a model lies a
``lineage.json``, too: hashes of its files, of the model that it began with, and of what it was
trained on. A chain of these is whole where every hash is that of what lies there now.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._util.frames import standing
from toolgym._util.jsonl import (
    file_hash,
    parse_line,
    read_json,
    read_lines,
    value_hash,
    write_json,
    write_rows,
)
from toolgym.errors import BadInputError
from toolgym.rollouts.runs import SETTINGS, TRAJECTORIES

__all__ = ["LINEAGE", "LINKS", "lines_of_run", "link_rows", "seal"]

LINEAGE, LINKS = "lineage.json", "links.jsonl"


def link_rows(
    folder: Path, file: str, groups: Iterable[tuple[Sequence[Mapping[str, Any]], Sequence[Path]]]
) -> None:
    """Write down which episodes the rows of a file were made of.

    Args:
        folder: of the rows.
        file: name of the file of rows in it, which is written already.
        groups: rows in the order of the file, and the runs that their episodes are in: the first
            one's, and for the rejected side of a row that says ``rejected_without_tools`` the
            second one's.

    Raises:
        BadInputError: an episode of a row is not in its run.
    """
    links: list[dict[str, Any]] = []
    runs: dict[Path, None] = {}
    for rows, places in groups:
        wanted = [_episodes_of(row, places) for row in rows]
        found = {
            run: lines_of_run(
                run, {name for pairs in wanted for name, place in pairs if place == run}
            )
            for run in places
        }
        for row, pairs in zip(rows, wanted, strict=True):
            played = []
            for name, run in pairs:
                runs[run] = None
                if name not in found[run]:
                    raise BadInputError(
                        f"row {len(links) + 1}: no episode {name!r} in {str(run)!r}"
                    )
                place = os.path.relpath(run, folder)
                played.append({"run": place, "id": name, **found[run][name]})
            links.append({"row": len(links) + 1, "hash": value_hash(row), "episodes": played})
    write_rows(folder / LINKS, links)
    told = {"schema": 1, "file": file, "hash": file_hash(folder / file), "rows": len(links)}
    told |= {"links": file_hash(folder / LINKS), "runs": [_run(run, folder) for run in runs]}
    write_json(folder / LINEAGE, told)


def _episodes_of(row: Mapping[str, Any], runs: Sequence[Path]) -> list[tuple[str, Path]]:
    found = [(str(row["id"]), runs[0])]
    if "rejected_id" in row:
        beside = runs[1] if row.get("rejected_without_tools") else runs[0]
        found.append((str(row["rejected_id"]), beside))
    return found


def lines_of_run(run: Path, wanted: set[str]) -> dict[str, dict[str, str]]:
    """Of each wanted episode the hash of its line, and its task with its hash."""
    found: dict[str, dict[str, str]] = {}
    file = standing(run / TRAJECTORIES)
    for number, _, raw in read_lines(file, "trajectory file"):
        row = parse_line(raw, file, number, "trajectory file")
        if row.get("id") in wanted:
            task = row["task"]
            digest = hashlib.sha256(raw.strip()).hexdigest()
            told = {"hash": digest, "task": str(task["id"]), "task_hash": value_hash(task)}
            found[row["id"]] = told
    return found


def _run(run: Path, folder: Path) -> dict[str, Any]:
    told = read_json(run / SETTINGS)
    source = str(told.get("task_source", ""))
    place = Path(source)
    player = dict(told.get("policy", {}))
    found = {
        "folder": os.path.relpath(run, folder),
        "hash": file_hash(run / SETTINGS),
        "env": told.get("env", {}).get("id", ""),
        "seed": told.get("seed"),
        "tasks": told.get("hashes", {}).get("tasks"),
        "source": os.path.relpath(place, folder) if place.is_file() else source,
        "source_hash": file_hash(place) if place.is_file() else None,
    }
    if isinstance(model := player.get("model"), str):
        found["player"] = _identity(model, folder)
    return found


def _identity(model: str, folder: Path) -> dict[str, Any]:
    """A model by hashes: of its own lineage where it has one, else of its files."""
    place = Path(model)
    if not place.is_dir():
        return {"name": model}
    found: dict[str, Any] = {"folder": os.path.relpath(place, folder)}
    if (place / LINEAGE).is_file():
        return found | {"lineage": file_hash(place / LINEAGE)}
    return found | {"files": _files(place)}


def _files(folder: Path) -> dict[str, str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != LINEAGE)
    return {name: file_hash(folder / name) for name in names if not name.startswith(".")}


def seal(made: Path, target: Path, record: Mapping[str, Any], source: Any = None) -> None:
    """Write the lineage of a trained model into its folder.

    Args:
        made: the folder as it is now.
        target: where it will lie.
        record: of the training: ``method``, ``model``, and for GRPO ``tasks``.
        source: path of the rows, or of the episodes, that it was trained on.
    """
    told: dict[str, Any] = {"schema": 1, "method": record["method"]}
    told["base"] = _identity(str(record["model"]), target)
    told["files"] = _files(made)
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and (path.parent / LINEAGE).is_file() and path.is_file():
        told["rows"] = os.path.relpath(path.parent, target)
        told["rows_hash"] = file_hash(path.parent / LINEAGE)
    elif path is not None and path.exists():
        place = standing(path / TRAJECTORIES) if path.is_dir() else path
        place = place if place.is_file() else standing(path / "train.jsonl")
        told["source"] = os.path.relpath(place, target)
        told["source_hash"] = file_hash(place) if place.is_file() else None
    if "tasks" in record:
        told["tasks"] = {"sources": list(record["tasks"]), "hash": record.get("rows")}
    write_json(made / LINEAGE, told)
