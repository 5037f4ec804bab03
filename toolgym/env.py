"""The one episode loop: a policy's text in, tool results and a reward out."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym

from toolgym._util.rebuilding import make_again
from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.formats import Format
from toolgym.formats.example_files import read_examples
from toolgym.formats.examples import opening
from toolgym.formats.turn import Begun, begin_turn
from toolgym.grading.rubric import Rubric
from toolgym.messages import ToolCall, ToolResult, to_chats
from toolgym.registry import Resource
from toolgym.spaces import ActionSampler, UnicodeText
from toolgym.task import Task, TaskSet, whole_number
from toolgym.tools.base import Schema
from toolgym.tools.toolset import Toolset
from toolgym.trajectory import Step, Trajectory

__all__ = ["ToolEnv"]

Info = dict[str, Any]
_EMPTY = Toolset()
# What an episode is in the middle of, and what a user may have set since the environment was made.
_STATE = (
    *("max_steps", "max_reply_chars", "max_result_chars", "render_mode"),
    *("action_space", "observation_space", "_np_random", "_np_random_seed"),
    *("_trajectory", "_finished", "_schemas", "_told", "_begun"),
    *("_tool_turns", "_call_count", "_ended"),
)


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
        examples: worked examples before the question; see `toolgym.formats.example_files`.
        bundled: file of those that a number takes.

    Raises:
        BadInputError: a bound that is not a positive number, or a render mode beside ``ansi``.
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
        examples: Any = 0,
        bundled: Resource | None = None,
    ) -> None:
        bounds = {"max_steps": max_steps, "max_reply_chars": max_reply_chars}
        for name, value in (bounds | {"max_result_chars": max_result_chars}).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInputError(f"{name} must be a whole number of at least 1, not {value!r}")
        if render_mode not in (None, "ansi"):
            raise BadInputError(f"render_mode is 'ansi' (text) or None, not {render_mode!r}")
        self.tasks, self._toolset, self.format, self.rubric = tasks, toolset, format, rubric
        self.max_steps, self.render_mode = max_steps, render_mode
        self.max_reply_chars, self.max_result_chars = max_reply_chars, max_result_chars
        alike = type(self).tools_for is ToolEnv.tools_for
        self.examples = read_examples(examples, format, toolset if alike else None, bundled)
        self.action_space = UnicodeText(sampler=ActionSampler(format, toolset))
        self.observation_space = UnicodeText(max_length=100_000_000)
        self._trajectory: Trajectory | None = None
        self._finished: Trajectory | None = None
        self._tools, self._schemas = _EMPTY, _EMPTY.schemas()
        self._told: list[Schema] = []
        self._tool_turns = self._call_count = 0
        self._ended = True
        self._begun: Begun | None = None

    @property
    def toolset(self) -> Toolset:
        """The tools; what is changed in their documents from here on is this environment's own."""
        if self._toolset.shared:
            self._toolset, before = self._toolset.fork(), self._toolset
            self._tools = self._toolset if self._tools is before else self._tools
        return self._toolset

    @toolset.setter
    def toolset(self, toolset: Toolset) -> None:
        """Take other tools, from the next reset on."""
        self._toolset = toolset

    def tools_for(self, task: Task) -> Toolset:
        """The tools of one task; environments whose tools differ by task override this."""
        return self._toolset

    def clone(self) -> ToolEnv:
        """A fresh environment that shares tasks, tools, format and rubric; cheap."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._trajectory, twin._finished, twin._begun, twin._ended = None, None, None, True
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolEnv:
        """A copy that plays on from the same place; tasks, tools, format and rubric are shared."""
        twin = memo[id(self)] = self.clone()
        for name in _STATE:
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        if not self._toolset.shared:
            twin._toolset = self._toolset.fork()
        twin._tools = twin._toolset if self._tools is self._toolset else self._tools
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its spec, it plays on from the same place; see `__setstate__`.

        Raises:
            BadInputError: `gymnasium.make` did not make it: nothing says how to make it again.
        """
        if self.spec is None:
            raise BadInputError(
                "only an environment of gym.make can be pickled: register this one, or make it "
                "again in the other process"
            )
        state = {name: getattr(self, name) for name in _STATE}
        changed = (
            None if self._toolset.shared else [(t.description, t.parameters) for t in self._toolset]
        )
        return make_again, (self.spec,), state | {"documents": changed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where another was."""
        for tool, document in zip(self.toolset, state.pop("documents") or (), strict=False):
            tool.description, tool.parameters = document
        self.__dict__.update(state)
        if self._trajectory is not None and self.format.strategy.tools:
            self._tools = self.tools_for(self._trajectory.task)

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
        if self._tools.shared:
            self._tools = self.toolset if self._tools is self._toolset else self._tools.fork()
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
            BadInputError: an unknown option or task, or a seed that is not a whole number.
        """
        seed = None if seed is None else whole_number("seed", seed)
        super().reset(seed=seed)
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise BadInputError(f"reset options are a mapping, not {options!r:.80}")
        sample = whole_number("reset option 'sample'", options.get("sample", 0))
        task = self.tasks[self._choose(options)]
        self._tools = self.tools_for(task) if self.format.strategy.tools else _EMPTY
        # What the policy is told is not what parses and records: it may change its documents.
        self._schemas, self._told = self._tools.schemas(), self._tools.schemas()
        messages = opening(self.format, self._schemas, task.question, self.examples)
        self._trajectory = Trajectory(
            task=task,
            messages=messages,
            tools=self._schemas,
            env_id=self.spec.id if self.spec is not None else "",
            format=self.format.name,
            seed=seed,
            sample=sample,
            examples=len(self.examples),
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
        limit, refused = self.max_reply_chars, self._refused()
        begun = begin_turn(action, self.format, self._schemas, limit, self._call_count, refused)
        self._begun = begun
        return [] if begun.refused else list(begun.parsed.calls)

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

    def amend(self, seen: str, reward: float, terminated: bool, truncated: bool) -> None:
        """Record of the last step what the wrappers around this environment made of it.

        Args:
            seen: the observation.
            reward: in place of the rubric's, whose parts stay as they are.
            terminated: whether the episode has ended.
            truncated: whether it was ended at a limit.
        """
        record = self._current()
        record.steps[-1].observation, record.steps[-1].reward = seen, reward
        record.terminated, record.truncated = terminated, truncated
        self._ended = terminated or truncated

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
        for tools in (self._toolset, self._tools):
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
        return self.tasks.index_of(task)

    def _refused(self) -> bool:
        limit = self.format.strategy.tool_turns
        return limit is not None and self._tool_turns >= limit

    def _recorded(
        self, begun: Begun, results: list[ToolResult], seconds: float
    ) -> tuple[str, float, bool, bool, Info]:
        record, parsed = self._current(), begun.parsed
        seconds = sum([result.added_seconds for result in results], seconds)
        limit, before = self.max_reply_chars, len(record.messages)
        record.messages += begun.messages(results, self.format, self._schemas, limit)
        step = Step(
            action=begun.action,
            calls=parsed.calls,
            results=tuple(results),
            problems=parsed.problems,
            answer=parsed.answer,
            observation="\n\n".join([m.content for m in record.messages[before + 1 :]]),
            seconds=round(seconds, 6),
            cut=begun.cut,
        )
        record.steps.append(step)
        record.terminated = parsed.answer is not None
        record.truncated = not record.terminated and len(record.steps) >= self.max_steps
        self._ended = record.terminated or record.truncated
        self.rubric.apply(record, last_only=True)
        if self._ended:
            self._finished = record
        return step.observation, step.reward, record.terminated, record.truncated, self._info()

    def _info(self) -> Info:
        record = self._current()
        info: Info = {
            "messages": to_chats(record.messages),
            "tools": self._told,
            "task_id": record.task.id,
            "step": len(record.steps),
        } | ({"examples": record.examples} if record.examples else {})
        for step in record.steps[-1:]:
            info["problems"] = [problem.kind for problem in step.problems]
            info["tool_errors"] = [result.error or "" for result in step.results]
            info |= {f"reward/{name}": value for name, value in step.reward_parts.items()}
        return info
