"""From a trained model back to every row, episode and task, by the hashes of `data.lineage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.frames import standing
from toolgym._util.hashes import file_hash, value_hash
from toolgym._util.jsonl import parse_line, read_json, read_lines
from toolgym._util.text import markdown_table
from toolgym.data.lineage import LINEAGE, author_of, links_of, maker_of, run_hash
from toolgym.errors import BadInputError, MissingFileError
from toolgym.rollouts.lines import Book, line_hash, task_hash
from toolgym.rollouts.runs import SETTINGS, TRAJECTORIES

__all__ = ["Lineage", "Link", "ModelNode", "trace"]

_DEEPEST = 200  # models that were trained one from the other
_NEXT = (
    "restore it (places are relative: what was moved belongs together, models, rows, selections, "
    "runs and tasks), or make the rows again from what lies there and train again"
)


@dataclass(frozen=True, slots=True)
class Link:
    """A row and what it was made of.

    Args:
        row: number of the line, from 1.
        hash: of the row.
        episodes: each with ``run``, ``id``, ``hash``, ``task`` and ``task_hash``; of a selection
            also with ``selection`` and ``selected``, the hash of the line there.
    """

    row: int
    hash: str
    episodes: tuple[dict[str, str], ...]


@dataclass
class ModelNode:
    """A model of the chain.

    Args:
        folder: where it lies; the name of a model of the hub.
        method: that trained it; empty for one that nothing here trained.
        hash: of its lineage, or of its files together.
        begins: number in the chain of the model that it began with.
        rows: file of its rows; None without, or where they were made of episodes in memory.
        linked: file of the links of these rows; None without.
        count: rows.
        runs: that their episodes are in, as the lineage of the rows has them; ``player``: number
            in the chain of the model that played; ``policy``: what played, by its name.
        selections: files of episodes that the rows were made of, where these were chosen from runs.
        players: numbers in the chain of all models that played.
        notes: where the chain has an open end.
    """

    folder: str
    method: str = ""
    hash: str = ""
    begins: int | None = None
    rows: Path | None = None
    linked: Path | None = None
    count: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)
    selections: list[str] = field(default_factory=list)
    players: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def links(self) -> Iterator[Link]:
        """Its rows, one at a time."""
        if self.linked is None:
            return
        for number, _, raw in read_lines(self.linked, "file of links"):
            row = parse_line(raw, self.linked, number, "file of links")
            yield Link(int(row["row"]), str(row["hash"]), tuple(row["episodes"]))


@dataclass
class Lineage:
    """A chain that was checked.

    Args:
        models: oldest first; the last one is the model that was asked for.
        checked: how many hashes were compared, by what they are of; ``copies`` are episodes in
            selections.
    """

    models: list[ModelNode]
    checked: dict[str, int]

    def without(self, task: str) -> list[dict[str, Any]]:
        """What has to be done to take a task out: by model, oldest first.

        A model is trained again where the task stands in its rows, or where a model that it began
        with, or that played for it, is trained again.

        Args:
            task: its id.

        Returns:
            ``model``, ``rows`` (numbers of lines in ``file``; where that is None, of rows that were
            made of episodes in their order) and ``why``, for each model that has to be trained
            again; empty where no row holds it.
        """
        again: dict[int, dict[str, Any]] = {}
        for number, model in enumerate(self.models):
            rows = [
                link.row
                for link in model.links()
                if any(episode["task"] == task for episode in link.episodes)
            ]
            why = [f"{len(rows)} of its {model.count} rows hold it"] if rows else []
            if model.begins in again:
                why.append("the model that it began with has to be trained again")
            if any(player in again for player in model.players):
                why.append("a model that played for it has to be trained again")
            if why:
                file = str(model.rows) if model.rows is not None and rows else None
                again[number] = {"model": model.folder, "file": file, "rows": rows, "why": why}
        return list(again.values())

    def to_dict(self, rows: bool = False) -> dict[str, Any]:
        """Plain JSON values.

        Args:
            rows: each row with its episodes, too.
        """
        models = []
        for node in self.models:
            told = {k: v for k, v in asdict(node).items() if k not in ("rows", "linked")}
            told |= {"file": None if node.rows is None else str(node.rows)}
            models.append(told | ({"rows": [asdict(x) for x in node.links()]} if rows else {}))
        return {"models": models, "checked": self.checked}

    def __str__(self) -> str:
        lines = []
        for number, node in enumerate(self.models):
            kind = f"trained with {node.method}" if node.method else "not trained here"
            lines.append(f"{number}  {node.folder} ({kind}, {node.hash[:12] or 'no hash'})")
            if node.begins is not None:
                lines.append(f"     begins with  {node.begins}")
            if node.linked is not None:
                where = f"in {node.rows}" if node.rows is not None else "made of episodes"
                lines.append(f"     rows         {node.count} {where}")
            lines += [f"     selection    {file}" for file in node.selections]
            for run in node.runs:
                told = f"{run['episodes']} episodes of {run['tasks']} tasks, {run['env']}, "
                who = run.get("player", run["policy"])
                played = "" if who is None else f", played by {who}"
                lines.append(f"     run          {told}seed {run['seed']}{played}: {run['folder']}")
                author = f" ({run['made_by']})" if "made_by" in run else ""
                lines.append(f"     tasks        {run['source']}{author}")
            lines += [f"     note         {note}" for note in node.notes]
        counts = ", ".join(f"{count} {kind}" for kind, count in self.checked.items())
        return "\n".join([*lines, f"every hash is right: {counts}"])

    def card(self) -> str:
        """A data card of what the last model was trained on, as Markdown."""
        counts = self.tasks()
        rows = sum(node.count for node in self.models)
        head = ["model", "method", "rows", "environment", "tasks", "made by", "played by"]
        head += ["episodes", "seed"]
        cells = []
        for number, node in enumerate(self.models):
            for run in node.runs:
                made = str(run.get("made_by", "not recorded"))
                who = run.get("player", run["policy"])
                played = ["not recorded" if who is None else str(who), str(run["episodes"])]
                where = [f"`{run['source']}`", made, *played, str(run["seed"])]
                cells.append([str(number), node.method, str(node.count), run["env"], *where])
        names = [f"{number}. `{node.folder}`" for number, node in enumerate(self.models)]
        roots = [f"- {node.folder}: {note}" for node in self.models for note in node.notes]
        checked = ", ".join(f"{count} {kind}" for kind, count in self.checked.items())
        parts = [
            f"# What `{self.models[-1].folder}` was trained on",
            f"{rows} rows of {len(counts)} tasks over {len(self.models)} models, oldest first. "
            f"Compared hashes: {checked}.",
            "\n".join(names),
            markdown_table(head, cells) if cells else "No rows.",
            "\n".join(roots) or "No open ends.",
        ]
        return "\n\n".join(parts) + "\n"

    def tasks(self) -> dict[str, int]:
        """In how many rows each task stands, over all models."""
        found: dict[str, int] = {}
        for model in self.models:
            for link in model.links():
                for task in {episode["task"] for episode in link.episodes}:
                    found[task] = found.get(task, 0) + 1
        return found


def trace(model: str | Path) -> Lineage:
    """Go back from a trained model, and compare every hash with what lies there.

    Args:
        model: folder of the model, or a folder of a self-training run: its last model.

    Raises:
        MissingFileError: no such folder.
        BadInputError: it has no lineage, or a link is broken: a file is missing, or is another one
            than when the next thing was made of it.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise MissingFileError(f"no model folder {str(model)!r}")
    if (folder / "settings.json").is_file() and not (folder / LINEAGE).is_file():
        trained = sorted(folder.glob("round-*/training/model"), key=_round_of)
        if not trained:
            raise BadInputError(f"{str(folder)!r} holds no trained model yet")
        folder = trained[-1]
    if not (folder / LINEAGE).is_file():
        raise BadInputError(
            f"{str(folder)!r} has no {LINEAGE}: toolgym did not train it, or before lineages were "
            "recorded; train it again"
        )
    walk = _Walk()
    walk.model(folder.resolve())
    return Lineage(walk.models, walk.checked)


def _round_of(path: Path) -> int:
    digits = path.parent.parent.name.partition("-")[2]
    return int(digits) if digits.isdigit() else 0


class _Walk:
    """The way back; each model, run and file is looked at once."""

    def __init__(self) -> None:
        self.models: list[ModelNode] = []
        self.checked = dict.fromkeys(("files", "rows", "episodes", "tasks", "runs", "models"), 0)
        self._known: dict[str, int] = {}
        self._depth = 0

    def _same(self, kind: str, what: str, now: str, before: Any) -> None:
        self.checked[kind] = self.checked.get(kind, 0) + 1
        if now != before:
            raise BadInputError(
                f"broken link: {what} is not what it was when the next thing was made of it "
                f"(hash {now[:12]}, recorded {str(before)[:12]}); {_NEXT}"
            )

    def _file(
        self, path: Path, before: Any, kind: str = "files", of: Callable[[Path], str] = file_hash
    ) -> None:
        if not path.is_file():
            raise BadInputError(f"broken link: {str(path)!r} is missing; {_NEXT}")
        self._same(kind, repr(str(path)), of(path), before)

    def model(self, folder: Path) -> int:
        """A model that was trained here; its number in the chain."""
        key = str(folder)
        if key in self._known:
            return self._known[key]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadInputError(f"broken link: {key!r} is trained from itself")
        told = read_json(folder / LINEAGE)
        for name, before in told["files"].items():
            self._file(folder / name, before)
        node = ModelNode(key, told["method"], file_hash(folder / LINEAGE))
        node.begins = self._identity(told["base"], folder)
        if "rows" in told:
            place = (folder / told["rows"]).resolve()
            place = place / LINEAGE if place.is_dir() else place
            self._file(place, told["rows_hash"])
            self._rows(node, read_json(place), place)
        elif "learned" in told:
            self._rows(node, told["learned"], folder / LINEAGE)
        elif "source" in told:
            if told["source_hash"] is not None:
                self._file((folder / told["source"]).resolve(), told["source_hash"])
            node.notes.append(
                f"trained on {told['source']!r}, whose rows have no links to episodes: the chain "
                "ends at this file"
            )
        elif "tasks" not in told:
            node.notes.append("trained on what was in memory alone: the chain ends here")
        if "tasks" in told:
            sources = ", ".join(map(str, told["tasks"]["sources"]))
            node.notes.append(f"played while it was trained, tasks of {sources}")
        self._known[key] = len(self.models)
        self.models.append(node)
        self.checked["models"] += 1
        self._depth -= 1
        return self._known[key]

    def _identity(self, told: Mapping[str, Any], beside: Path) -> int:
        """The number of a model that is named by its hashes."""
        if "folder" not in told:
            return self._root(str(told["name"]), "", ["a model by its name: there is no hash"])
        folder = (beside / told["folder"]).resolve()
        if "lineage" in told:
            self._file(folder / LINEAGE, told["lineage"])
            return self.model(folder)
        for name, before in told["files"].items():
            self._file(folder / name, before)
        return self._root(str(folder), value_hash(told["files"]), maker_of(folder))

    def _root(self, name: str, digest: str, notes: list[str]) -> int:
        if name not in self._known:
            self._known[name] = len(self.models)
            self.models.append(ModelNode(name, hash=digest, notes=notes))
        return self._known[name]

    def _rows(self, node: ModelNode, told: Mapping[str, Any], lineage: Path) -> None:
        """Rows, and all that they were made of; places are relative to the lineage's folder."""
        beside, node.count, node.linked = lineage.parent, int(told["rows"]), links_of(lineage)
        if "file" in told:
            node.rows = beside / told["file"]
            self._file(node.rows, told["hash"])
        self._file(node.linked, told["links"])
        old = told["schema"] == 1  # of rows their values count then, of runs all settings
        shelves = {run["folder"]: self._shelf(beside, run, old) for run in told["runs"]}
        chosen: dict[str, _Shelf] = {}
        numbered = iter(() if node.rows is None else read_lines(node.rows, "file of rows"))
        for link in node.links():
            if node.rows is not None:
                number, _, raw = next(numbered)
                now = line_hash(raw)
                if old:
                    now = value_hash(parse_line(raw, node.rows, number, "file of rows"))
                self._same("rows", f"row {link.row} of {str(node.rows)!r}", now, link.hash)
            for each in link.episodes:
                self._episode("episodes", shelves[each["run"]], each, each["hash"])
                name = each.get("selection")
                if name is not None:
                    chosen[name] = chosen.get(name) or _Shelf(beside / name)
                    self._episode("copies", chosen[name], each, each["selected"])
        node.selections = [str(shelf.place) for shelf in chosen.values()]
        for run in told["runs"]:
            self._run(node, beside, run, shelves[run["folder"]])

    def _shelf(self, beside: Path, run: Mapping[str, Any], old: bool) -> _Shelf:
        """The episodes of a run, whose settings are what they were."""
        place = (beside / run["folder"]).resolve()
        if run["hash"] is not None:
            self._file(place / SETTINGS, run["hash"], "runs", file_hash if old else run_hash)
        return _Shelf(place)

    def _episode(self, kind: str, shelf: _Shelf, told: Mapping[str, str], before: str) -> None:
        """Look an episode up, and compare it and its task."""
        if shelf.last == (told["id"], before, told["task_hash"]):
            return  # the rows of one episode stand together
        what = f"episode {told['id']!r} of {str(shelf.place)!r}"
        found = [(place, raw, line_hash(raw)) for place, raw in shelf.book.of(told["id"])]
        if not found:
            raise BadInputError(f"broken link: {what} is missing; {_NEXT}")
        place, raw, now = next((each for each in found if each[2] == before), found[0])
        if now != before or not shelf.seen[place]:
            self._same(kind, what, now, before)
            if kind == "episodes":
                self._same("tasks", f"the task of {what}", task_hash(raw)[1], told["task_hash"])
            shelf.count += 1
        shelf.last, shelf.seen[place] = (told["id"], before, told["task_hash"]), 1
        shelf.tasks.add(told["task"])

    def _run(self, node: ModelNode, beside: Path, told: Mapping[str, Any], shelf: _Shelf) -> None:
        """Add a run to a model, and what its tasks and its player are."""
        source = str(told["source"])
        about: dict[str, Any] = {"folder": str(shelf.place), "env": told["env"]}
        about |= {"seed": told["seed"], "source": source, "policy": told.get("policy")}
        if told["source_hash"] is not None:
            path = (beside / source).resolve()
            self._file(path, told["source_hash"])
            about |= {"source": str(path), "made_by": author_of(path)}
        about |= {"episodes": shelf.count, "tasks": len(shelf.tasks)}
        if told["hash"] is None:
            node.notes.append(
                f"{str(shelf.place)!r} holds episodes without their run: where that was, was not "
                "known, or nothing was there, when rows were made of them"
            )
        if "player" in told:
            about["player"] = self._identity(told["player"], beside)
            node.players.append(about["player"])
        node.runs.append(about)


class _Shelf:
    """The episodes of a run or a selection, of which a byte says whether they were looked at."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        file = standing(place / TRAJECTORIES) if place.is_dir() else self.place
        if not file.is_file():
            raise BadInputError(f"broken link: {str(file)!r} has no episodes; {_NEXT}")
        self.book = Book(self.place)
        self.seen, self.count = bytearray(len(self.book)), 0
        self.tasks: set[str] = set()
        self.last = "", "", ""
