"""``ToolScenario-v0``: each task brings its own tools, which run in the sandbox."""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym.env import ToolEnv, offers_own_tools, refuse_unknown
from toolgym.envs.toolscenario.files import GivenScenarios, Playable, open_scenarios
from toolgym.envs.toolscenario.tool import WorldToolset, check_sandbox, make_tools
from toolgym.envs.toolscenario.user import CompiledUser
from toolgym.episodes.users import User
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.formats import Format, get_format
from toolgym.grading.rubric import Rubric, make_rubric
from toolgym.registry import TASKS, Resource
from toolgym.spaces import ActionSampler, UnicodeText
from toolgym.task import Task, TaskSet
from toolgym.tools.cassette import Recorder, Replayer
from toolgym.tools.service import Faults, ServedToolset, check_service
from toolgym.tools.toolset import Toolset, refuse_descriptions
from toolgym.vector import ToolVectorEnv

__all__ = ["ID", "ScenarioEnv", "make", "make_vector", "scenario_file"]

ID = "ToolScenario-v0"
SAMPLE = "samples/scenario_sample.jsonl"
_PRESETS = ("ours", "paper")
_KEPT = 512  # toolsets of recent scenarios that a process holds


class ScenarioEnv(ToolEnv):
    """A `ToolEnv` whose tools differ by task.

    Args:
        tasks: of `scenarios`.
        scenarios: by id.
        format: reads and writes the policy's text.
        rubric: scores each step.
        service: gives a task's tools; None: no task has any.
        bounds: see `ToolEnv`.
    """

    def __init__(
        self,
        tasks: TaskSet,
        scenarios: Mapping[str, Playable],
        format: Format,
        rubric: Rubric,
        service: _Service | None,
        **bounds: Any,
    ) -> None:
        super().__init__(tasks, Toolset(), format, rubric, **bounds)
        self._scenarios, self._service = scenarios, service
        if self.descriptions and service is not None:  # else no file is read to its end here
            found = scenarios.values()
            known = {str(d["name"]): "" for each in found for d in each.documents}
            refuse_descriptions(self.descriptions, known)
        example = self.tools_for(tasks[0]) if format.strategy.tools else Toolset()
        self.action_space = UnicodeText(sampler=ActionSampler(format, example))

    def tools_for(self, task: Task) -> Toolset:
        """The tools of one scenario."""
        if self._service is None:
            return Toolset()
        return self._service.toolset(self._scenarios, task.id, task.metadata["tools_hash"])

    def hidden_for(self, task: Task) -> Collection[str]:
        """The tools that a world's user alone has in his hands."""
        world = self._scenarios[task.id].world if "dialogue" in task.metadata else None
        return world.hidden() if world is not None and self._service is not None else ()

    def user_for(self, task: Task) -> User | None:
        """Who speaks in a world with a user; else nobody."""
        world = self._scenarios[task.id].world if "dialogue" in task.metadata else None
        return CompiledUser(world) if world is not None else super().user_for(task)


class _Service:
    """Toolsets of scenarios: recent ones are kept; cassette and faults are shared by all.

    Args:
        sandbox: its settings, checked.
        service: its settings, checked, or None.
        tasks: hash of all tasks, which stands in a cassette's first line.
        preset: see `make`.
    """

    def __init__(
        self,
        sandbox: Mapping[str, Any],
        service: Mapping[str, Any] | None = None,
        tasks: str = "",
        preset: str | None = None,
    ) -> None:
        self._sandbox, self._served, self._preset = dict(sandbox), service is not None, preset
        settings = dict(service or {})
        self._faults = Faults(settings["faults"]) if settings.get("faults") else None
        self._cache = bool(settings.get("cache", True))
        self._recorder: Recorder | None = None
        self._replayer: Replayer | None = None
        options = ID if preset is None else f"{ID}, {preset}"
        identity = {"options": options, "schemas": {}, "data": {"tasks": tasks}}
        if settings.get("mode") == "record":
            self._recorder = Recorder.open(settings["cassette"], identity)
        elif settings.get("mode") == "replay":
            self._replayer = Replayer(settings["cassette"], identity)
        self._toolsets: OrderedDict[str, Toolset] = OrderedDict()
        self._lock = threading.Lock()

    def toolset(self, scenarios: Mapping[str, Playable], name: str, key: str) -> Toolset:
        """The tools of a scenario.

        Args:
            scenarios: by id.
            name: the scenario's id.
            key: hash of its documents and functions.
        """
        with self._lock:
            found = self._toolsets.get(key)
            if found is not None:
                self._toolsets.move_to_end(key)
                return found
        scenario = scenarios[name]
        published = scenario.published if self._preset is None else self._preset == "paper"
        parts = (scenario.documents, scenario.functions)
        if scenario.world is not None:
            plain: Toolset = WorldToolset(*parts, scenario.world.state, self._sandbox)
        else:
            plain = make_tools(*parts, self._sandbox, published)
        made = plain if not self._served else self._behind(plain)
        made.shared = True
        with self._lock:
            kept = self._toolsets.setdefault(key, made)
            while len(self._toolsets) > _KEPT:
                self._toolsets.popitem(last=False)
        return kept

    def _behind(self, plain: Toolset) -> Toolset:
        return ServedToolset(
            plain,
            faults=self._faults,
            recorder=self._recorder,
            replayer=self._replayer,
            cache=self._cache,
        )


# Environments of equal settings share their toolsets, so that the calls of a vector's episodes are
# answered together where they play the same scenario.
@functools.lru_cache(maxsize=8)
def _shared_service(sandbox: str, preset: str | None) -> _Service:
    return _Service(json.loads(sandbox), preset=preset)


def scenario_file(tasks: str | Path) -> Path:
    """The file behind a task source.

    Args:
        tasks: ``sample``, a registered name, or the path of a ``.jsonl`` file.

    Raises:
        MissingFileError: it names no file.
    """
    if tasks == "sample":
        return Resource("toolgym.envs.toolscenario", SAMPLE).path()
    if tasks in TASKS:
        return Path(TASKS.get(str(tasks)).path())
    if tasks == "hub":
        raise MissingFileError(
            f"{ID} reads files: download the published set, and name its .jsonl file as tasks"
        )
    if not str(tasks).endswith(".jsonl") and not Path(tasks).is_file():
        raise MissingFileError(
            f"task source {str(tasks)!r} is neither {', '.join(map(repr, ['sample', *TASKS]))} nor "
            "the path of a .jsonl file"
        )
    return Path(tasks)


def make(
    tasks: Any = "sample",
    split: str | None = None,
    tools: Sequence[str] | None = None,
    prompt: str = "tools_multi_step",
    format: str = "hermes",
    reward: Any = None,
    max_steps: int = 20,
    max_reply_chars: int = 100_000,
    max_result_chars: int = 20_000,
    render_mode: str | None = None,
    service: Mapping[str, Any] | None = None,
    sandbox: Mapping[str, Any] | None = None,
    preset: str | None = None,
    examples: Any = 0,
    system: str | None = None,
    descriptions: Mapping[str, str] | None = None,
    max_calls: int | None = None,
    max_tokens: int | None = None,
    **unknown: Any,
) -> ScenarioEnv:
    """Make an environment; all arguments are plain data.

    Args:
        tasks: ``sample``, a ``.jsonl`` file of scenarios, ours or of the published format, or
            scenarios that stand in memory, see `toolgym.envs.toolscenario.files.given_scenarios`.
        split: one split of it; default: all.
        tools: None for each task's own; an empty list for none, to see what a policy does alone.
        prompt: the prompting strategy.
        format: the codec of the policy's text.
        reward: ``{name: weight}``; default ``{"solve_f1": 1.0}``, of worlds ``{"goal_reached":
            1.0}``.
        max_steps: turns until truncation.
        max_reply_chars: characters of a reply that are read.
        max_result_chars: characters of a tool result that the policy sees.
        render_mode: ``ansi`` or None.
        service: cassette, faults and cache of the tools; see `toolgym.tools.service.check_service`.
        sandbox: where functions run; see `toolgym.envs.toolscenario.tool.check_sandbox`.
        preset: who runs the calls. ``ours``: a call that does not fit the JSON Schema of its tool
            is refused, and a failure is told in our words. ``paper``: the published executor of
            arXiv 2508.08791, see docs/scenarios.md. None: ``paper`` for rows of others in the
            published format, else ``ours``.
        examples: worked examples before the question, each with tools of its own: how many of the
            bundled ones, the path of a file, or a list; see
            `toolgym.formats.example_files.read_examples`.
        system: text of the system message, before the format's instructions, or around them
            where it says ``{instructions}``.
        descriptions: what the policy is told of a tool, by its name.
        max_calls: tool calls of an episode.
        max_tokens: tokens that the policy writes in an episode.
        unknown: refused with near names.

    Raises:
        UnknownNameError: an unknown format, prompt, reward, preset or sandbox layer.
        MissingFileError: a file that does not exist.
        RunMismatchError: a cassette of other scenarios, or one that another process is writing.
        BadInputError: anything else that is wrong with an argument, or a file that holds no
            scenarios.
    """
    refuse_unknown(ID, make, unknown)
    offered = offers_own_tools(ID, tools)
    if preset is not None and preset not in _PRESETS:
        raise UnknownNameError("preset", str(preset), _PRESETS)
    codec = get_format(format, prompt)
    settings = check_sandbox({} if sandbox is None else sandbox)
    served = None if service is None else check_service(service)
    named = isinstance(tasks, str | Path)
    scenarios = open_scenarios(scenario_file(tasks)) if named else GivenScenarios(tasks)
    source = str(tasks) if named else str(scenarios.path)
    every = TaskSet(scenarios.tasks, source=source, name="Scenario")
    provider: _Service | None = None
    if offered and served:
        provider = _Service(settings, served, every.fingerprint(), preset)
    elif offered:
        provider = _shared_service(json.dumps(settings, sort_keys=True), preset)
    return ScenarioEnv(
        every.split(split) if split else every,
        scenarios,
        codec,
        make_rubric(_reward(every, str(scenarios.path)) if reward is None else reward),
        provider,
        max_steps=max_steps,
        max_reply_chars=max_reply_chars,
        max_result_chars=max_result_chars,
        render_mode=render_mode,
        examples=examples,
        bundled=Resource("toolgym.envs.toolscenario", "samples/examples.jsonl"),
        system=system,
        descriptions=descriptions,
        max_calls=max_calls,
        max_tokens=max_tokens,
    )


def _reward(tasks: TaskSet, file: str) -> dict[str, float]:
    """What is scored where nobody says it.

    Raises:
        BadInputError: the file holds both kinds, which no one reward is for.
    """
    worlds = sum(task.goal is not None for task in tasks)
    if 0 < worlds < len(tasks):
        raise BadInputError(
            f"{file!r} holds {worlds} worlds and {len(tasks) - worlds} questions, which are scored "
            "by different rewards: give them in files of their own, or name a reward for both"
        )
    return {"goal_reached": 1.0} if worlds else {"solve_f1": 1.0}


def make_vector(num_envs: int, **kwargs: Any) -> ToolVectorEnv:
    """Make environments whose tool calls are answered together.

    Args:
        num_envs: how many.
        kwargs: see `make`; what it raises comes here, too.
    """
    return ToolVectorEnv.of(make, num_envs, **kwargs)
