"""What the ToolQA families share: plain-data arguments to an environment, and published sets."""

from __future__ import annotations

import functools
import inspect
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgym._util.optional import quiet, require_extra
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.formats import get_format
from toolgym.grading.rubric import Rubric
from toolgym.registry import Resource
from toolgym.task import RowReader, Task, TaskSet, read_tasks, task_from_row
from toolgym.tools.service import check_service, serve
from toolgym.tools.toolset import Toolset, make_toolset
from toolgym.vector import ToolVectorEnv

__all__ = ["PAPER_SEED", "TOOLS", "Family", "HubSet", "load_hub", "paper_splits", "text_answers"]

PAPER_SEED = 19  # arXiv 2502.05867 shuffles each set with this seed before it cuts


@dataclass(frozen=True)
class HubSet:
    """Where a set lies on the hub, and the paper's cuts.

    Args:
        path: the hub id.
        config: its configuration, or None.
        cuts: our split to ``(hub split, number of rows)``; cuts of one hub split follow one another
            after the shuffle. None as number: all that is left.
    """

    path: str
    config: str | None
    cuts: Mapping[str, tuple[str, int | None]]


def load_hub(hub: HubSet, split: str, reader: RowReader, name: str) -> TaskSet:
    """Load one split through ``datasets`` (its cache serves offline).

    Args:
        hub: what to load.
        split: ``train``, ``validation`` or ``test``.
        reader: turns a row into a task.
        name: the family.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        MissingFileError: neither network nor cache has the set.
        BadInputError: the paper has no such split, or a row cannot be read.
    """
    if split not in hub.cuts:
        raise BadInputError(f"{hub.path} has no split {split!r}; splits: {', '.join(hub.cuts)}")
    datasets = require_extra("datasets", "train")
    hub_split = hub.cuts[split][0]
    try:
        with quiet():
            rows = datasets.load_dataset(hub.path, hub.config, split=hub_split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        # ConnectionError, DatasetNotFoundError, OfflineModeIsEnabled and ValueError are among them
        raise MissingFileError(
            f"{hub.path} ({hub_split}) is neither in the local cache nor can it be fetched "
            f"({type(error).__name__}: {reason}); "
            "use tasks='sample' for the bundled sample, or tasks='path/to/file.jsonl'"
        ) from error
    begin, end = paper_splits(hub, split, len(rows))
    chosen = rows.shuffle(seed=PAPER_SEED).select(range(begin, end))
    # Ids of hub rows may repeat or be numbers: ours are made from the place.
    tasks = [
        reader({**row, "id": f"{name.lower()}-{split}-{number}"}, "")
        for number, row in enumerate(chosen)
    ]
    return TaskSet(tasks, source=f"hub:{hub.path}:{split}", name=name)


def paper_splits(hub: HubSet, split: str, size: int) -> tuple[int, int]:
    """Which shuffled rows of the hub's split make up ours.

    Args:
        hub: the set.
        split: ours.
        size: rows in the hub's split.

    Returns:
        First row and the row after the last.
    """
    hub_split, begin = hub.cuts[split][0], 0
    for name, (source, count) in hub.cuts.items():
        if source != hub_split:
            continue
        end = size if count is None else min(size, begin + count)
        if name == split:
            return begin, end
        begin = end
    raise BadInputError(f"{hub.path} has no split {split!r}")


TOOLS = ("Calculator", "WikipediaSearch", "MachineTranslator")


@dataclass(frozen=True)
class Family:
    """One question-answering data set as an environment family.

    Args:
        name: such as ``PopQA``.
        sample: the bundled task file.
        hub: where the published set lies and how the paper split it.
        reader: turns a row of any known schema (ours or the hub's columns) into a task.
        tools: default tool names.
    """

    name: str
    sample: str
    hub: HubSet
    reader: RowReader = task_from_row
    tools: tuple[str, ...] = TOOLS

    def tasks(self, source: str = "sample", split: str | None = None) -> TaskSet:
        """Open a task source.

        Args:
            source: ``sample`` (bundled), a ``.jsonl`` path, or ``hub``.
            split: one split of it; default: all tasks, for the hub the ``test`` split.

        Raises:
            MissingFileError: no such file, or the hub cannot be reached.
            BadInputError: a broken line, an empty set, an unknown split.
        """
        if source == "hub":
            return load_hub(self.hub, split or "test", self.reader, self.name)
        if source == "sample":
            path: str | Path = Resource("toolgym.envs.toolqa", f"samples/{self.sample}").path()
        elif str(source).endswith(".jsonl") or Path(source).is_file():
            path = source
        else:
            raise MissingFileError(
                f"task source {source!r} is none of 'sample', 'hub' or the path of a .jsonl file"
            )
        tasks = read_tasks(path, self.reader, source=str(source), name=self.name)
        return tasks.split(split) if split else tasks

    def make(
        self,
        tasks: str = "sample",
        split: str | None = None,
        corpus: str | None = None,
        tools: Sequence[str | Mapping[str, Any]] | None = None,
        prompt: str = "tools_multi_step",
        format: str = "react",
        reward: Mapping[str, Any] | None = None,
        max_steps: int = 8,
        max_reply_chars: int = 100_000,
        max_result_chars: int = 20_000,
        render_mode: str | None = None,
        service: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> ToolEnv:
        """Make an environment; all arguments are plain data.

        Args:
            tasks: ``sample``, a ``.jsonl`` path, or ``hub``.
            split: ``train``, ``validation`` or ``test``; see `tasks`.
            corpus: what WikipediaSearch searches: ``sample``, a ``.jsonl`` of passages, or an index
                folder.
            tools: names, or ``{"name": ..., option: value}``.
            prompt: the prompting strategy.
            format: the codec of the policy's text.
            reward: ``{name: weight}``; default ``{"accuracy": 1.0}``.
            max_steps: turns until truncation.
            max_reply_chars: characters of a reply that are read.
            max_result_chars: characters of a tool result that the policy sees.
            render_mode: ``ansi`` or None.
            service: cassette, faults and cache; see `toolgym.tools.service.check_service`.
            unknown: refused with near names.

        Raises:
            UnknownNameError: an unknown tool, format, prompt or reward.
            MissingFileError: a file that does not exist.
            RunMismatchError: a cassette of other tools, or one that another process is writing.
            BadInputError: anything else that is wrong with an argument.
        """
        if unknown:
            name, known = next(iter(unknown)), list(inspect.signature(self.make).parameters)[:-1]
            raise BadInputError(
                f"ToolQA-{self.name} has no argument {name!r}{did_you_mean(name, known)}; "
                f"arguments: {', '.join(known)}"
            )
        if isinstance(tools, str):
            raise BadInputError(f"tools must be a list of names, not the text {tools!r}")
        codec = get_format(format, prompt)
        names = list(self.tools if tools is None else tools)
        settings = None if service is None else check_service(service)
        return ToolEnv(
            self.tasks(tasks, split),
            _toolset(names, corpus, settings) if codec.strategy.tools else Toolset(),
            codec,
            Rubric({"accuracy": 1.0} if reward is None else reward),
            max_steps=max_steps,
            max_reply_chars=max_reply_chars,
            max_result_chars=max_result_chars,
            render_mode=render_mode,
        )

    def make_vector(self, num_envs: int, **kwargs: Any) -> ToolVectorEnv:
        """Make environments whose tool calls are answered together.

        Args:
            num_envs: how many.
            kwargs: see `make`; what it raises comes here, too.
        """
        return ToolVectorEnv([functools.partial(self.make, **kwargs)] * num_envs)


@functools.lru_cache(maxsize=32)
def shared_toolset(names: str, corpus: str | None) -> Toolset:
    """One toolset a process for equal arguments: an index or a model is opened once.

    Args:
        names: JSON list of names and options.
        corpus: see `Family.make`.
    """
    made = make_toolset(json.loads(names), corpus=corpus)
    made.shared = True
    return made


# Environments of equal settings share what is served: a vector's calls are answered together, and
# each cassette is read once. Nothing is kept longer than its environments.
_served: weakref.WeakValueDictionary[str, Toolset] = weakref.WeakValueDictionary()


def _toolset(
    names: Sequence[str | Mapping[str, Any]], corpus: str | None, service: dict[str, Any] | None
) -> Toolset:
    plain = shared_toolset(json.dumps(names), corpus)
    if not service:
        return plain
    found = _served.get(_served_key(names, corpus, service))
    if found is None:
        found = serve(plain, service, names)
        found.shared = True
        # Only now, since it names the state of a cassette that may just have been begun.
        _served[_served_key(names, corpus, service)] = found
    return found


def _served_key(names: Any, corpus: str | None, service: Mapping[str, Any]) -> str:
    return json.dumps([names, corpus, service, _stamp(service)], sort_keys=True)


def _stamp(service: Mapping[str, Any]) -> list[int]:
    """The state of the file that is replayed or recorded: another file is another service."""
    path = Path(service.get("cassette") or "")
    if not path.is_file():
        return []
    status = path.stat()
    replay = service["mode"] == "replay"
    return [status.st_ino, *([status.st_mtime_ns, status.st_size] if replay else [])]


def text_answers(answers: Callable[[Mapping[str, Any]], Any]) -> RowReader:
    """A reader for rows whose gold answers stand in a column of the hub's making.

    Args:
        answers: takes a row, gives a list of answers, or None when the row is in our own schema.
    """

    def read(row: Mapping[str, Any], fallback_id: str) -> Task:
        found = answers(row)
        return task_from_row(row if found is None else {**row, "answers": found}, fallback_id)

    return read
