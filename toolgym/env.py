"""The one episode loop: a policy's text in, tool results and a reward out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolgym.episodes.branching import Branching
from toolgym.episodes.episode import Episode, Info
from toolgym.episodes.limits import Limits, check_parts, check_system, refusals, with_system
from toolgym.episodes.users import User, UserMaker
from toolgym.errors import BadInputError, EpisodeEndedError, did_you_mean
from toolgym.formats import Format
from toolgym.formats.example_files import read_examples
from toolgym.formats.examples import opening
from toolgym.formats.turn import Turn, begin_turn
from toolgym.grading.rubric import Rubric
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.registry import Resource
from toolgym.spaces import ActionSampler, UnicodeText
from toolgym.task import Task, TaskSet, whole_number
from toolgym.tools.base import Schema
from toolgym.tools.toolset import Toolset, check_descriptions
from toolgym.trajectory import Trajectory

__all__ = ["ToolEnv", "offers_own_tools", "refuse_unknown"]

_EMPTY = Toolset()


def refuse_unknown(name: str, make: Callable[..., Any], unknown: Mapping[str, Any]) -> None:
    """Refuse arguments that an environment does not have.

    Args:
        name: of the environment.
        make: its function, whose last parameter takes what no other one does.
        unknown: what that one got.

    Raises:
        BadInputError: there are some; near names and all others stand in the message.
    """
    if unknown:
        first, known = next(iter(unknown)), list(inspect.signature(make).parameters)[:-1]
        raise BadInputError(
            f"{name} has no argument {first!r}{did_you_mean(first, known)}; "
            f"arguments: {', '.join(known)}"
        )


def offers_own_tools(name: str, tools: Any) -> bool:
    """Whether an environment whose tasks bring their tools offers them.

    Args:
        name: of the environment.
        tools: None for these, an empty list for none.

    Raises:
        BadInputError: it is something else.
    """
    if tools is not None and (isinstance(tools, str) or tools):
        raise BadInputError(
            f"each task of {name} brings its own tools, so tools is null (these) or [] (none), not "
            f"{tools!r:.80}"
        )
    return tools is None


class ToolEnv(Branching):
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
        user: makes who speaks to the policy after its answers, by task; None: an answer ends the
            episode. See `toolgym.episodes.users`.
        system: text of the system message; the format's instructions follow it, or stand where it
            says ``{instructions}``.
        descriptions: what the policy is told of a tool in place of its own description, by name.
        max_calls: tool calls of an episode; see `toolgym.episodes.limits.Limits`.
        max_tokens: tokens that the policy writes in an episode; as before.

    Raises:
        UnknownNameError: a description of a tool that there is not.
        BadInputError: a part of another kind, a bound below 1, or a render mode beside ``ansi``.
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
        user: UserMaker | None = None,
        system: str | None = None,
        descriptions: Mapping[str, str] | None = None,
        max_calls: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        check_parts(tasks, toolset, format, rubric)
        bounds = {"max_steps": max_steps, "max_reply_chars": max_reply_chars}
        for name, value in (bounds | {"max_result_chars": max_result_chars}).items():
            whole_number(name, value, 1)
        if render_mode not in (None, "ansi"):
            raise BadInputError(f"render_mode is 'ansi' (text) or None, not {render_mode!r}")
        alike = type(self).tools_for is ToolEnv.tools_for
        self.system, self.limits = check_system(system), Limits(max_calls, max_tokens)
        self.descriptions = check_descriptions(descriptions)
        if self.descriptions and alike and format.strategy.tools:
            toolset = toolset.described(self.descriptions)
        self.tasks, self._toolset, self.format, self.rubric = tasks, toolset, format, rubric
        self.max_steps, self.render_mode = int(max_steps), render_mode
        self.max_reply_chars, self.max_result_chars = int(max_reply_chars), int(max_result_chars)
        self.examples = read_examples(examples, format, toolset if alike else None, bundled)
        self.action_space = UnicodeText(sampler=ActionSampler(format, toolset))
        self.observation_space = UnicodeText(max_length=100_000_000)
        self.user = user
        self._episode: Episode | None = None
        self._finished: Trajectory | None = None
        self._ended = True

    def hidden_for(self, task: Task) -> Collection[str]:
        """Tools of a task that the policy may not call until its user shows them, if ever."""
        return ()

    def user_for(self, task: Task) -> User | None:
        """Who speaks in an episode of a task; None: nobody, an answer ends it."""
        return self.user(task) if self.user is not None else None

    @property
    def trajectory(self) -> Trajectory:
        """A copy of the record of the current episode.

        Raises:
            EpisodeEndedError: before the first reset.
        """
        return self._current().record.copy()

    @property
    def finished(self) -> Trajectory | None:
        """A copy of the record of the episode that ended last; kept until the next one ends.

        For vector environments, which may reset before their user can read `trajectory`.
        """
        return self._finished.copy() if self._finished is not None else None

    @property
    def current_tools(self) -> Toolset:
        """The tools of the current episode; none under a strategy without tools."""
        episode = self._episode
        if episode is None:
            return _EMPTY
        if episode.tools.shared:
            own = episode.tools is self._toolset
            episode.tools = self.toolset if own else episode.tools.fork()
        return episode.tools

    @property
    def playing_tools(self) -> Toolset:
        """As `current_tools`, but not to be changed: those of several episodes may be the same."""
        return self._episode.tools if self._episode is not None else _EMPTY

    @property
    def episode(self) -> str:
        """Task and sample of the current episode, as `Trajectory.id`.

        Raises:
            EpisodeEndedError: before the first reset.
        """
        return self._current().record.id

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
        self.end()
        record = Trajectory(
            task=task,
            env_id=self.spec.id if self.spec is not None else "",
            format=self.format.name,
            seed=seed,
            sample=sample,
            examples=len(self.examples),
        )
        tools, hidden = self.open_tools(task), list(self.hidden_for(task))
        episode = self._episode = Episode(record, tools, hidden, self.user_for(task))
        record.tools = episode.schemas
        record.messages = self.opening(episode.schemas, task.question)
        self._ended = False
        return "\n\n".join(message.content for message in record.messages), episode.info()

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
        tools = self.playing_tools
        results = tools.execute(calls, [self.episode] * len(calls)) if calls else []
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
        if self._ended or self._episode is None:
            why = "the episode has ended" if self._episode else "no episode yet"
            raise EpisodeEndedError(f"{why}: call reset() before step()")
        episode, most = self._episode, self.format.strategy.tool_turns
        refused = most is not None and episode.tool_turns >= most
        limit, count = self.max_reply_chars, episode.call_count
        begun = begin_turn(action, self.format, episode.schemas, limit, count, refused)
        if self.limits:
            written = action.written if isinstance(action, Turn) else None
            self.limits.hold(begun, count, episode.tokens, written)
        episode.begun = begun
        return begun.made

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
        episode = self._episode
        begun = episode.begun if episode is not None else None
        if episode is None or begun is None:
            raise EpisodeEndedError("no step was begun: call begin() before finish()")
        episode.begun = None
        calls, results = begun.parsed.calls, list(results)
        if begun.refused or begun.allowed is not None:
            results += refusals(begun)
        if len(results) != len(calls):
            raise BadInputError(f"{len(calls)} calls need a result each, not {len(results)}")
        shown, record = list(map(self.shown, results)), episode.record
        step = episode.add(begun, shown, seconds, self.format, self.max_reply_chars)
        record.terminated, cut = self.ends(record)
        cut = cut or (bool(self.limits) and self.tokens_left == 0)
        record.truncated = cut and not record.terminated
        self._ended = record.terminated or record.truncated
        self.rubric.apply(record, last_only=True)
        if self._ended:
            self._finished = record
            episode.every.end()
        return step.observation, step.reward, record.terminated, record.truncated, episode.info()

    def opening(self, schemas: Sequence[Schema], question: str) -> list[Message]:
        """The beginning of a conversation: system text, instructions, worked examples, question.

        Args:
            schemas: function-calling documents of the tools.
            question: of the task.
        """
        messages = opening(self.format, schemas, question, self.examples)
        note = self.limits.told(bool(schemas)) if self.limits else ""
        return with_system(messages, self.system, note) if note or self.system else messages

    @property
    def tokens_left(self) -> int | None:
        """Tokens that the policy may still write in this episode; None: any number."""
        return self.limits.tokens_left(self._episode.tokens if self._episode is not None else 0)

    def ends(self, record: Trajectory) -> tuple[bool, bool]:
        """Whether the last step ends the episode, by itself or at a limit; others may see more.

        Args:
            record: with that step; ``terminated`` says whether it gave the last answer.
        """
        return record.terminated, len(record.steps) >= self.max_steps

    def amend(self, seen: str, reward: float, terminated: bool, truncated: bool) -> None:
        """Record of the last step what the wrappers around this environment made of it.

        Args:
            seen: the observation.
            reward: in place of the rubric's, whose parts stay as they are.
            terminated: whether the episode has ended.
            truncated: whether it was ended at a limit.
        """
        record = self._current().record
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
        return "\n\n".join(f"[{m.role}]\n{m.content}" for m in self._current().record.messages)

    def close(self) -> None:
        """End the sessions of the episode, and the tools' idle child processes.

        Environments that share the tools go on working.
        """
        self.end()
        self._toolset.close()
        self.playing_tools.close()

    def _current(self) -> Episode:
        if self._episode is None:
            raise EpisodeEndedError("no episode yet: call reset() first")
        return self._episode

    def _choose(self, options: dict[str, Any]) -> int:
        for option in options:
            if option not in ("task", "sample"):
                raise BadInputError(f"unknown reset option {option!r}; options: 'task', 'sample'")
        task = options.get("task")
        if task is None:
            return int(self.np_random.integers(len(self.tasks)))
        return self.tasks.index_of(task)
