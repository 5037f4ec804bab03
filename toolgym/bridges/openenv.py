"""Any of our environments as one of OpenEnv's, on its server, and a client that reads its answers.

``uvicorn --factory toolgym.bridges.openenv:app`` serves the environment that ``TOOLGYM_ENV`` names.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from toolgym import __version__
from toolgym._util.jsonl import copy_json
from toolgym._util.optional import require_extra
from toolgym.bridges.episode import opened
from toolgym.env import ToolEnv, refuse_unknown
from toolgym.episodes.episode import Info
from toolgym.errors import BadInputError
from toolgym.policies.requests import Request, read_native

__all__ = [
    *("OpenEnvClient", "OpenEnvEnvironment", "OpenEnvState", "TextAction", "TextObservation"),
    "app",
]

_server: Any = require_extra("openenv.core.env_server", "openenv")
_client: Any = require_extra("openenv.core.env_client", "openenv")
_OWN = ("messages", "tools")  # of an info: they stand in the observation, the rest in its metadata


class TextAction(_server.Action):  # type: ignore[misc]
    """What a policy says in one turn.

    Args:
        text: the reply, in the environment's format.
        tool_calls: calls that came apart from the text, as chat completions have them.
        cut: the reply ended at the limit of its length, in the middle.
    """

    text: str = ""
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    cut: bool = False


class TextObservation(_server.Observation):  # type: ignore[misc]
    """What is new for the policy since the observation before; ``done`` at the end of the episode.

    Lists joined over an episode are the whole conversation and all tools. ``metadata`` has the
    other entries of our ``info``: ``task_id``, ``step``, ``problems``, ``tool_errors`` and
    ``reward/<name>`` for each unweighted part of the reward.

    Args:
        text: to read next; empty at the end.
        messages: as chat dicts, the policy's own reply first.
        tools: function-calling documents of tools that can be called from now on.
        terminated: the policy gave its answer.
        truncated: the episode was cut at a limit.
    """

    text: str = ""
    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    terminated: bool = False
    truncated: bool = False


class OpenEnvState(_server.State):  # type: ignore[misc]
    """Where a session stands.

    Args:
        env: id of the environment.
        task_id: that is played; None before the first reset.
        trajectory: the record of an episode that has ended, as a row of ``trajectories.jsonl``:
            the gold answers stand in it.
    """

    env: str = ""
    task_id: str | None = None
    trajectory: dict[str, Any] | None = None


class OpenEnvEnvironment(_server.Environment):  # type: ignore[misc]
    """One session: an environment of its own, which shares tasks and tools with the others.

    Its tasks are told by OpenEnv's calls for them (``list_splits``, ``num_tasks``, ``get_task``,
    ...), without their answers. A split is that of the tasks; those without one are ``all``.

    Args:
        base: whose tasks, tools, format and rubric are used; it is not stepped itself.
        name: of the environment.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, base: ToolEnv, name: str) -> None:
        super().__init__()
        self._env, self._name = base.clone(), name
        self._episode: str | None = None
        self._messages = self._tools = 0

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        task: str | int | None = None,
        split: str | None = None,
        index: int | None = None,
        sample: int = 0,
        **unknown: Any,
    ) -> TextObservation:
        """Begin an episode.

        Args:
            seed: chooses the task, where none is named.
            episode_id: any name; `state` repeats it.
            task: id or number of the task.
            split: of ``list_splits``; with ``index``, another way to name the task.
            index: of the task in its split.
            sample: numbers the rollouts of one task.
            unknown: must be empty: OpenEnv would drop what has no parameter.

        Raises:
            BadInputError: an unknown task or argument, or a task that is named in two ways.
            IndexError: there is no such split, or it has no such task.
        """
        refuse_unknown("reset", self.reset, unknown)
        if index is not None or split is not None:
            if task is not None or index is None or split is None:
                raise BadInputError(
                    "reset takes task, or split and index, or a seed; got "
                    f"task={task!r}, split={split!r}, index={index!r}"
                )
            task = self._number(split, index)
        options = {"sample": sample} | ({} if task is None else {"task": task})
        text, info = self._env.reset(seed=seed, options=options)
        self._episode, self._messages, self._tools = episode_id, 0, 0
        return self._observed(text, info)

    def step(self, action: TextAction, timeout_s: float | None = None) -> TextObservation:
        """Play one turn of the policy; see `ToolEnv.step`.

        Args:
            action: the reply.
            timeout_s: must be None: every tool has a deadline of its own, which ends the call.

        Raises:
            EpisodeEndedError: before reset, or after the end of the episode.
            BadInputError: a timeout.
            PolicyError: what stands in ``tool_calls`` is not a list of calls.
        """
        if timeout_s is not None:
            raise BadInputError(
                f"timeout_s={timeout_s!r} would end no call: tools have deadlines of their own, "
                "which are arguments of the environment; leave timeout_s out"
            )
        said = {"content": action.text, "tool_calls": action.tool_calls}
        tools = self._env.playing_tools.schemas() if action.tool_calls else []
        reply = replace(read_native(said, Request([], tools, self._env.format)), cut=action.cut)
        text, reward, terminated, truncated, info = self._env.step(reply.turn)
        found = self._observed(text, info)
        found.reward, found.done = reward, terminated or truncated
        found.terminated, found.truncated = terminated, truncated
        return found

    @property
    def state(self) -> OpenEnvState:
        """Where the episode stands, and its record once it has ended."""
        if self._messages == 0:
            return OpenEnvState(env=self._name)
        record = self._env.trajectory
        return OpenEnvState(
            episode_id=self._episode,
            step_count=len(record.steps),
            env=self._name,
            task_id=record.task.id,
            trajectory=record.to_row() if self._env.ended else None,
        )

    def get_metadata(self) -> Any:
        """Name, description and version, as OpenEnv shows them."""
        tools = ", ".join(tool.name for tool in self._env.toolset) or "brought by each task"
        return _server.types.EnvironmentMetadata(
            name=self._name,
            description=f"{len(self._env.tasks)} tasks of toolgym; tools: {tools}",
            version=__version__,
        )

    def list_splits(self) -> list[str]:
        """The splits of the tasks, in the order in which they come."""
        return list(dict.fromkeys(task.split or "all" for task in self._env.tasks))

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """Id, index and question of all tasks of a split.

        Raises:
            IndexError: there is no such split.
        """
        return self.get_task_range(split)

    def num_tasks(self, split: str) -> int:
        """How many tasks a split has.

        Raises:
            IndexError: there is no such split.
        """
        return len(self._split(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Id, index and question of one task.

        Raises:
            IndexError: there is no such split, or it has no such task.
        """
        self._number(split, index)
        return self.get_task_range(split, index, index + 1)[0]

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        """Id, index and question of tasks ``[start, stop)`` of a split.

        Raises:
            IndexError: there is no such split.
        """
        found = list(enumerate(self._split(split)))[start:stop]
        asked = [(place, self._env.tasks[number]) for place, number in found]
        return [{"id": t.id, "index": place, "question": t.question} for place, t in asked]

    def close(self) -> None:
        """End what the tools remember of the episode; other sessions go on."""
        self._env.end()

    def _split(self, split: str) -> Sequence[int]:
        """Numbers of the tasks of a split.

        Raises:
            IndexError: there is none of that name; OpenEnv's server answers it with status 400.
        """
        found = [n for n, task in enumerate(self._env.tasks) if (task.split or "all") == split]
        if not found:
            known = ", ".join(map(repr, self.list_splits()))
            raise IndexError(f"there is no split {split!r}; splits: {known}")
        return found

    def _number(self, split: str, index: int) -> int:
        """Number of a task by its place in its split."""
        found = self._split(split)
        if not 0 <= index < len(found):
            raise IndexError(f"split {split!r} has {len(found)} tasks, and none of index {index!r}")
        return found[index]

    def _observed(self, text: str, info: Info) -> TextObservation:
        messages, tools = info["messages"][self._messages :], info["tools"][self._tools :]
        self._messages, self._tools = len(info["messages"]), len(info["tools"])
        return TextObservation(
            text=text,
            messages=messages,
            tools=copy_json(tools),
            metadata={name: value for name, value in info.items() if name not in _OWN},
        )


class OpenEnvClient(_client.EnvClient):  # type: ignore[misc]
    """Plays an environment of ours on a server; see OpenEnv's ``EnvClient``."""

    def _step_payload(self, action: TextAction) -> dict[str, Any]:
        found: dict[str, Any] = action.model_dump(exclude_defaults=True)
        return found

    def _parse_result(self, payload: Mapping[str, Any]) -> Any:
        told = {name: payload.get(name) for name in ("reward", "done", "metadata")}
        told["metadata"] = told["metadata"] or {}
        seen = TextObservation.model_validate({**payload["observation"], **told})
        return _client.StepResult(observation=seen, **told)

    def _parse_state(self, payload: Mapping[str, Any]) -> OpenEnvState:
        found: OpenEnvState = OpenEnvState.model_validate(payload)
        return found


def app(
    env: str | None = None, env_args: Mapping[str, Any] | None = None, *, sessions: int = 64
) -> Any:
    """OpenEnv's server for an environment: a FastAPI application.

    Args:
        env: id of the environment; default: the environment variable ``TOOLGYM_ENV``.
        env_args: its keyword arguments; default: ``TOOLGYM_ENV_ARGS``, as JSON.
        sessions: that may be open at once.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: nobody names an environment, arguments that it does not have, or one with
            wrappers.
    """
    name = env or os.environ.get("TOOLGYM_ENV")
    if not name:
        raise BadInputError(
            "no environment to serve: set TOOLGYM_ENV to an id that `toolgym envs` lists, or give "
            "it to app()"
        )
    given = env_args if env else os.environ.get("TOOLGYM_ENV_ARGS") or env_args
    base = opened(name, given).bare("OpenEnv")
    return _server.create_app(
        functools.partial(OpenEnvEnvironment, base, name),
        TextAction,
        TextObservation,
        env_name=name,
        max_concurrent_envs=sessions,
        state_cls=OpenEnvState,
    )
