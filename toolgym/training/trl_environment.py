"""Our environments as TRL's own ``environment_factory`` takes them, for a script of your own.

No TRL is imported here: what it asks for is a class with ``reset`` and a function for each tool.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import copy_json, not_json
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.formats.native import told_of_tools
from toolgym.messages import Chat, Message, ToolCall
from toolgym.rollouts.playing import open_env
from toolgym.task import Task
from toolgym.tools.base import Schema
from toolgym.tools.toolset import Toolset
from toolgym.training.config import processes, rank
from toolgym.training.grpo import worlds_of
from toolgym.training.trl_reader import NATIVE, Chats, Made, Reader, tool_turns
from toolgym.trajectory import Trajectory

__all__ = ["NativeEpisode", "TrlEnvironment", "native_class", "trl_environment"]


class _Document(dict[str, Any]):
    """A tool's function-calling document, which can be called.

    Chat templates take functions with type hints, or documents. Hints can say neither nested
    objects, nor defaults, nor bounds; so what is shown is the document itself, word by word as in
    exported rows.
    """

    def __init__(self, schema: Schema, call: Callable[[str, Mapping[str, Any]], str]) -> None:
        super().__init__(copy_json(schema))
        self.__name__: str = schema["function"]["name"]
        self._call = call

    def __call__(self, /, **arguments: Any) -> str:
        return self._call(self.__name__, arguments)


class NativeEpisode:
    """One place in a batch: begun by `reset`, its tools called, its conversation read at the end.

    `native_class` makes a class of it for an environment. Instances have a callable attribute for
    each tool, of the tool's name. Everything else but `reset` is private, or no function: TRL makes
    each public function of the class a tool.
    """

    _env: ClassVar[ToolEnv]
    _schemas: ClassVar[list[Schema]]
    _begun: ClassVar[Counter[str]]

    def __init__(self) -> None:
        self._task: Task | None = None
        self._tools = Toolset()
        self._episode, self._sample = "", 0
        self._state: Any = None
        self._made: list[Made] = []
        self._failure: Exception | None = None
        self._seen: tuple[Any, Trajectory] | None = None
        for attribute, schema in zip(_attributes(self._schemas), self._schemas, strict=True):
            document = _Document(schema, self._call)
            # TRL looks functions up on the class, and then takes what the instance has instead.
            setattr(self, attribute, document)
            name = document.__name__
            if not name.startswith("_") and name not in dir(NativeEpisode):
                setattr(self, name, document)

    def reset(self, *, task: str | None = None, **_row: Any) -> None:
        """Begin a task.

        Args:
            task: its id, from the row's column of that name.

        Raises:
            BadInputError: the row names no task, or one that does not exist.
        """
        if task is None:
            raise BadInputError(
                "the row has no column 'task': train on the rows of trl_environment()"
            )
        tasks = self._env.tasks
        self._task = tasks[tasks.index_of(str(task))]
        self._tools.end()
        self._tools = self._env.open_tools(self._task)
        self._state = self._tools.state()
        # Counted in each process, and no number twice: faults and cassettes go by it.
        self._sample = rank() + processes() * self._begun[self._task.id]
        self._begun[self._task.id] += 1
        self._episode = f"{self._task.id}#{self._sample}"
        self._made, self._failure, self._seen = [], None, None

    @property
    def trajectory(self) -> Trajectory:
        """The record of the episode, with its rewards.

        Raises:
            EpisodeEndedError: the conversation has not been read; reward functions of
                `trl_environment` do it.
        """
        if self._seen is None:
            raise EpisodeEndedError(
                "there is no record yet: it is made by the first reward function of "
                "trl_environment(), so put yours behind it"
            )
        return self._seen[1]

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a tool. Nothing is raised: TRL would tell the policy, whatever it was."""
        why = not_json(dict(arguments))
        if why:  # the record could not hold the call
            return f"Error: the call is not valid JSON (its argument {why})."
        call = ToolCall(f"call_{len(self._made)}", name, dict(arguments))
        began = time.perf_counter()
        try:
            result = self._tools.execute([call], [self._episode])[0]
        except Exception as error:  # no tool's failure, which is a result: kept for `_read`
            self._failure = error
            return "Error: the tool could not be run."
        seconds = time.perf_counter() - began + result.added_seconds
        result = self._env.shown(result)
        self._made.append(Made(name, call.arguments, result, seconds, self._tools.state()))
        return result.seen

    def _read(self, prompt: Chats, completion: Any) -> Trajectory:
        """The record of the episode, made once and scored.

        Args:
            prompt: the messages before the first reply.
            completion: replies and tool results as chat messages.

        Raises:
            BadInputError: the conversation is text, or there was no reset.
            Exception: what kept a tool from being run, such as a cassette without the call.
        """
        if self._seen is not None and self._seen[0] is completion:
            return self._seen[1]
        if self._failure is not None:
            raise self._failure
        if self._task is None or isinstance(completion, str):
            raise BadInputError(
                "an episode is read from chat messages: train on the rows of trl_environment()"
            )
        self._tools.end()
        reader = Reader(self._env, self._schemas, self._made, self._state)
        steps = list(reader.steps(completion))
        record = Trajectory(
            task=self._task,
            messages=[*map(Message.from_chat, prompt), *reader.messages],
            steps=steps,
            tools=copy_json(self._schemas),
            env_id=self._env.spec.id if self._env.spec is not None else "",
            format=self._env.format.name,
            terminated=bool(steps) and steps[-1].answer is not None,
            sample=self._sample,
            state=reader.state,
        )
        record.truncated = not record.terminated
        self._env.rubric.apply(record)
        self._seen = completion, record
        return record


def native_class(env: ToolEnv, schemas: list[Schema]) -> type[NativeEpisode]:
    """A class of episodes in an environment, whose tools are alike.

    Args:
        env: whose tasks, tools, format and rubric are used.
        schemas: of the tools.
    """
    functions = {
        attribute: _function(schema["function"]["name"])
        for attribute, schema in zip(_attributes(schemas), schemas, strict=True)
    }
    own = {"_env": env, "_schemas": schemas, "_begun": Counter(), "__module__": __name__}
    return type("NativeEpisode", (NativeEpisode,), functions | own)


def _attributes(schemas: Sequence[Schema]) -> list[str]:
    """Names under which TRL finds the tools in our order: it sorts, and passes over ``reset``."""
    return [f"tool_{n:04}_{schema['function']['name']}" for n, schema in enumerate(schemas)]


def _function(name: str) -> Callable[..., str]:
    def call(self: NativeEpisode, /, **arguments: Any) -> str:
        return self._call(name, arguments)

    call.__name__ = name
    return call


RewardPart = Callable[..., list[float | None]]
"""Called by TRL with lists over the completions of a step; None leaves one out of the loss."""

Factory = type[NativeEpisode]


@dataclass(frozen=True)
class TrlEnvironment:
    """What a ``GRPOTrainer`` is given; each field has TRL's own name for its argument.

    Args:
        rows: for ``datasets.Dataset.from_list``, as they are or some of them. ``prompt``: chat
            messages; ``task``: the id of the task that ``reset`` begins, so that a group plays one
            task; ``split``: its split; ``environment``, where tools differ by task: whose tools
            TRL offers.
        environment_factory: a class to be called without arguments, or one for each
            ``environment``.
        reward_funcs: one for each part of the rubric, named as it is. For rows of other
            environments they give None.
        reward_weights: of these, for ``GRPOConfig``. A weight of 0 is a metric: logged only.
        max_tool_calling_iterations: for ``GRPOConfig``: turns with calls until the environment
            would end the episode. What a policy says after them is not read.
    """

    rows: list[dict[str, Any]]
    environment_factory: Factory | dict[str, Factory]
    reward_funcs: list[RewardPart]
    reward_weights: list[float]
    max_tool_calling_iterations: int


def trl_environment(
    env: str | gym.Env[str, str] | Sequence[str | gym.Env[str, str]],
    env_args: Mapping[str, Any] | None = None,
    *,
    system: str | None = None,
) -> TrlEnvironment:
    """Environments for TRL's ``GRPOTrainer(environment_factory=...)``.

    TRL samples, parses calls with the model's chat template and calls the tools; arguments are
    validated, calls ended at their deadline and long results cut as everywhere in toolgym, and a
    failure is a text for the policy. Each episode is rebuilt as a `Trajectory`, which the
    environment's own rewards score; a reward function of the user finds it as
    ``environment.trajectory`` of the ``environments`` that TRL gives it, behind ours.

    Args:
        env: an environment id, an environment, or several whose rewards are the same.
        env_args: keyword arguments, for ids. ``format`` says how a call looks in the model's
            chat template, so that a broken one is not taken for an answer: ``hermes`` (default:
            ``<tool_call>`` tags, as Qwen's) or ``llama3`` (bare JSON). The answer is what follows
            ``Answer:`` in the last reply, else all of it.
        system: the system message; default: instructions by the strategy ``prompt``, without
            the tools, which the chat template shows; empty: none, as in exported native rows.

    Raises:
        UnknownNameError: no such environment, tool, format, prompt or reward.
        MissingFileError: a file that does not exist.
        BadInputError: no environment, one that calls in another format, arguments for one that is
            made already, no reward with a weight, or rewards that differ.
    """
    many = [env] if isinstance(env, str | gym.Env) else list(env)
    worlds = worlds_of([_opened(item, env_args) for item in many])
    rows: list[dict[str, Any]] = []
    factories: dict[str, Factory] = {}
    for world in worlds:
        factories |= _add_rows(rows, world, system, len(factories))
    if len(factories) == 1:
        for row in rows:
            del row["environment"]  # TRL reads it only where it has several to choose from
    owned = frozenset(factories.values())
    weights = worlds[0].rubric.weights
    return TrlEnvironment(
        rows=rows,
        environment_factory=factories if len(factories) > 1 else next(iter(factories.values())),
        reward_funcs=[_part(name, owned, n == 0) for n, name in enumerate(weights)],
        reward_weights=list(weights.values()),
        max_tool_calling_iterations=max(map(tool_turns, worlds)),
    )


def _opened(env: str | gym.Env[str, str], env_args: Mapping[str, Any] | None) -> ToolEnv:
    args = {"format": NATIVE[0], **(env_args or {})} if isinstance(env, str) else env_args
    made = open_env(env, args).bare("TRL's own loop")
    if made.examples:
        raise BadInputError(
            "TRL writes these conversations itself, without worked examples: leave examples out, "
            "or train with toolgym.training.grpo.train_grpo, which plays them"
        )
    if made.system is not None or made.limits.describe():
        raise BadInputError(
            "TRL writes these conversations itself: give system to trl_environment(), leave "
            "max_calls and max_tokens out (max_completion_length of GRPOConfig bounds a reply), or "
            "train with toolgym.training.grpo.train_grpo, which keeps to them"
        )
    if any(made.user_for(task) is not None for task in made.tasks):
        raise BadInputError(
            "TRL's own loop ends with the first reply without a call, and here a user speaks "
            "again: train with toolgym.training.grpo.train_grpo, which plays such episodes"
        )
    if made.format.name not in NATIVE and not made.format.native:
        raise BadInputError(
            f"format {made.format.name!r} writes calls as text of its own, and TRL reads them with "
            f"the model's chat template: use format {', '.join(map(repr, NATIVE))} or 'native', or "
            "train with toolgym.training.grpo.train_grpo, which plays every format"
        )
    return made


def _add_rows(
    rows: list[dict[str, Any]], world: ToolEnv, system: str | None, before: int
) -> dict[str, Factory]:
    """Rows of all tasks, and a class for each set of tools among them."""
    text = told_of_tools(world.format.strategy) if system is None else system
    opening: list[Chat] = [{"role": "system", "content": text}] if text else []
    label = world.spec.id if world.spec is not None else world.tasks.name
    names: dict[str, str] = {}
    found: dict[str, Factory] = {}
    last: tuple[Toolset, str] | None = None
    for task in world.tasks:
        tools = world.tools_for(task) if world.format.strategy.tools else Toolset()
        tools = tools.without(world.hidden_for(task))
        if last is None or tools is not last[0]:
            schemas: list[Schema] = tools.schemas()
            key = value_hash(schemas)
            if key not in names:
                names[key] = f"{label}:{before + len(names)}"
                found[names[key]] = native_class(world, schemas)
            last = tools, names[key]
        prompt = [*opening, {"role": "user", "content": task.question}]
        row = {"prompt": prompt, "task": task.id, "split": task.split, "environment": last[1]}
        rows.append(row)
    return found


def _part(name: str, owned: frozenset[Factory], first: bool) -> RewardPart:
    def read(
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        environments: Sequence[Any] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        if environments is None:
            raise BadInputError(
                f"the reward {name!r} reads TRL's environments: give the trainer the "
                "environment_factory of the same trl_environment()"
            )
        # The class decides, as TRL's own column of `get_reward` does.
        episodes = [item if type(item) in owned else None for item in environments]
        values: list[float | None] = []
        for episode, prompt, completion in zip(episodes, prompts, completions, strict=True):
            if episode is None:
                values.append(None)
            else:
                steps = episode._read(prompt, completion).steps
                values.append(sum(step.reward_parts[name] for step in steps))
        if first:
            _log([item for item in episodes if item is not None], log_metric)
            if log_extra is not None:
                answers = [None if e is None else e.trajectory.answer for e in episodes]
                log_extra("answer", answers)
        return values

    read.__name__ = name
    return read


def _log(episodes: Sequence[NativeEpisode], log: Callable[[str, float], None] | None) -> None:
    """TRL counts a call as failed when it raised, which ours never do."""
    if log is None or not episodes:
        return
    played = [episode.trajectory for episode in episodes]
    errors = [result.error is not None for t in played for _, result in t.calls]
    log("episodes/answered", sum(t.terminated for t in played) / len(played))
    if errors:
        log("tools/error_frequency", sum(errors) / len(errors))
