"""The record of an episode and its versioned JSONL form."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from toolgym._util.differences import Change, difference, undone
from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import copy_json, exact_line
from toolgym.errors import BadInputError
from toolgym.messages import Message, ToolCall, ToolResult, cut_after, opening_length
from toolgym.task import Task
from toolgym.trajectory.showing import OnSight

__all__ = ["MALFORMED_CALLS", "SCHEMA", "Problem", "Step", "Tokens", "Trajectory"]

SCHEMA = 3
"""Version of the JSONL form that is written; readers take versions 1 and 2, too."""

_FAULT_OF_1 = re.compile(
    r"injected_(?P<kind>timeout|tool_error|empty|garbled|slow)(?: (?P<seconds>\S+) s)?$", re.M
)
_NOTHING_OF_1 = "No result for "
MALFORMED_CALLS = frozenset({"no_call", "unclosed_call", "bad_json", "bad_call", "loose_call"})
"""Problems that are an attempt to call a tool which could not be read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What was wrong with a reply, in a word for machines and a line for the policy.

    Args:
        kind: such as ``no_call``, ``unclosed_call``, ``bad_json``, ``too_long``.
        message: told to the policy.
    """

    kind: str
    message: str


@dataclass(slots=True)
class Step:
    """One assistant turn and what came of it.

    Args:
        action: the reply exactly as the policy wrote it.
        calls: the tool calls parsed from it.
        results: one for each call, in the same order.
        problems: what was wrong with the reply.
        answer: the final answer that this turn gave, or None.
        observation: the new text that the policy read next; empty at the end.
        reward: the weighted sum over ``reward_parts``.
        reward_parts: unweighted value of each reward function, by name.
        seconds: time spent in tools; never part of ``info``, since clocks are not deterministic.
        cut: the reply ended at the limit of its length, in the middle.
        state_hash: of what the sessions' state is after this step; None without sessions.
        state_diff: what of the state changed in this step.
        user: what the user said after this turn; None: nothing.
        user_calls: calls that the user made of tools of his own.
        user_results: one for each of them.
        appeared: documents of tools that can be called from the next turn on.
    """

    action: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    problems: tuple[Problem, ...] = ()
    answer: str | None = None
    observation: str = ""
    reward: float = 0.0
    reward_parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cut: bool = False
    state_hash: str | None = None
    state_diff: tuple[Change, ...] = ()
    user: str | None = None
    user_calls: tuple[ToolCall, ...] = ()
    user_results: tuple[ToolResult, ...] = ()
    appeared: tuple[dict[str, Any], ...] = ()

    def remember(self, before: Any, after: Any) -> None:
        """Record what the sessions' state is after this step, and what of it changed.

        Args:
            before: the state, plain JSON.
            after: the state that is the step's own, plain JSON.
        """
        self.state_hash = value_hash(after)
        self.state_diff = tuple(difference(before, after)) if before is not after else ()

    @property
    def final(self) -> str | None:
        """The answer that ended the episode: one to which no user spoke again."""
        return self.answer if self.user is None else None


@dataclass(slots=True)
class Tokens:
    """An episode as the policy's own token ids.

    Args:
        prompt_ids: [prompt] the first prompt.
        completion_ids: [completion] everything after it: replies and tool output.
        mask: [completion] 1 = written by the policy, 0 = tool output and template.
        logprobs: [completion] log-probability of each policy token under the sampling
            distribution at temperature 1, 0.0 where the mask is 0; or None.
        tokenizer: hash of the tokenizer's vocabulary and chat template.
        guided: in some turn a grammar decided which tokens could be sampled. The log-probabilities
            are the model's own there, not those of the distribution that was sampled from.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[int]
    logprobs: list[float] | None = None
    tokenizer: str = ""
    guided: bool = False


@dataclass(slots=True, repr=False)
class Trajectory(OnSight):
    """The record of one episode.

    Args:
        task: the problem, gold answers included.
        messages: the whole conversation.
        steps: one a turn.
        tools: function-calling documents that the policy was given.
        env_id: the environment's id.
        format: the codec that read the replies.
        terminated: the policy gave an answer.
        truncated: the episode was cut at ``max_steps``.
        seed: seed of the episode.
        sample: number of the rollout within its group (several rollouts of one task).
        tokens: set when the policy can say its tokens; None means that training re-tokenises.
        metrics: numbers measured later, by name.
        examples: worked examples that stand in the messages, between instructions and question.
        state: of the episode's sessions after the last step, plain JSON; None without sessions.
    """

    task: Task
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    env_id: str = ""
    format: str = ""
    terminated: bool = False
    truncated: bool = False
    seed: int | None = None
    sample: int = 0
    tokens: Tokens | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    examples: int = 0
    state: Any = None

    @property
    def opening(self) -> int:
        """How many messages stand before the policy's own first reply."""
        return opening_length([m.role for m in self.messages], len(self.steps), self.examples)

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The tools' documents, also of those that a user showed later."""
        return [*self.tools, *(document for step in self.steps for document in step.appeared)]

    @property
    def id(self) -> str:
        """Task and sample: unique within a run."""
        return f"{self.task.id}#{self.sample}"

    @property
    def answer(self) -> str | None:
        """The policy's own final answer, or None when it gave none."""
        return self.steps[-1].final if self.steps else None

    @property
    def calls(self) -> Iterator[tuple[ToolCall, ToolResult]]:
        """All calls with their results, in order."""
        return (
            (c, r) for step in self.steps for c, r in zip(step.calls, step.results, strict=True)
        )

    @property
    def reward(self) -> float:
        """The sum over the steps."""
        return sum(step.reward for step in self.steps)

    def state_after(self, steps: int) -> Any:
        """The sessions' state after so many steps, from the last one and what each step changed.

        Args:
            steps: 0 for the state that the episode began with.

        Returns:
            Plain JSON of its own, or None without sessions.

        Raises:
            BadInputError: there are not as many steps.
        """
        if not 0 <= steps <= len(self.steps):
            raise BadInputError(f"the episode has {len(self.steps)} steps, not {steps!r}")
        found = copy_json(self.state)
        for step in reversed(self.steps[steps:]):
            found = undone(found, step.state_diff)
        return found

    def copy(self) -> Trajectory:
        """A copy that can be changed apart; several times faster than ``copy.deepcopy``."""
        return replace(
            self,
            task=replace(self.task, metadata=copy_json(self.task.metadata)),
            messages=[message.copy() for message in self.messages],
            steps=[
                replace(
                    step,
                    calls=tuple(call.copy() for call in step.calls),
                    reward_parts=dict(step.reward_parts),
                )
                for step in self.steps
            ],
            tools=copy_json(self.tools),
            tokens=copy.deepcopy(self.tokens),
            metrics=dict(self.metrics),
            state=copy_json(self.state),
        )

    def to_row(self, tools: str | None = None) -> dict[str, Any]:
        """The trajectory as plain JSON values; ``tools`` stands in place of the documents."""
        row: dict[str, Any] = {
            "schema": SCHEMA,
            "id": self.id,
            "env_id": self.env_id,
            "format": self.format,
            "task": self.task.to_row(),
            "sample": self.sample,
            "seed": self.seed,
            "messages": [message.to_chat() for message in self.messages],
            "tools": self.tools if tools is None else tools,
            "steps": [_step_row(step) for step in self.steps],
            "answer": self.answer,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "reward": self.reward,
        }
        if self.tokens is not None:
            row["tokens"] = _tokens_row(self.tokens)
        if self.metrics:
            row["metrics"] = self.metrics
        if self.examples:
            row["examples"] = self.examples
        return row if self.state is None else row | {"state": self.state}

    def to_line(self, tools: str | None = None) -> str:
        """The row, see `to_row`, as a line of strict JSON that reads back as this trajectory.

        Raises:
            BadInputError: JSON cannot hold it; what it is stands in the message.
        """
        return exact_line(self.to_row(tools))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Trajectory:
        """Read what `to_row` wrote, now or in version 1 or 2.

        Raises:
            BadInputError: another version, not a trajectory, or one whose tools stand elsewhere.
        """
        if row.get("schema") not in (1, 2, SCHEMA):
            raise BadInputError(
                f"trajectory schema {row.get('schema')!r} is not 1, 2 or {SCHEMA}: another version "
                "of toolgym wrote it, or it is not a trajectory"
            )
        if isinstance(row.get("tools"), str):
            raise BadInputError(
                f"its tools stand in 'tools.jsonl' of its folder under {row['tools']!r}: read the "
                "file with toolgym.trajectory.read_trajectories, or as a run"
            )
        read = _step_of_1 if row["schema"] == 1 else _step_of_2
        try:
            return cls(
                task=Task.from_row(row["task"]),
                messages=[Message.from_chat(chat) for chat in row["messages"]],
                steps=[read(item) for item in row["steps"]],
                tools=list(row["tools"]),
                env_id=row["env_id"],
                format=row["format"],
                terminated=row["terminated"],
                truncated=row["truncated"],
                seed=row["seed"],
                sample=row["sample"],
                tokens=Tokens(**row["tokens"]) if "tokens" in row else None,
                metrics=dict(row.get("metrics", {})),
                examples=row.get("examples", 0),
                state=row.get("state"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInputError(f"not a trajectory row: {error!r}") from error


def _step_row(step: Step) -> dict[str, Any]:
    row: dict[str, Any] = {"action": step.action}
    if step.calls:
        row["calls"] = _call_rows(step.calls)
        row["results"] = [_result_row(result) for result in step.results]
    if step.problems:
        row["problems"] = [{"kind": p.kind, "message": p.message} for p in step.problems]
    if step.answer is not None:
        row["answer"] = step.answer
    row |= {"observation": step.observation, "reward": step.reward}
    row |= {"reward_parts": step.reward_parts, "seconds": round(step.seconds, 6)}
    if step.cut:
        row["cut"] = True
    if step.state_hash is not None:
        row |= {"state_hash": step.state_hash, "state_diff": list(step.state_diff)}
    if step.user is not None:
        row["user"] = step.user
    if step.user_calls:
        row["user_calls"] = _call_rows(step.user_calls)
        row["user_results"] = [_result_row(result) for result in step.user_results]
    return row | {"appeared": list(step.appeared)} if step.appeared else row


def _call_rows(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    return [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in calls]


def _result_row(result: ToolResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "call_id": result.call_id,
        "content": result.content,
        "error": result.error,
    }
    if result.detail is not None:
        row["detail"] = result.detail
    if result.fault is not None:
        row["fault"] = result.fault
    if result.added_seconds:
        row["added_seconds"] = result.added_seconds
    if result.shown is not None:
        row["shown"] = result.shown
    return row | {"empty": True} if result.empty else row


def _step_of_2(row: Mapping[str, Any]) -> Step:
    return Step(
        action=row["action"],
        calls=tuple(ToolCall(**item) for item in row.get("calls", ())),
        results=tuple(ToolResult(**item) for item in row.get("results", ())),
        problems=tuple(Problem(**item) for item in row.get("problems", ())),
        answer=row.get("answer"),
        observation=row["observation"],
        reward=row["reward"],
        reward_parts=dict(row["reward_parts"]),
        seconds=row["seconds"],
        cut=row.get("cut", False),
        state_hash=row.get("state_hash"),
        state_diff=tuple(row.get("state_diff", ())),
        user=row.get("user"),
        user_calls=tuple(ToolCall(**item) for item in row.get("user_calls", ())),
        user_results=tuple(ToolResult(**item) for item in row.get("user_results", ())),
        appeared=tuple(row.get("appeared", ())),
    )


def _step_of_1(row: Mapping[str, Any]) -> Step:
    """A step of schema 1, in which faults, cuts and searches without a hit stood in texts."""
    step = _step_of_2(row)
    step.results = tuple(_result_of_1(result, step.observation) for result in step.results)
    return step


def _result_of_1(result: ToolResult, observation: str) -> ToolResult:
    result = replace(result, empty=not result.error and result.content.startswith(_NOTHING_OF_1))
    for mark in (result.error, result.detail):
        found = _FAULT_OF_1.match(mark or "")
        if found is not None:
            rest = (result.detail or "").partition("\n")[2] or None
            seconds = float(found["seconds"] or 0)
            result = replace(result, detail=rest, fault=found["kind"], added_seconds=seconds)
            break
    mark = cut_after(result.content, 0)
    end = observation.find(mark)
    begin = observation.find(result.content[: min(40, end)]) if end > 0 else -1
    shown = result.content[: end - begin] if 0 <= begin < end else ""
    if shown and observation[begin:end] == shown:
        return replace(result, shown=len(shown))
    return result


def _tokens_row(tokens: Tokens) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt_ids": tokens.prompt_ids, "completion_ids": tokens.completion_ids}
    row["mask"] = tokens.mask
    if tokens.logprobs is not None:
        row["logprobs"] = tokens.logprobs
    row["tokenizer"] = tokens.tokenizer
    return row | {"guided": True} if tokens.guided else row
