"""The one episode loop: a policy's text in, tool results and a reward out."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from toolgym.errors import BadInputError, EpisodeEndedError
from toolgym.formats import Action, Format
from toolgym.grading.rubric import Rubric
from toolgym.messages import Message, ToolCall, ToolResult, to_chats
from toolgym.spaces import UnicodeText
from toolgym.task import Task, TaskSet
from toolgym.tools.toolset import Schema, Toolset
from toolgym.trajectory import Problem, Step, Trajectory

__all__ = ["ActionSampler", "ToolEnv"]

Info = dict[str, Any]
_EMPTY = Toolset()


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
        self._prepared: tuple[str, Action, list[ToolResult], float] | None = None

    def tools_for(self, task: Task) -> Toolset:
        """The tools of one task; environments whose tools differ by task override this."""
        return self.toolset

    def clone(self) -> ToolEnv:
        """A fresh environment that shares tasks, tools, format and rubric; cheap."""
        twin = copy.copy(self)
        twin._trajectory, twin._finished, twin._prepared, twin._ended = None, None, None, True
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
            options: ``{"task": id or index}`` chooses the task; ``{"sample": n}`` numbers the
                rollout.

        Returns:
            The opening as text, and the info: ``messages``, ``tools``, ``task_id``, ``step``.

        Raises:
            BadInputError: an unknown option or task.
        """
        super().reset(seed=seed)
        options = options or {}
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
            sample=int(options.get("sample", 0)),
        )
        self._ended, self._prepared, self._tool_turns, self._call_count = False, None, 0, 0
        return "\n\n".join(message.content for message in messages), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Play one assistant turn.

        Args:
            action: the reply, any text.

        Returns:
            What is new for the policy (empty at the end), reward, terminated, truncated, info.

        Raises:
            EpisodeEndedError: before reset, or after the end of the episode.
            BadInputError: the action is no text.
        """
        if self._prepared is not None and self._prepared[0] == action:
            _, parsed, results, seconds = self._prepared
        else:
            calls, parsed = self._begin(action)
            began = time.perf_counter()
            results = self._tools.execute(calls, [self.episode] * len(calls))
            seconds = time.perf_counter() - began + self._tools.added_seconds(results)
        self._prepared = None
        return self._finish(action, parsed, results, seconds)

    def prepare(self, action: str) -> list[ToolCall]:
        """First half of a step: the calls of a reply, for answering many episodes at once.

        Raises:
            EpisodeEndedError: before reset, or after the end of the episode.
        """
        calls, parsed = self._begin(action)
        self._prepared = (action, parsed, [], 0.0)
        return calls

    def provide(self, results: Sequence[ToolResult], seconds: float = 0.0) -> None:
        """Give the prepared calls their results; the next ``step`` of the same action uses them."""
        if self._prepared is None:
            raise EpisodeEndedError("provide() needs a prepare() before it")
        self._prepared = (self._prepared[0], self._prepared[1], list(results), seconds)

    def shown(self, result: ToolResult) -> ToolResult:
        """A result as the policy reads it: cut after ``max_result_chars``."""
        limit = self.max_result_chars
        if len(result.content) <= limit:
            return result
        cut = f"{result.content[:limit]} [cut: {len(result.content):,} characters]"
        return replace(result, content=cut)

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
        unknown = options.keys() - {"task", "sample"}
        if unknown:
            raise BadInputError(f"unknown reset option {min(unknown)!r}; options: 'task', 'sample'")
        task = options.get("task")
        if task is None:
            return int(self.np_random.integers(len(self.tasks)))
        if isinstance(task, int):
            if not 0 <= task < len(self.tasks):
                raise BadInputError(f"task {task} is out of range: there are {len(self.tasks)}")
            return task
        return self.tasks.index_of(str(task))

    def _begin(self, action: str) -> tuple[list[ToolCall], Action]:
        if not isinstance(action, str):
            raise BadInputError(
                f"an action is one assistant turn as str, not {type(action).__name__}"
            )
        if self._ended:
            why = "the episode has ended" if self._trajectory else "no episode yet"
            raise EpisodeEndedError(f"{why}: call reset() before step()")
        parsed = self.format.parse(action[: self.max_reply_chars], self._schemas)
        if len(action) > self.max_reply_chars:
            text = (
                f"it has {len(action):,} characters; only the first {self.max_reply_chars:,} count"
            )
            parsed = replace(parsed, problems=(Problem("too_long", text), *parsed.problems))
        if parsed.calls and self._refused():
            parsed = self.format.without_calls(parsed, action[: self.max_reply_chars])
        if not parsed.calls:
            return [], parsed
        numbered = [
            ToolCall(f"call_{number}", call.name, call.arguments)
            for number, call in enumerate(parsed.calls, self._call_count)
        ]
        self._call_count += len(numbered)
        parsed = Action(parsed.thought, tuple(numbered), parsed.answer, parsed.problems)
        return ([] if self._refused() else numbered), parsed

    def _refused(self) -> bool:
        limit = self.format.strategy.tool_turns
        return limit is not None and self._tool_turns >= limit

    def _finish(
        self, action: str, parsed: Action, results: list[ToolResult], seconds: float
    ) -> tuple[str, float, bool, bool, Info]:
        record = self._current()
        if parsed.calls and self._refused():
            text = "Error: tools may not be called again; answer now."
            results = [ToolResult(call.id, text, "refused") for call in parsed.calls]
        self._tool_turns += bool(parsed.calls)
        record.messages.append(Message("assistant", action[: self.max_reply_chars]))
        terminated = parsed.answer is not None
        fresh = [] if terminated else self._reply(parsed, results)
        record.messages += fresh
        record.steps.append(
            Step(
                action=action,
                calls=parsed.calls,
                results=tuple(results),
                problems=parsed.problems,
                answer=parsed.answer,
                observation="\n\n".join([message.content for message in fresh]),
                seconds=seconds,
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

    def _reply(self, parsed: Action, results: Sequence[ToolResult]) -> list[Message]:
        if not parsed.calls:
            return [self.format.complaint(parsed.problems)]
        shown = [self.shown(result) for result in results]
        messages = self.format.results(parsed.calls, shown, self._schemas)
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


class ActionSampler:
    """Draws replies that a policy might write: calls, answers, and broken versions of both.

    Args:
        format: writes the replies.
        toolset: whose tools are called.
    """

    _WORDS = ("42", "6*7", "Paris", "Marie Curie", "río", "العربية", "the capital of France", "")

    def __init__(self, format: Format, toolset: Toolset) -> None:
        self._format, self._schemas = format, toolset.schemas()

    def __call__(self, rng: np.random.Generator) -> str:
        """One reply."""
        word = self._WORDS[int(rng.integers(len(self._WORDS)))]
        kind = int(rng.integers(4))
        if kind == 0 or not self._schemas:
            text = self._format.write(Action("I know it.", (), word), self._schemas)
        else:
            function = self._schemas[int(rng.integers(len(self._schemas)))]["function"]
            names = list(function["parameters"]["properties"])
            call = ToolCall("call_0", function["name"], {names[0]: word} if names else {})
            text = self._format.write(Action("I look it up.", (call,)), self._schemas)
        if kind == 3:
            text = text[: int(rng.integers(len(text) + 1))]
        return text
