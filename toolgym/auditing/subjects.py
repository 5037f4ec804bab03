"""What is audited: one face for our environments and for all others.

A subject lives in a process of its own (`toolgym.auditing.processes`), which can be ended where a
step never returns. It knows its tasks by number, plays one episode at a time, and says how an
answer and a call are written for it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from toolgym.env import ToolEnv
from toolgym.errors import BadInputError
from toolgym.formats import Action
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request

__all__ = [
    *("FORMS", "Facts", "GymSubject", "Item", "Outcome", "Subject", "ToolSubject", "texts_of"),
]

FORMS = ("{}", "Answer: {}", "<answer>{}</answer>", "\\boxed{{}}", "#### {}")
"""Ways of writing an answer that are tried where nobody says which one is right."""


@dataclass(frozen=True, slots=True)
class Item:
    """One task.

    Args:
        number: of the task, by which it is played.
        key: its name.
        prompt: what the policy reads first.
        golds: answers that must earn all; empty where none is known.
        tools: documents of the tools, as JSON; empty without tools.
    """

    number: int
    key: str
    prompt: str
    golds: tuple[str, ...] = ()
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave.

    Args:
        observation: that the policy reads next.
        reward: as it came, whatever it is.
        ended: the episode is over.
    """

    observation: str
    reward: Any
    ended: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a subject before anything is played.

    Args:
        name: of the environment.
        kind: such as ``gymnasium``.
        count: tasks that there are; None: as many as there are seeds.
        low: least reward of an episode; None: not declared.
        high: the greatest.
        turns: an episode may have more than one turn.
        drawn: tasks are drawn by seed: another seed may give the same one.
        forms: ways of writing an answer, the first that earns is taken.
        tools: names of tools that a script may call.
        oracle: a policy plays the reference solution.
        own_gold: the golds are the environment's own, so that one which earns nothing is a defect
            whatever the form.
    """

    name: str
    kind: str
    count: int | None
    low: float | None = None
    high: float | None = None
    turns: bool = True
    drawn: bool = False
    forms: tuple[str, ...] = ("{}",)
    tools: tuple[str, ...] = ()
    oracle: bool = False
    own_gold: bool = True


@dataclass
class Subject(ABC):
    """An environment as the audit plays it; at most one episode at a time."""

    form: str = field(default="{}", init=False)

    @abstractmethod
    def facts(self) -> Facts:
        """See `Facts`."""

    @abstractmethod
    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Tasks by number."""

    @abstractmethod
    def reset(self, number: int) -> str:
        """Begin an episode; the opening as text."""

    @abstractmethod
    def step(self, reply: str) -> Outcome:
        """Play one turn."""

    def held_out(self, count: int) -> list[Item] | None:
        """Tasks of the other split, at most so many; None: there is none."""
        return None

    def answer(self, text: str) -> str:
        """The reply that gives an answer."""
        return self.form.replace("{}", text)

    def call(self, name: str, text: str) -> str:
        """The reply that calls a tool with a text as each of its arguments."""
        return text

    def accepts(self, reply: str) -> bool:
        """Whether the environment's own rules let a policy say this at all."""
        return True

    def oracle(self, number: int) -> list[str] | None:
        """The replies of the reference solution, where a policy plays it; None: say the gold."""
        return None

    def record(self) -> dict[str, Any] | None:
        """The episode as a row of ``trajectories.jsonl``; None: the audit writes it itself."""
        return None

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what is held."""


def texts_of(value: Any) -> tuple[str, ...]:
    """Gold answers as texts, from a text, a number, a list of them, or nothing."""
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(text for each in value for text in texts_of(each))
    if isinstance(value, bool | int | float | str):
        return (str(value),)
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, default=str),)


Gold = Callable[[Any, Mapping[str, Any]], Any]


def _gold_reader(gold: str | Gold | None) -> Gold | None:
    """``info:KEY`` and ``attr:NAME`` as functions of the environment and the info of a reset."""
    if gold is None or callable(gold):
        return gold
    kind, _, name = gold.partition(":")
    if kind == "info" and name:
        return lambda env, info: info.get(name)
    if kind == "attr" and name:
        return lambda env, info: getattr(env.unwrapped, name, None)
    raise BadInputError(
        f"a gold is info:KEY, attr:NAME or a function of env and info, not {gold!r}"
    )


class GymSubject(Subject):
    """A text environment of gymnasium; its tasks are seeds.

    Args:
        env: the environment; its observations are texts.
        name: for the report.
        gold: where the gold answer of a task is found after a reset, see `_gold_reader`.
        form: how an answer is written; None: the forms of `FORMS` are tried.
        reward_range: least and greatest reward of an episode.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        name: str,
        gold: str | Gold | None = None,
        form: str | None = None,
        reward_range: tuple[float, float] | None = None,
    ) -> None:
        self.form = "{}"
        self._env, self._name, self._gold = env, name, _gold_reader(gold)
        self._forms = (form,) if form else FORMS
        self._range = reward_range or (None, None)

    def facts(self) -> Facts:
        """Drawn by seed; nothing is known of the reward unless it was said."""
        told = (self._name, "gymnasium", None)
        low, high = self._range
        return Facts(
            *told, low, high, drawn=True, forms=self._forms, own_gold=self._gold is not None
        )

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Each seed's opening, and its gold."""
        found = []
        for number in numbers:
            prompt, info = self._reset(number)
            golds = () if self._gold is None else texts_of(self._gold(self._env, info))
            found.append(Item(number, f"seed-{number}", prompt, golds, _tools_text(info)))
        return found

    def reset(self, number: int) -> str:
        """By seed."""
        return self._reset(number)[0]

    def _reset(self, number: int) -> tuple[str, Mapping[str, Any]]:
        given = self._env.reset(seed=number)
        if not isinstance(given, tuple) or len(given) != 2:
            raise TypeError(f"reset() returned {type(given).__name__}, not (observation, info)")
        return _as_text(given[0]), given[1]

    def step(self, reply: str) -> Outcome:
        """One step."""
        given = self._env.step(reply)
        if not isinstance(given, tuple) or len(given) != 5:
            raise TypeError("step() returned no (observation, reward, terminated, truncated, info)")
        return Outcome(_as_text(given[0]), given[1], bool(given[2] or given[3]))

    def accepts(self, reply: str) -> bool:
        """Whether the action space holds it."""
        return bool(self._env.action_space is None or reply in self._env.action_space)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the observation is {type(value).__name__}, not a text: {value!r:.80}")
    return value


def _tools_text(info: Mapping[str, Any]) -> str:
    tools = info.get("tools") if isinstance(info, Mapping) else None
    return json.dumps(tools, ensure_ascii=False, default=str) if tools else ""


class ToolSubject(Subject):
    """An environment of ours.

    Args:
        env: without wrappers.
        name: its id.
        policy: plays the reference solution; None: the gold is said at once.
    """

    def __init__(self, env: ToolEnv, name: str, policy: Policy | None = None) -> None:
        self.form = "{}"
        self._env, self._name, self._policy = env, name, policy

    def facts(self) -> Facts:
        """Its tasks are a finite set; what an episode can earn is what its solution earns."""
        told = (self._name, "toolgym", len(self._env.tasks))
        self._env.reset(options={"task": 0})
        tools = tuple(tool["function"]["name"] for tool in self._env.trajectory.tools)
        return Facts(*told, tools=tools, oracle=self._policy is not None)

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Question and answers of each task; the prompt is its opening."""
        found = []
        for number in numbers:
            task = self._env.tasks[number]
            prompt = self.reset(number)
            tools = json.dumps(self._env.trajectory.tools, ensure_ascii=False)
            golds = tuple(answer for answer in task.answers if answer)
            found.append(Item(number, task.id, prompt, golds, tools))
        return found

    def reset(self, number: int) -> str:
        """The task of that number."""
        return self._env.reset(seed=number, options={"task": number})[0]

    def step(self, reply: str) -> Outcome:
        """One turn."""
        seen, reward, terminated, truncated, _ = self._env.step(reply)
        return Outcome(seen, reward, terminated or truncated)

    def answer(self, text: str) -> str:
        """As its format writes it."""
        return self._env.format.write(Action("", (), text), self._env.trajectory.tools)

    def call(self, name: str, text: str) -> str:
        """As its format writes it."""
        tools = self._env.trajectory.tools
        known = {tool["function"]["name"]: tool["function"] for tool in tools}
        parameters = known.get(name, {}).get("parameters", {}).get("properties", {"input": {}})
        call = ToolCall("call_0", name, dict.fromkeys(parameters, text))
        return self._env.format.write(Action("", (call,)), tools)

    def oracle(self, number: int) -> list[str] | None:
        """The replies of its policy, from an episode that it plays."""
        if self._policy is None:
            return None
        self.reset(number)
        replies: list[str] = []
        while not self._env.ended:
            record = self._env.trajectory
            messages = [message.to_chat() for message in record.messages]
            told = (messages, record.documents, self._env.format, number, record.id)
            asked = Request(*told, turn=len(replies), examples=record.examples)
            (reply,) = self._policy.act([asked])
            if not isinstance(reply, Reply):
                raise reply
            replies.append(reply.text)
            self._env.step(reply.turn)
        self._policy.forget(self._env.trajectory.id)
        return replies

    def record(self) -> dict[str, Any] | None:
        """Its own record."""
        return self._env.trajectory.to_row()

    def close(self) -> None:
        """End sessions and child processes."""
        self._env.close()
