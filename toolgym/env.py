"""The one episode loop: a policy's text in, tool results and a reward out."""

from __future__ import annotations

import copy
import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.formats import Action, Format
from toolgym.formats.turn import Turn, read_turn
from toolgym.grading.rubric import Rubric
from toolgym.messages import Message, ToolCall, ToolResult, to_chats
from toolgym.spaces import ActionSampler, UnicodeText
from toolgym.task import Task, TaskSet
from toolgym.tools.toolset import Schema, Toolset
from toolgym.trajectory import Step, Trajectory

__all__ = ["ToolEnv"]

Info = dict[str, Any]
_EMPTY = Toolset()


@dataclass(slots=True)
class _Begun:
    """A step between its halves: the reply, what it says, and whether its calls are refused."""

    action: str
    parsed: Action
    refused: bool
    cut: bool = False
    native: tuple[ToolCall, ...] = ()


class ToolEnv(gym.Env[str, str]):
    """A gymnasium environment over tasks and tools.

    An action is one assistant turn as text; an observation is the text that is new for the policy.
    The episode terminates when a turn gives an answer, and is truncated after ``max_steps`` turns.
    A turn that cannot be read is answered with what was wrong, and the episode goes on.

    Args:
        tasks: what is asked.
        toolset: the tools of every task.
        format: reads and writes the policy's text.
        rubric: scores each step.
        max_steps: turns until truncation, at least 1.
        max_reply_chars: characters of a reply that are read; the record keeps all.
        max_result_chars: characters of a tool result that the policy sees.

    Raises:
        BadInputError: a bound that is no positive number.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium's declaration

    def __init__(
        self,
        tasks: TaskSet,
        toolset: Toolset,
        format: Format,
        rubric: Rubric,
        *,
        max_steps: int = 8,
        max_reply_chars: int = 100_000,
        max_result_chars: int = 20_000,
        render_mode: str | None = None,
    ) -> None:
        bounds = {"max_steps": max_steps, "max_reply_chars": max_reply_chars}
        for name, value in (bounds | {"max_result_chars": max_result_chars}).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInputError(f"{name} must be a whole number of at least 1, not {value!r}")
        self.tasks, self.toolset, self.format, self.rubric = tasks, toolset, format, rubric
        self.max_steps = max_steps
        self.max_reply_chars, self.max_result_chars = max_reply_chars, max_result_chars
        self.render_mode = render_mode
        self.action_space = UnicodeText(sampler=ActionSampler(format, toolset))
        self.observation_space = UnicodeText(max_length=100_000_000)
        self._trajectory: Trajectory | None = None
        self._finished: Trajectory | None = None
        self._tools, self._schemas = _EMPTY, _EMPTY.schemas()
        self._told: list[Schema] = []
        self._tool_turns = self._call_count = 0
        self._ended = True
        self._begun: _Begun | None = None

    def tools_for(self, task: Task) -> Toolset:
        """The tools of one task; environments whose tools differ by task override this."""
        return self.toolset

    def clone(self) -> ToolEnv:
        """A fresh environment that shares tasks, tools, format and rubric; cheap."""
        twin = copy.copy(self)
        twin._trajectory, twin._finished, twin._begun, twin._ended = None, None, None, True
        return twin

    @property
    def trajectory(self) -> Trajectory:
        """A copy of the record of the current episode.

        Raises:
            EpisodeEndedError: before the first reset.
        """
        return self._current().copy()

    @property
    def finished(self) -> Trajectory | None:
        """A copy of the record of the episode that ended last; kept until the next one ends.

        For vector environments, which may reset before their user can read `trajectory`.
        """
        return self._finished.copy() if self._finished is not None else None

    @property
    def current_tools(self) -> Toolset:
        """The tools of the current episode; none under a strategy without tools."""
        return self._tools

    @property
    def episode(self) -> str:
        """Task and sample of the current episode, as `Trajectory.id`.

        Raises:
            EpisodeEndedError: before the first reset.
        """
        return self._current().id

    @property
    def ended(self) -> bool:
        """Whether a reset is needed before the next step."""
        return self._ended

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin an episode.

        Args:
            seed: fixes the choice of the task.
            options: ``{"task": id or number}`` chooses the task; ``{"sample": n}`` numbers the
                rollout.

        Returns:
            The opening as text, and the info: ``messages``, ``tools``, ``task_id``, ``step``.

        Raises:
            BadInputError: an unknown option or task.
        """
        super().reset(seed=seed)
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise BadInputError(f"reset options are a mapping, not {options!r:.80}")
        sample = _whole("sample", options.get("sample", 0))
        task = self.tasks[self._choose(options)]
        self._tools = self.tools_for(task) if self.format.strategy.tools else _EMPTY
        # What the policy is told is not what parses and records: it may change its documents.
        self._schemas, self._told = self._tools.schemas(), self._tools.schemas()
        messages = self.format.render(self._schemas, [Message("user", task.question)])
        self._trajectory = Trajectory(
            task=task,
            messages=messages,
            tools=self._schemas,
            env_id=self.spec.id if self.spec is not None else "",
            format=self.format.name,
            seed=seed,
            sample=sample,
        )
        self._ended, self._begun, self._tool_turns, self._call_count = False, None, 0, 0
        return "\n\n".join(message.content for message in messages), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Play one assistant turn: `begin`, the tools, `finish`.

        Args:
            action: the reply, any text.

        Returns:
            What is new for the policy (empty at the end), reward, terminated, truncated, info.

        Raises:
            EpisodeEndedError: before reset, or after the end of the episode.
            BadInputError: the action is not a string.
        """
        calls = self.begin(action)
        began = time.perf_counter()
        results = self._tools.execute(calls, [self.episode] * len(calls)) if calls else []
        return self.finish(results, time.perf_counter() - began)

    def begin(self, action: str) -> list[ToolCall]:
        """The first half of a step: what a reply wants to have called.

        Whoever plays many episodes begins a step in each of them, has the calls of all answered
        together (`toolgym.vector.step_together` does it), and finishes each. Nothing is recorded
        yet: a second ``begin`` takes the place of the first.

        Args:
            action: the reply, any text.

        Returns:
            The calls that must be answered, perhaps none.

        Raises:
            EpisodeEndedError: before reset, or after the end of the episode.
            BadInputError: the action is not a string.
        """
        if not isinstance(action, str):
            raise BadInputError(
                f"an action is one assistant turn as str, not {type(action).__name__}"
            )
        if self._ended:
            why = "the episode has ended" if self._trajectory else "no episode yet"
            raise EpisodeEndedError(f"{why}: call reset() before step()")
        parsed = read_turn(action, self.format, self._schemas, self.max_reply_chars)
        numbered = [
            ToolCall(f"call_{number}", call.name, call.arguments)
            for number, call in enumerate(parsed.calls, self._call_count)
        ]
        begun = self._begun = _Begun(action, parsed, bool(numbered) and self._refused())
        if isinstance(action, Turn):
            begun.action, begun.cut = str(action), action.cut
            if action.said is not None:
                begun.native = _with_own_ids(numbered, parsed.calls)
        if numbered:
            begun.parsed = Action(parsed.thought, tuple(numbered), parsed.answer, parsed.problems)
        return [] if begun.refused else numbered

    def finish(
        self, results: Sequence[ToolResult], seconds: float = 0.0
    ) -> tuple[str, float, bool, bool, Info]:
        """The second half of a step: records it, scores it, and says what the policy reads next.

        Args:
            results: one for each call that `begin` returned, in the same order.
            seconds: how long the tools took, for the record.

        Returns:
            As `step`.

        Raises:
            EpisodeEndedError: no step was begun.
            BadInputError: not one result for each call.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            raise EpisodeEndedError("no step was begun: call begin() before finish()")
        calls, results = begun.parsed.calls, list(results)
        if begun.refused:
            text = "Error: tools may not be called again; answer now."
            results += [ToolResult(call.id, text, "refused") for call in calls]
        if len(results) != len(calls):
            raise BadInputError(f"{len(calls)} calls need a result each, not {len(results)}")
        self._tool_turns += bool(calls)
        self._call_count += len(calls)
        return self._recorded(begun, list(map(self.shown, results)), seconds)

    def shown(self, result: ToolResult) -> ToolResult:
        """A result with its mark of how much the policy reads: at most ``max_result_chars``."""
        if len(result.content) <= self.max_result_chars:
            return result
        return replace(result, shown=self.max_result_chars)

    def render(self) -> str | None:
        """The conversation as readable text in render mode ``ansi``, else None."""
        if self.render_mode != "ansi":
            return None
        return "\n\n".join(f"[{m.role}]\n{m.content}" for m in self._current().messages)

    def close(self) -> None:
        """End the tools' idle child processes. Environments that share the tools go on working."""
        for tools in (self.toolset, self._tools):
            tools.close()

    def _current(self) -> Trajectory:
        if self._trajectory is None:
            raise EpisodeEndedError("no episode yet: call reset() first")
        return self._trajectory

    def _choose(self, options: dict[str, Any]) -> int:
        for option in options:
            if option not in ("task", "sample"):
                raise BadInputError(f"unknown reset option {option!r}; options: 'task', 'sample'")
        task = options.get("task")
        if task is None:
            return int(self.np_random.integers(len(self.tasks)))
        if isinstance(task, str):
            return self.tasks.index_of(task)
        place = _whole("task", task)
        if place >= len(self.tasks):
            raise BadInputError(f"task {place} is out of range: there are {len(self.tasks)}")
        return place

    def _refused(self) -> bool:
        limit = self.format.strategy.tool_turns
        return limit is not None and self._tool_turns >= limit

    def _recorded(
        self, begun: _Begun, results: list[ToolResult], seconds: float
    ) -> tuple[str, float, bool, bool, Info]:
        record, action, parsed = self._current(), begun.action, begun.parsed
        for result in results:
            seconds += result.added_seconds
        written = parsed.thought if begun.native else action
        record.messages.append(Message("assistant", written[: self.max_reply_chars], begun.native))
        terminated = parsed.answer is not None
        fresh = [] if terminated else self._reply(parsed, results, begun.native)
        record.messages += fresh
        record.steps.append(
            Step(
                action=action,
                calls=parsed.calls,
                results=tuple(results),
                problems=parsed.problems,
                answer=parsed.answer,
                observation="\n\n".join([message.content for message in fresh]),
                seconds=round(seconds, 6),
                cut=begun.cut,
            )
        )
        record.terminated = terminated
        record.truncated = not terminated and len(record.steps) >= self.max_steps
        self._ended = record.terminated or record.truncated
        self.rubric.apply(record, last_only=True)
        if self._ended:
            self._finished = record
        step = record.steps[-1]
        return step.observation, step.reward, record.terminated, record.truncated, self._info()

    def _reply(
        self, parsed: Action, results: Sequence[ToolResult], native: Sequence[ToolCall]
    ) -> list[Message]:
        if not parsed.calls:
            return [self.format.complaint(parsed.problems)]
        if native:
            both = zip(native, results, strict=True)
            messages = [Message("tool", r.seen, (), call.id, call.name) for call, r in both]
        else:
            seen = [replace(r, content=r.seen, shown=None) if r.shown else r for r in results]
            messages = self.format.results(parsed.calls, seen, self._schemas)
        if parsed.problems:
            note = "; ".join(problem.message for problem in parsed.problems)
            last = messages[-1]
            messages[-1] = replace(last, content=f"{last.content}\nNote: {note}.")
        return messages

    def _info(self) -> Info:
        record = self._current()
        info: Info = {
            "messages": to_chats(record.messages),
            "tools": self._told,
            "task_id": record.task.id,
            "step": len(record.steps),
        }
        if record.steps:
            step = record.steps[-1]
            info["problems"] = [problem.kind for problem in step.problems]
            info["tool_errors"] = [result.error or "" for result in step.results]
            info |= {f"reward/{name}": value for name, value in step.reward_parts.items()}
        return info


def _whole(option: str, value: Any) -> int:
    """A reset option that counts from 0; numbers of numpy and the like are numbers."""
    try:
        number = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        ids = " or a task's id" if option == "task" else ""
        raise BadInputError(
            f"reset option {option!r} is a whole number of at least 0{ids}, not {value!r:.80}"
        )
    return number


def _with_own_ids(calls: Sequence[ToolCall], said: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """Native calls under the ids that came with them, where some did."""
    pairs = zip(calls, said, strict=True)
    return tuple(ToolCall(own.id or call.id, call.name, call.arguments) for call, own in pairs)
