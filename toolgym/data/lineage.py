"""What a training was made from, written down by hashes; `toolgym.data.tracing` checks them.

Each stage writes down the hashes of what it was made from. Beside a file of rows lie
``<its stem>.links``, a line a row: the hash of the row, and of the episodes that it was made of,
the hashes of the lines that they are in their runs and of their tasks; and ``<its stem>.lineage``:
hashes of rows, links, runs and task files, and which model played. (No loader of data sets takes
files of these names for rows.) In the folder of a model lies ``lineage.json``: hashes of its
files, of the model that it began with, and of what it was trained on; where that was not a file of
rows but episodes, also the links of the rows that were made of them, as ``links.jsonl``. A chain of
these is whole where every hash is that of what lies there now.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from toolgym._util.frames import SUFFIX, standing
from toolgym._util.hashes import file_hash, value_hash
from toolgym._util.jsonl import dump_line, read_json, write_json, write_lines
from toolgym._util.spool import Spool
from toolgym.rollouts.lines import Book, line_hash, task_hash
from toolgym.rollouts.recording import Episodes
from toolgym.rollouts.runs import MAY_DIFFER, SELECTION, SETTINGS, TRAJECTORIES
from toolgym.trajectory import Trajectory

__all__ = [
    *("LINEAGE", "LINKS", "Origins", "ancestry", "author_of", "link_rows", "links_of"),
    *("maker_of", "run_hash", "seal"),
]

LINEAGE, LINKS = "lineage.json", "links.jsonl"
ROWS = "train.jsonl"
"""Of a folder of exported rows."""


class Origins:
    """Which recorded episodes rows are made of, noted while these are read.

    Episodes that are read from a file lead to their line in it, and from a selection to that in the
    run behind it, if it is there. Those in memory lead to the run that they say they are from, if
    they are the same there.

    Args:
        episodes: all that there are.
        made: what grows by whatever is made of each: the rows, or a spool of episodes that are
            paired then.
    """

    def __init__(self, episodes: Episodes, made: Sized) -> None:
        self.rows: Sequence[dict[str, Any]] = ()
        self.facts: dict[str, dict[str, Any]] = {}
        self._episodes: Episodes | None = episodes
        self._made: Sized = made
        self._known = True
        self._found: Spool[dict[str, str]] = Spool(dump_line, json.loads)
        self._of, self._sides = array("q"), array("q")
        self._books: dict[Episodes, tuple[str, list[Book]]] = {}

    def __iter__(self) -> Iterator[Trajectory]:
        episodes, self._episodes = self._episodes, None
        if episodes is None:
            raise ValueError("they were read before")
        for source, line, trajectory in episodes.with_lines():
            yield trajectory
            new = len(self._made) - len(self._of)
            if new and self._known:
                found = self._leading(source, line, trajectory)
                self._known = bool(found)
                self._of.extend([len(self._found)] * new)
                self._found.append(found)
        self._made = ()  # it may hold every episode
        self._books.clear()

    def pair(self, chosen: int, rejected: int) -> None:
        """Note that the next row is made of two of the spooled episodes, by their places."""
        self._sides.extend((chosen, rejected))

    @property
    def known(self) -> bool:
        """Whether every row leads to episodes in a file."""
        made = len(self._sides) / 2 if self._sides else len(self._of)
        return self._known and made == len(self.rows) > 0

    def links(self) -> Iterator[tuple[str, list[dict[str, str]]]]:
        """Each row as a line, with its episodes; of a pair the chosen one first."""
        rows = self.rows
        for number, line in enumerate(
            rows.lines() if isinstance(rows, Spool) else map(dump_line, rows)
        ):
            made = self._sides[2 * number : 2 * number + 2] if self._sides else (number,)
            yield line, [dict(self._found[self._of[place]]) for place in made]

    def _leading(
        self, source: Episodes, line: bytes | None, trajectory: Trajectory
    ) -> dict[str, str]:
        """Where an episode stands, by hashes; nothing where it stands in no file."""
        place, books = self._places(source)
        for book in books:
            raw = book.same(trajectory, line)
            if raw is not None:
                found = _facts(str(book.place), trajectory, raw)
                if line is not None:
                    found |= {"selection": place, "selected": line_hash(line)}
                return found
        return {} if line is None else _facts(place, trajectory, line)

    def _places(self, source: Episodes) -> tuple[str, list[Book]]:
        """Where a source stands, and the runs behind it."""
        if source not in self._books:
            place = "" if source.place is None else str(source.place.resolve())
            self.facts[place] = source.origin
            self._books[source] = place, [Book(run) for run in _runs_behind(source)]
        return self._books[source]


def _facts(place: str, trajectory: Trajectory, raw: bytes) -> dict[str, str]:
    name, digest = task_hash(raw)
    found = {"run": place, "id": trajectory.id, "hash": line_hash(raw)}
    return found | {"task": name, "task_hash": digest}


def _runs_behind(source: Episodes) -> list[Path]:
    """The runs that a selection, or what is in memory, was chosen from, as far as they are there.

    A file that says nothing of its runs stands for them, for what is in memory.
    """
    place = source.place
    if place is None:
        return _places(source.origin.get("path"), set())
    return [] if place.is_dir() else _places(_chosen_from(place), {place.resolve()})


def _places(said: Any, passed: set[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for each in said if isinstance(said, list) else [said]:
        if not isinstance(each, str):
            continue
        place = Path(each).resolve()
        if (place.parent / SETTINGS).is_file() and place.name.startswith(TRAJECTORIES):
            place = place.parent
        file = standing(place / TRAJECTORIES) if place.is_dir() else place
        if (place / SETTINGS).is_file() and file.is_file():
            found[place] = None
        elif file not in passed and file.is_file():
            passed.add(file)
            found |= dict.fromkeys(_places(_chosen_from(file), passed) or [file])
    return list(found)


def _chosen_from(file: Path) -> Any:
    """What a selection was chosen from: a path, several, or None."""
    summary = file.parent / SELECTION
    return dict(read_json(summary).get("origin", {})).get("path") if summary.is_file() else None


def link_rows(file: Path, origins: Sequence[Origins | None]) -> None:
    """Write down beside a file of rows which episodes they were made of.

    Where that is not known of all of them, what an earlier file of that name has left is removed.

    Args:
        file: of the rows, which is written already.
        origins: of the rows, in the order of the file; None: of unknown ones.
    """
    lineage = _lineage_of(file)
    lineage.unlink(missing_ok=True)
    known = [each for each in origins if each is not None and each.known]
    if len(known) < len(origins):
        links_of(lineage).unlink(missing_ok=True)
        return
    told = _written(links_of(lineage), known, file.parent)
    write_json(lineage, told | {"file": file.name, "hash": file_hash(file)})


def _lineage_of(file: Path) -> Path:
    stem = file.name.removesuffix(SUFFIX).removesuffix(".jsonl")
    return file.with_name(f"{stem}.lineage")


def links_of(lineage: Path) -> Path:
    """The file of links that belongs to a lineage."""
    return lineage.with_name(
        LINKS if lineage.name == LINEAGE else lineage.name.removesuffix(".lineage") + ".links"
    )


def _written(target: Path, origins: Sequence[Origins], beside: Path) -> dict[str, Any]:
    """Write links, and say what they lead to.

    Args:
        target: the file.
        origins: of the rows.
        beside: folder that all places are relative to.
    """
    places: dict[str, str] = {}
    runs: dict[str, dict[str, Any]] = {}
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for each in origins:
            for line, episodes in each.links():
                count += 1
                for episode in episodes:
                    run = episode["run"]
                    if run not in runs:
                        runs[run] = _run(Path(run), beside, each.facts.get(run, {}))
                    for name in ("run", "selection"):
                        place = episode.get(name)
                        if place is not None and place not in places:
                            places[place] = _relative(place, beside)
                        if place is not None:
                            episode[name] = places[place]
                digest = line_hash(line.encode())
                yield dump_line({"row": count, "hash": digest, "episodes": episodes})

    write_lines(target, lines())
    told = {"schema": 2, "rows": count, "links": file_hash(target)}
    return told | {"runs": list(runs.values())}


def _relative(place: str | Path, beside: Path) -> str:
    return os.path.relpath(Path(place).resolve(), beside.resolve())


def _run(place: Path, beside: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """A run, or a file of episodes whose run is not known."""
    settings = place / SETTINGS
    told = read_json(settings) if settings.is_file() else origin
    source, player, env = str(told.get("task_source", "")), told.get("policy"), told.get("env")
    tasks = Path(source)
    found = {
        "folder": _relative(place, beside),
        "hash": run_hash(settings) if settings.is_file() else None,
        "env": env.get("id", "") if isinstance(env, Mapping) else "",
        "seed": told.get("seed"),
        "policy": player.get("policy") if isinstance(player, Mapping) else None,
        "tasks": dict(told.get("hashes") or {}).get("tasks"),
        "source": _relative(tasks, beside) if tasks.is_file() else source,
        "source_hash": file_hash(tasks) if tasks.is_file() else None,
    }
    model = player.get("model") if isinstance(player, Mapping) else None
    return found | ({"player": _identity(model, beside)} if isinstance(model, str) else {})


def run_hash(settings: Path) -> str:
    """Hash of a ``run.json``, but for what a resume changes: more episodes harm no row."""
    return value_hash({k: v for k, v in read_json(settings).items() if k not in MAY_DIFFER})


def _identity(model: str, folder: Path) -> dict[str, Any]:
    """A model by hashes: of its own lineage where it has one, else of its files."""
    place = Path(model)
    if not place.is_dir():
        return {"name": model}
    found: dict[str, Any] = {"folder": _relative(place, folder)}
    if (place / LINEAGE).is_file():
        return found | {"lineage": file_hash(place / LINEAGE)}
    return found | {"files": _files(place)}


def _files(folder: Path) -> dict[str, str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != LINEAGE)
    return {name: file_hash(folder / name) for name in names if not name.startswith(".")}


def ancestry(
    target: Path,
    work: Path,
    record: Mapping[str, Any],
    source: Any = None,
    origins: Origins | None = None,
) -> dict[str, Any]:
    """What a training begins with, before it begins: what lies there may be another one later.

    Args:
        target: where the model will lie.
        work: folder that exists, for links of rows that no file holds.
        record: of the training: ``method``, ``model``, and for GRPO ``tasks``.
        source: path of the rows, or of the episodes, that it is trained on.
        origins: of rows that are made in memory.

    Returns:
        For `seal`.
    """
    told: dict[str, Any] = {"schema": 1, "method": record["method"]}
    told["base"] = _identity(str(record["model"]), target)
    path = Path(source) if isinstance(source, str | Path) else None
    file = standing(path / ROWS) if path is not None and path.is_dir() else path
    lineage = next(_lineages(file), None) if file is not None and file.is_file() else None
    if lineage is not None:
        told["rows"] = _relative(lineage, target)
        told["rows_hash"] = file_hash(lineage)
    elif origins is not None and origins.known:
        told["learned"] = _written(work / LINKS, [origins], target)
    elif file is not None and file.is_file():
        told["source"] = _relative(file, target)
        told["source_hash"] = file_hash(file)
    if "tasks" in record:
        told["tasks"] = {"sources": list(record["tasks"]), "hash": record.get("rows")}
    return told


def _lineages(file: Path) -> Iterator[Path]:
    """What lies beside a file of rows, by its name or as self-training once named it."""
    for lineage in (_lineage_of(file), file.with_name(LINEAGE)):
        if lineage.is_file() and read_json(lineage).get("file") == file.name:
            yield lineage


def seal(made: Path, told: Mapping[str, Any]) -> None:
    """Write the lineage of a trained model into its folder.

    Args:
        made: the folder, with all its files.
        told: from `ancestry`.
    """
    write_json(made / LINEAGE, {**told, "files": _files(made)})


def maker_of(folder: Path) -> list[str]:
    """What a model that was not trained here says of itself."""
    for path in sorted(folder.glob("*.json")):
        told = read_json(path) if path.stat().st_size < 1 << 20 else {}
        if isinstance(told.get("about"), str):
            return [f"{told['about']}; seed {told.get('seed')}"]
    return ["where it comes from is not recorded"]


def author_of(path: Path) -> str:
    """Who made a file of tasks, as far as its build, or the folder that it lies in, says so."""
    build = path.with_name(path.name + ".build") / "build.json"
    if build.is_file():
        author = dict(read_json(build).get("author", {}))
        seed = dict(author.get("settings", {})).get("seed")
        return f"author {author.get('name')!r}, seed {seed}"
    settings = path.parent.parent.parent / "settings.json"
    if path.parent.parent.name == "base" and settings.is_file():
        told = read_json(settings)
        seed = dict(told.get("build") or {}).get("seed", told.get("seed"))
        return f"preset {told.get('model')!r}, seed {seed}"
    return "not recorded"
