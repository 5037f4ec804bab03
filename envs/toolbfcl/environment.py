"""``ToolBFCL-v0``: dialogues with tools that remember, and single turns judged by their syntax."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from toolgym.env import ToolEnv, offers_own_tools, refuse_unknown
from toolgym.envs.toolbfcl.data import gold_plan, open_tasks, user_turns
from toolgym.envs.toolbfcl.sessions import tools_of
from toolgym.episodes.users import ScriptedUser, User, UserTurn
from toolgym.errors import BadInputError, PolicyError, UnknownNameError
from toolgym.formats import Action, get_format
from toolgym.grading.rubric import make_rubric
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request
from toolgym.spaces import ActionSampler, UnicodeText
from toolgym.task import Task, whole_number
from toolgym.tools.toolset import Toolset, refuse_descriptions
from toolgym.trajectory import Trajectory
from toolgym.vector import ToolVectorEnv

__all__ = ["ID", "BFCLEnv", "PlanPolicy", "make", "make_vector", "plan_of"]

ID = "ToolBFCL-v0"
_PLANS = ("gold", "empty", "shuffled", "mixed")


class BFCLEnv(ToolEnv):
    """A `ToolEnv` over tasks of the leaderboard.

    A reply with calls goes on with the user turn, one without ends it; after the last one the
    episode ends. A task of one turn ends with the first reply.

    Args:
        offered: whether the policy is given the functions of its tasks.
        turn_steps: replies with calls in one user turn; one more ends the episode.
        given: see `ToolEnv`.
        bounds: see `ToolEnv`.
    """

    def __init__(
        self, *given: Any, offered: bool = True, turn_steps: int = 20, **bounds: Any
    ) -> None:
        super().__init__(*given, **bounds)
        self._offered = offered and self.format.strategy.tools
        if self.descriptions and self._offered:
            known = {name: "" for task in self.tasks for name in tools_of(task).names}
            refuse_descriptions(self.descriptions, known)
        self.turn_steps = whole_number("turn_steps", turn_steps, least=1)
        sampler = ActionSampler(self.format, self.tools_for(self.tasks[0]))
        self.action_space = UnicodeText(sampler=sampler)

    def tools_for(self, task: Task) -> Toolset:
        """The functions of one task."""
        return tools_of(task) if self._offered else Toolset()

    def hidden_for(self, task: Task) -> Collection[str]:
        """Functions that its user shows in a later turn."""
        return [name for _, names in self._turns(task) for name in names]

    def user_for(self, task: Task) -> User | None:
        """Who says the turns of a task."""
        turns = self._turns(task)
        return ScriptedUser([UserTurn(text, names) for text, names in turns]) if turns else None

    def _turns(self, task: Task) -> list[tuple[str, tuple[str, ...]]]:
        return [(text, names if self._offered else ()) for text, names in user_turns(task)]

    def ends(self, record: Trajectory) -> tuple[bool, bool]:
        """As `ToolEnv.ends`; also a task of one turn, and too many steps in a user turn."""
        terminated, cut = super().ends(record)
        if "classes" not in record.task.metadata:
            return terminated or bool(record.steps[-1].calls), True
        since = 0
        for step in reversed(record.steps):
            if step.answer is not None:
                break
            since += 1
        return terminated, cut or since > self.turn_steps


def make(
    tasks: Any = "multi_turn",
    split: str | None = None,
    tools: Sequence[str] | None = None,
    prompt: str = "tools_multi_step",
    format: str = "hermes",
    reward: Any = None,
    max_steps: int = 200,
    turn_steps: int = 20,
    max_reply_chars: int = 100_000,
    max_result_chars: int = 100_000,
    render_mode: str | None = None,
    examples: Any = 0,
    system: str | None = None,
    descriptions: Mapping[str, str] | None = None,
    max_calls: int | None = None,
    max_tokens: int | None = None,
    **unknown: Any,
) -> BFCLEnv:
    """Make an environment; the data come from the installed ``bfcl-eval``.

    Args:
        tasks: ``multi_turn``, ``single_turn``, ``non_live``, ``live``, ``all``, or a category of
            them, such as ``multi_turn_miss_func``; the path of a ``.jsonl`` file, or a list of rows
            or tasks with the same columns.
        split: one category of these.
        tools: None for each task's own; an empty list for none.
        prompt: the prompting strategy.
        format: the codec of the policy's text.
        reward: ``{name: weight}``; default ``{"bfcl": 1.0}``.
        max_steps: replies until truncation.
        turn_steps: replies with calls in one user turn; one more truncates, as published.
        max_reply_chars: characters of a reply that are read.
        max_result_chars: characters of a tool result that the policy sees.
        render_mode: ``ansi`` or None.
        examples: worked examples: the path of a file, or a list; none is bundled.
        system: text of the system message, before the format's instructions, or around them
            where it says ``{instructions}``.
        descriptions: what the policy is told of a tool, by its name.
        max_calls: tool calls of an episode.
        max_tokens: tokens that the policy writes in an episode.
        unknown: refused with near names.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
        UnknownNameError: an unknown format, prompt or reward.
        MissingFileError: the tasks are none of these.
        BadInputError: anything else that is wrong with an argument.
    """
    refuse_unknown(ID, make, unknown)
    return BFCLEnv(
        open_tasks(tasks, split),
        Toolset(),
        get_format(format, prompt),
        make_rubric({"bfcl": 1.0} if reward is None else reward),
        offered=offers_own_tools(ID, tools),
        turn_steps=turn_steps,
        max_steps=max_steps,
        max_reply_chars=max_reply_chars,
        max_result_chars=max_result_chars,
        render_mode=render_mode,
        examples=examples,
        system=system,
        descriptions=descriptions,
        max_calls=max_calls,
        max_tokens=max_tokens,
    )


def make_vector(num_envs: int, **kwargs: Any) -> ToolVectorEnv:
    """Make environments whose steps are played together.

    Args:
        num_envs: how many.
        kwargs: see `make`; what it raises comes here, too.
    """
    return ToolVectorEnv.of(make, num_envs, **kwargs)


def plan_of(task: Task, plan: str = "gold", seed: int = 0) -> list[Action]:
    """What a policy says that knows the gold plan, or spoils it.

    Args:
        task: of `toolgym.envs.toolbfcl.data.open_tasks`.
        plan: ``gold``: the calls of each user turn in one reply, then an answer. ``empty``: answers
            alone. ``shuffled``: the calls of each turn in another order. ``mixed``: the calls of
            all turns in another order, as many in each turn as there were.
        seed: of the order.

    Raises:
        UnknownNameError: another plan.
    """
    if plan not in _PLANS:
        raise UnknownNameError("plan", plan, _PLANS)
    gold = gold_plan(task)
    if "classes" in task.metadata:
        turns = [[(item["name"], item["arguments"]) for item in turn] for turn in gold]
    else:
        turns = [[_accepted(task, call) for call in gold]]
        if task.metadata["category"] == "live_relevance":  # where nobody says which call
            turns = [[(tools_of(task).names[0], {})]]
    rng = random.Random(f"{task.id} {seed}")
    if plan == "mixed":
        every = [call for turn in turns for call in turn]
        rng.shuffle(every)
        turns = [[every.pop() for _ in turn] for turn in turns]
    said = []
    for turn in turns:
        if plan == "shuffled":
            rng.shuffle(turn)
        calls = [ToolCall(f"call_{n}", *call) for n, call in enumerate(turn)]
        if calls and plan != "empty":
            said.append(Action("I make the calls of this turn.", tuple(calls)))
        said.append(Action("", (), "That is done."))
    return said


def _accepted(task: Task, call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A call that is accepted, of acceptable values; an empty text says: it may be left out."""
    ((name, given),) = call.items()
    (document,) = [item for item in task.metadata["functions"] if item["name"] == name]
    schemas, needed = document["parameters"]["properties"], document["parameters"]["required"]
    arguments = {}
    for parameter, values in given.items():
        if "" in values and parameter not in needed:
            continue
        value = next((value for value in values if value != ""), "")
        if isinstance(value, dict):
            value = _entries(value)
        elif isinstance(value, list):
            value = [_entries(item) if isinstance(item, dict) else item for item in value]
        if "java" in task.metadata["category"]:
            script = "javascript" in task.metadata["category"]
            value = _code(value, schemas[parameter], script)
        arguments[parameter] = value
    return name, arguments


def _entries(given: dict[str, Any]) -> dict[str, Any]:
    """An object of acceptable values: the first of each that may not be left out."""
    return {name: values[0] for name, values in given.items() if "" not in values}


def _code(value: Any, schema: Mapping[str, Any], script: bool) -> str:
    """A value as Java or JavaScript writes it, in the few forms that the published check reads.

    Args:
        value: a string is code already, or text as it stands.
        schema: as published, of the parameter.
        script: in JavaScript.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        inner = schema.get("items", {})
        bare = [_code(item, inner, script) for item in value]
        quoted = [
            f'"{text}"' if isinstance(v, str) else text for v, text in zip(value, bare, strict=True)
        ]
        if script:
            return f"[{', '.join(quoted)}]"
        if schema["type"] == "Array":
            return f"new Object[]{{{', '.join(bare)}}}"
        return f"new ArrayList<>(Arrays.asList({', '.join(quoted)}))"
    if isinstance(value, dict) and script:
        pairs = [f"{key}: {_code(item, {}, True)}" for key, item in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, dict):
        puts = [f"put({json.dumps(key)}, {json.dumps(item)});" for key, item in value.items()]
        return f"new HashMap<>() {{{{ {' '.join(puts)} }}}}"
    return f"{value}L" if schema.get("type") == "long" else str(value)


class PlanPolicy(Policy):
    """Plays the gold plan of each task, or a spoiled one; see `plan_of`.

    Args:
        tasks: as the environment's argument.
        plan: ``gold``, ``empty``, ``shuffled`` or ``mixed``.
        parallel: False makes one call a reply.
        seed: of another order.

    Raises:
        UnknownNameError: another plan.
    """

    batched: ClassVar[bool] = True

    def __init__(
        self, tasks: Any = "all", plan: str = "gold", parallel: bool = True, seed: int = 0
    ) -> None:
        if plan not in _PLANS:
            raise UnknownNameError("plan", plan, _PLANS)
        self._tasks, self._source = open_tasks(tasks), tasks
        self._plan, self._parallel, self._seed = plan, parallel, seed

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Say the next part of each plan; a task of another source is a `PolicyError`."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        name = request.episode.rpartition("#")[0]
        try:
            task = self._tasks[self._tasks.index_of(name)]
        except BadInputError as error:
            return PolicyError(f"{error}: name the tasks that the environment plays")
        said = plan_of(task, self._plan, self._seed)
        if not self._parallel:
            apart = [[replace(a, calls=(call,)) for call in a.calls] or [a] for a in said]
            said = [action for actions in apart for action in actions]
        return Reply(request.format.write(said[min(request.turn, len(said) - 1)], request.tools))

    def describe(self) -> dict[str, Any]:
        """Its name and settings."""
        told = {"policy": "bfcl-plan", "tasks": self._source, "plan": self._plan}
        return told | {"parallel": self._parallel, "seed": self._seed}
