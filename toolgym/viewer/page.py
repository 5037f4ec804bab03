"""Writing the page: one file that needs no network, in which nothing that it shows can run."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from toolgym._util.jsonl import read_rows
from toolgym._util.kinds import require
from toolgym._util.optional import require_extra
from toolgym._util.text import shortened
from toolgym._util.workfolder import publish
from toolgym.data.conditions import condition
from toolgym.errors import BadInputError
from toolgym.evaluation.compare import compare
from toolgym.evaluation.score import task_key
from toolgym.registry import REWARDS
from toolgym.rollouts.recording import Episodes, Recording, some_episodes
from toolgym.rollouts.runs import Run
from toolgym.rollouts.tables import source_sentence
from toolgym.trajectory import Trajectory
from toolgym.viewer.episodes import Columns, Reader
from toolgym.viewer.rows import (
    Viewer,
    file_of_rows,
    measured,
    numbers,
    record_of,
    token_texts,
    viewer_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["view_html"]

BLOCK = 600_000
"""Characters of JSON in one compressed block: what the page unpacks to show one episode."""
_TITLE = 200  # characters of a question in the list
_SCRIPTS = ("data.js", "parts.js", "detail.js", "list.js")
_POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
Where = str | Callable[[Trajectory], bool] | None
Progress = Callable[[int, int], None]


def view_html(
    source: Recording,
    out: str | Path,
    *,
    against: Recording | None = None,
    where: Where = None,
    title: str | None = None,
    tokenizer: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one page to look at episodes, scenarios or training rows with, in any browser.

    The page is a single file, which works from disk. It holds what it shows compressed, and unpacks
    what is looked at. Its search, filters and sorting know the conditions of `toolgym.select`.
    Nothing that a model wrote can run in it: texts are compressed data until they are shown as
    text, and a content security policy admits the page's own script only, by its hash.

    Args:
        source: a run, a selection, the path of either, trajectories, a list of runs; or the path of
            a file of scenarios or of training rows.
        out: the file, such as ``episodes.html``; it appears whole or not at all.
        against: an earlier run, compared task by task as `toolgym.compare` does with it as
            ``before``; the tasks that changed come first.
        where: which episodes of ``source`` the page holds: a condition or a function; None: all.
        title: of the page; default: what the episodes say of themselves.
        tokenizer: folder or hub id: recorded tokens are shown with their texts, and training rows
            as the exact tokens that a trainer makes of them.
        progress: called with the items that were written and all that there are (0: not known).

    Returns:
        The file.

    Raises:
        MissingFileError: no such file or folder.
        MissingExtraError: ``tokenizer`` without transformers.
        BadInputError: no episode or row, a broken line, a condition that cannot be read; or
            ``against`` with rows, or with a run that has no task in common.
        UnknownNameError: no reward, metric or measure has a name of the condition.
    """
    require(out, (str, Path), "out is the path of a file, such as 'episodes.html'")
    target = Path(out)
    if target.is_dir():
        raise BadInputError(f"{str(target)!r} is a folder: name the file, such as 'episodes.html'")
    loaded = _tokenizer(tokenizer)
    file = file_of_rows(Path(source)) if isinstance(source, str | Path) else None
    show = viewer_of(file) if file is not None else None
    if file is not None and show is not None:
        if against is not None or where is not None:
            raise BadInputError(
                f"against and where are for episodes, which {str(source)!r} does not hold"
            )
        make = _of_rows(file, show, loaded, progress)
    else:
        make = _of_episodes(source, against, where, loaded, progress)
    with publish(target) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        page = _Page(stream, title or f"toolgym: {_name(source)}")
        page.finish(make(page))
    return target


class _Page:
    """The file while it is written: a head, blocks of items, their index, and the script.

    Args:
        stream: the file.
        title: of the page.
    """

    def __init__(self, stream: IO[str], title: str) -> None:
        self._stream, self._title = stream, title
        self._items: list[str] = []
        self._size = 0
        self.counts: list[int] = []
        here = files(__package__)
        # In a function, so that no name of it is one of the window's.
        scripts = "\n".join(_text(here / name) for name in _SCRIPTS)
        self._script = f"(() => {{\n{scripts}}})();\n"
        style = _text(here / "page.css")
        policy = _POLICY.format(script=_hash(self._script), style=_hash(style))
        # The title last: it is anybody's, and nothing is filled into it.
        filled = {"policy": policy, "style": style, "title": html.escape(title)}
        head, self._tail = _text(here / "page.html").split("{{data}}")
        for name, value in filled.items():
            head = head.replace("{{" + name + "}}", value)
        stream.write(head)

    def add(self, record: dict[str, Any]) -> None:
        """One more item."""
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        self._items.append(line)
        self._size += len(line)
        if self._size >= BLOCK:
            self._flush()

    def finish(self, index: dict[str, Any]) -> None:
        """Everything else: the last block, the index, the script."""
        self._flush()
        text = json.dumps(
            {"title": self._title, "blocks": self.counts} | index, separators=(",", ":")
        )
        self._block("index", text)
        self._stream.write(self._tail.replace("{{script}}", self._script))

    def _flush(self) -> None:
        if self._items:
            self._block(f"b{len(self.counts)}", f"[{','.join(self._items)}]")
            self.counts.append(len(self._items))
            self._items, self._size = [], 0

    def _block(self, name: str, text: str) -> None:
        """Compressed and in base64: of what a model wrote no character stands in the page."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(text.encode("ascii")) + packer.flush()
        data = base64.b64encode(packed).decode("ascii")
        self._stream.write(f'<script type="application/octet-stream" id="{name}">{data}</script>\n')


_Make = Callable[[_Page], dict[str, Any]]


def _of_episodes(
    source: Recording,
    against: Recording | None,
    where: Where,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None,
) -> _Make:
    episodes = some_episodes(source)
    holds = condition(where, episodes) if isinstance(where, str) else where
    kept = episodes if holds is None else _Kept(episodes, holds, where)
    # Read before the page is begun: it says what is wrong with the two runs.
    change = compare(against, source) if against is not None else None
    pieces = (lambda ids: token_texts(tokenizer, ids)) if tokenizer is not None else None

    def make(page: _Page) -> dict[str, Any]:
        index = _Index(Reader(pieces))
        index.add(page, kept, progress, len(source) if isinstance(source, Run) else 0)
        about = [_facts(episodes.origin)]
        found: dict[str, Any] = {}
        if change is not None and against is not None:
            other, begin = some_episodes(against), len(index.ids)
            same = other if holds is None else (t for t in other if index.knows(t))
            index.add(page, same, progress, 0)
            about.append(_facts(other.origin))
            head, cells = change.table()
            lines = change.lines()
            if holds is not None:
                lines.append(
                    "The test is over all tasks, the list holds those that were asked for."
                )
            found["against"] = {"begin": begin, "lines": lines, "head": head}
            found["against"] |= {"rows": cells, "names": _two_names(source, against)}
        return found | index.plain() | {"kind": "episodes", "about": about}

    return make


class _Kept:
    """The episodes for which a condition holds."""

    def __init__(
        self, episodes: Episodes, holds: Callable[[Trajectory], bool], where: Where
    ) -> None:
        self._episodes, self._holds, self._where = episodes, holds, where

    def __iter__(self) -> Iterator[Trajectory]:
        none = True
        for trajectory in self._episodes:
            if self._holds(trajectory):
                none = False
                yield trajectory
        if none:
            named = (
                f" with {self._where!r}" if isinstance(self._where, str) else " that is asked for"
            )
            raise BadInputError(f"there is no episode{named}: loosen the condition")


class _Index:
    """What the page knows of all episodes without unpacking any.

    Args:
        reader: makes the records.
    """

    def __init__(self, reader: Reader) -> None:
        self.ids: list[str] = []
        self._reader, self._columns = reader, Columns()
        self._tasks = array("q")
        self._keys: dict[tuple[str, str], int] = {}
        self._titles: list[str] = []
        self._answers: list[str | None] = []
        self._rewards: set[str] = set()

    def knows(self, trajectory: Trajectory) -> bool:
        """Whether there is an episode of the same task."""
        return task_key(trajectory) in self._keys

    def add(
        self, page: _Page, episodes: Iterable[Trajectory], progress: Progress | None, planned: int
    ) -> None:
        """Write episodes, one at a time."""
        for trajectory in episodes:
            key = task_key(trajectory)
            if key not in self._keys:
                self._keys[key] = len(self._keys)
                self._titles.append(shortened(trajectory.task.question, _TITLE))
            self._tasks.append(self._keys[key])
            self.ids.append(trajectory.id)
            answer = trajectory.answer
            self._answers.append(None if answer is None else answer[:_TITLE])
            self._rewards.update(name for step in trajectory.steps for name in step.reward_parts)
            self._columns.add(trajectory)
            page.add(self._reader.record(trajectory))
            if progress is not None:
                progress(len(self.ids), planned)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        about = {name: REWARDS.about(name) for name in REWARDS if REWARDS.about(name)}
        columns = self._columns.plain()
        judges = [name for name in self._rewards if name in columns]
        return {
            "judge": judges[0] if len(judges) == len(self._rewards) == 1 else "accuracy",
            "ids": self.ids,
            "tasks": list(self._tasks),
            "titles": self._titles,
            "answers": self._answers,
            "columns": columns,
            "missing": self._columns.missing,
            "rewards": about,
            "shared": self._reader.shared.values,
        }


def _of_rows(
    file: Path,
    show: Viewer,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None,
) -> _Make:
    def make(page: _Page) -> dict[str, Any]:
        ids, titles, found = [], [], []
        for number, row in read_rows(file, torn=True):
            record = record_of(row, number, show, tokenizer)
            ids.append(record["id"])
            titles.append(shortened(record["question"], _TITLE))
            found.append(measured(row))
            page.add(record)
            if progress is not None:
                progress(len(ids), 0)
        index: dict[str, Any] = {
            "ids": ids,
            "tasks": list(range(len(ids))),
            "titles": titles,
            "answers": [],
        }
        index |= {
            "columns": numbers(found),
            "missing": {},
            "rewards": {},
            "kind": "rows",
            "shared": [],
        }
        return index | {"about": [[["File", str(file)], ["Rows", str(len(ids))]]]}

    return make


def _facts(origin: dict[str, Any]) -> list[list[str]]:
    """Where episodes come from, for the head of the page."""
    source, family = origin.get("task_source"), str(origin.get("task_family") or "")
    env, selection = origin.get("env"), origin.get("selection")
    if isinstance(selection, list):  # of several runs
        selection = [each.get("settings") for each in selection if each]
    facts: list[tuple[str, Any]] = [
        ("Environment", env.get("id") if isinstance(env, dict) else env),
        ("Tasks", source_sentence(str(source), family) if source else None),
        ("Policy", origin.get("policy")),
        ("Arguments", env.get("args") if isinstance(env, dict) else None),
        ("Samples of a task", origin.get("samples_per_task")),
        ("Filter", selection.get("settings") if isinstance(selection, dict) else selection),
        ("Kept", selection.get("kept") if isinstance(selection, dict) else None),
        ("From", origin.get("path")),
    ]
    return [
        [name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
        for name, value in facts
        if value not in (None, "", {}, [])
    ]


def _name(source: Recording) -> str:
    path = _path(source)
    return "episodes" if path is None else path.name


def _two_names(source: Recording, against: Recording) -> list[str]:
    """As short as they can be told apart."""
    one, other = (_path(each) for each in (source, against))
    if one is None or other is None or one == other:
        return [_name(source), _name(against)]
    parts = max(len(one.parts), len(other.parts))
    ends = ([str(Path(*p.parts[-n:])) for p in (one, other)] for n in range(1, parts + 1))
    return next(names for names in ends if names[0] != names[1])


def _path(source: Recording) -> Path | None:
    path = source.path if isinstance(source, Run) else source
    return Path(path).resolve() if isinstance(path, str | Path) else None


def _tokenizer(name: str | Path | None) -> PreTrainedTokenizerBase | None:
    if name is None:
        return None
    transformers = require_extra("transformers", "train")
    try:
        loaded: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(f"tokenizer {str(name)!r} cannot be loaded: {reason}") from error
    return loaded


def _text(file: Any) -> str:
    return str(file.read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
