"""Episodes of native tool calls that somebody else plays: tools to call, then a record to score."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from toolgym._util.jsonl import fresh
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.messages import Message, ToolCall
from toolgym.task import Task
from toolgym.tools.toolset import Schema, Toolset
from toolgym.training.config import processes, rank
from toolgym.training.trl_reader import Chats, Made, Reader
from toolgym.trajectory import Trajectory

__all__ = ["NativeEpisode", "native_class"]


class _Document(dict[str, Any]):
    """A tool's function-calling document, which can be called.

    Chat templates take functions with type hints, or documents. Hints can say neither nested
    objects, nor defaults, nor bounds; so what is shown is the document itself, word by word as in
    exported rows.
    """

    def __init__(self, schema: Schema, call: Callable[[str, Mapping[str, Any]], str]) -> None:
        super().__init__(fresh(schema))
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
        self._tools = (
            self._env.tools_for(self._task) if self._env.format.strategy.tools else Toolset()
        )
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
        call = ToolCall(f"call_{len(self._made)}", name, dict(arguments))
        began = time.perf_counter()
        try:
            result = self._tools.execute([call], [self._episode])[0]
        except Exception as error:  # no tool's failure, which is a result: kept for `_read`
            self._failure = error
            return "Error: the tool could not be run."
        seconds = time.perf_counter() - began + self._tools.added_seconds([result])
        self._made.append(Made(name, call.arguments, result, seconds))
        return self._env.shown(result).content

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
        reader = Reader(self._env, self._schemas, self._made)
        steps = list(reader.steps(completion))
        record = Trajectory(
            task=self._task,
            messages=[*map(Message.from_chat, prompt), *reader.messages],
            steps=steps,
            tools=fresh(self._schemas),
            env_id=self._env.spec.id if self._env.spec is not None else "",
            format=self._env.format.name,
            terminated=bool(steps) and steps[-1].answer is not None,
            sample=self._sample,
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
