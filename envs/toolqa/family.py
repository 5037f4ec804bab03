"""What the ToolQA families share: plain-data arguments to an environment, and published sets."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.optional import quiet, require_extra
from toolgym.env import ToolEnv, refuse_unknown
from toolgym.episodes.users import UserMaker
from toolgym.errors import BadInputError, MissingFileError, did_you_mean
from toolgym.formats import get_format
from toolgym.grading.rubric import make_rubric
from toolgym.registry import TASKS, Resource
from toolgym.task import RowReader, SourceFacts, Task, TaskSet, task_from_row
from toolgym.tasksource import given_tasks, names_file, read_tasks
from toolgym.tools.base import Tool
from toolgym.tools.service import check_service, serve_toolset
from toolgym.tools.session import SessionSpec
from toolgym.tools.toolset import Toolset, is_server, make_toolset
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
        whole: rows of the hub's splits of which all are left.
    """

    path: str
    config: str | None
    cuts: Mapping[str, tuple[str, int | None]]
    whole: Mapping[str, int] = field(default_factory=dict)


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
_EXAMPLES = Resource("toolgym.envs.toolqa", "samples/examples.jsonl")


@dataclass(frozen=True)
class Family:
    """One question-answering data set as an environment family; plug-ins may make theirs with it.

    Args:
        name: such as ``PopQA``.
        sample: the task file that its package carries; one of ours by its name.
        hub: where the published set lies and how the paper split it, or None.
        reader: turns a row of any known schema (ours or the hub's columns) into a task.
        tools: default tool names.
        reward: default rewards and weights.
        examples: rows of `toolgym.formats.examples.Example`, made up, of which an environment
            shows the first ones that fit its tools.
    """

    name: str
    sample: str | Resource
    hub: HubSet | None = None
    reader: RowReader = task_from_row
    tools: tuple[str, ...] = TOOLS
    reward: Mapping[str, Any] = field(default_factory=lambda: {"accuracy": 1.0})
    examples: Resource = _EXAMPLES

    def source_facts(self, source: str, split: str | None) -> SourceFacts | None:
        """What is known of a task source before it is opened; nothing of files.

        Args:
            source: see `tasks`.
            split: see `tasks`.
        """
        if source != "hub" or self.hub is None:
            return None
        split = split or "test"
        of, count = self.hub.cuts.get(split, (split, None))
        count = self.hub.whole.get(of) if count is None else count
        return SourceFacts(f"hub:{self.hub.path}:{split}", count, self.hub.path)

    def tasks(self, source: Any = "sample", split: str | None = None) -> TaskSet:
        """Open a task source.

        Args:
            source: ``sample`` (bundled), a registered name, the path of a ``.jsonl`` or ``.csv``
                file, ``hub``, or tasks that stand in memory, see `toolgym.tasksource.given_tasks`.
            split: one split of it; default: all tasks, for the hub the ``test`` split.

        Raises:
            MissingFileError: no such file, or the hub cannot be reached.
            BadInputError: a broken line, an empty set, an unknown split.
        """
        if not isinstance(source, str | Path):
            tasks = given_tasks(source, self.reader, name=self.name)
            return tasks.split(split) if split else tasks
        if source == "hub" and self.hub is not None:
            return load_hub(self.hub, split or "test", self.reader, self.name)
        sample = self.sample
        if isinstance(sample, str):
            sample = Resource("toolgym.envs.toolqa", f"samples/{sample}")
        if source == "sample":
            path: str | Path = sample.path()
        elif source in TASKS:
            path = TASKS.get(str(source)).path()
        elif names_file(source):
            path = source
        else:
            known = ["sample", *(["hub"] if self.hub is not None else []), *TASKS]
            raise MissingFileError(
                f"task source {str(source)!r} is none of {', '.join(map(repr, known))} or the path "
                f"of a .jsonl or .csv file{did_you_mean(str(source), known)}"
            )
        tasks = read_tasks(path, self.reader, source=str(source), name=self.name)
        return tasks.split(split) if split else tasks

    def make(
        self,
        tasks: Any = "sample",
        split: str | None = None,
        corpus: str = "sample",
        tools: Sequence[str | Tool | type[Any] | SessionSpec | Mapping[str, Any]] | None = None,
        prompt: str = "tools_multi_step",
        format: str = "react",
        reward: Any = None,
        max_steps: int = 8,
        max_reply_chars: int = 100_000,
        max_result_chars: int = 20_000,
        render_mode: str | None = None,
        service: Mapping[str, Any] | None = None,
        examples: Any = 0,
        user: UserMaker | None = None,
        system: str | None = None,
        descriptions: Mapping[str, str] | None = None,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        **unknown: Any,
    ) -> ToolEnv:
        """Make an environment.

        All arguments may be plain data. Tools, rewards and tasks may also be objects, which then
        have to pickle where environments run in processes.

        Args:
            tasks: ``sample``, a registered name, the path of a ``.jsonl`` or ``.csv`` file,
                ``hub``, or a list of dicts or tasks, a data frame, or a data set of the hub.
            split: ``train``, ``validation`` or ``test``; see `tasks`.
            corpus: what WikipediaSearch searches: ``sample``, a ``.jsonl`` of passages, or an index
                folder.
            tools: names, ``{"name": ..., option: value}``, MCP servers (``mcp:COMMAND``,
                ``mcp:https://...``), or `toolgym.Tool` and `toolgym.MCP` objects.
            prompt: the prompting strategy.
            format: the codec of the policy's text.
            reward: ``{name: weight}``, ``{name: function}``, a name or a function; default:
                ``{"accuracy": 1.0}``.
            max_steps: turns until truncation.
            max_reply_chars: characters of a reply that are read.
            max_result_chars: characters of a tool result that the policy sees.
            render_mode: ``ansi`` or None.
            service: cassette, faults and cache; see `toolgym.tools.service.check_service`.
            examples: worked examples before the question: how many of the bundled ones, the path
                of a file, or a list; see `toolgym.formats.example_files.read_examples`.
            user: makes who speaks after the policy's answers, see `toolgym.episodes.users`.
            system: text of the system message, before the format's instructions, or around them
                where it says ``{instructions}``.
            descriptions: what the policy is told of a tool, by its name.
            max_calls: tool calls of an episode.
            max_tokens: tokens that the policy writes in an episode.
            unknown: refused with near names.

        Raises:
            UnknownNameError: an unknown tool, format, prompt or reward.
            MissingFileError: a file that does not exist.
            RunMismatchError: a cassette of other tools, or one that another process is writing.
            BadInputError: anything else that is wrong with an argument.
        """
        refuse_unknown(self.name, self.make, unknown)
        if tools is not None and (
            isinstance(tools, str | Mapping | Tool | type | SessionSpec) or not _listed(tools)
        ):
            raise BadInputError(
                "tools are a list of names, mappings, Tool objects or classes of sessions, such as "
                f"['Calculator'], not {tools!r:.80}"
            )
        if not isinstance(corpus, str | Path | None):
            raise BadInputError(f"corpus is a name, a file or an index folder, not {corpus!r:.80}")
        codec = get_format(format, prompt)
        names = list(self.tools if tools is None else tools)
        settings = None if service is None else check_service(service)
        return ToolEnv(
            self.tasks(tasks, split),
            _toolset(names, corpus, settings) if codec.strategy.tools else Toolset(),
            codec,
            make_rubric(self.reward if reward is None else reward),
            max_steps=max_steps,
            max_reply_chars=max_reply_chars,
            max_result_chars=max_result_chars,
            render_mode=render_mode,
            examples=examples,
            bundled=self.examples,
            user=user,
            system=system,
            descriptions=descriptions,
            max_calls=max_calls,
            max_tokens=max_tokens,
        )

    def make_vector(self, num_envs: int, **kwargs: Any) -> ToolVectorEnv:
        """Make environments whose tool calls are answered together.

        Args:
            num_envs: how many.
            kwargs: see `make`; what it raises comes here, too.
        """
        return ToolVectorEnv.of(self.make, num_envs, **kwargs)


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


def _listed(tools: Any) -> bool:
    return isinstance(tools, Iterable) and all(
        isinstance(t, str | Mapping | Tool | type | SessionSpec) for t in tools
    )


def _toolset(
    names: Sequence[str | Tool | type[Any] | SessionSpec | Mapping[str, Any]],
    corpus: str,
    service: dict[str, Any] | None,
) -> Toolset:
    cassette = service["cassette"] if service and service.get("mode") == "replay" else None
    own = any(isinstance(item, Tool | type | SessionSpec) for item in names)
    if own or (cassette and any(map(is_server, names))):  # nothing says which of them are equal
        made = make_toolset(names, corpus=corpus, cassette=cassette)
        return serve_toolset(made, service, names) if service else made
    shared = shared_toolset(json.dumps(names), corpus)
    if not service:
        return shared
    found = _served.get(_served_key(names, corpus, service))
    if found is None:
        found = serve_toolset(shared, service, names)
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
