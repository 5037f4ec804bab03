"""Checks of tools, rewards, formats and environments against their contracts.

Each check runs real probes and raises `CheckError` with the likely cause. toolgym's own tests run
them over every registered name; run them over yours.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from toolgym.checks.probes import (
    SEARCH,
    ProbeReport,
    actions,
    episodes,
    junk,
    prefix,
    probe_reward,
    with_other_results,
)
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, CheckError, EpisodeEndedError
from toolgym.formats import Action, get_format
from toolgym.grading.rubric import RewardFunction, make_rubric
from toolgym.messages import ToolCall, ToolResult
from toolgym.tools.base import Tool
from toolgym.trajectory import Trajectory

__all__ = [
    "ProbeReport",
    "check_env",
    "check_format",
    "check_reward",
    "check_tool",
    "probe_reward",
]

_TOOL_NAME = re.compile(r"[A-Za-z_][\w-]{0,63}")
_WRONG: tuple[Any, ...] = (
    None,
    [],
    {},
    [[1]],
    {"a": {"b": None}},
    math.nan,
    math.inf,
    "\x00",
    "x" * 10_000,
    -1,
)


def check_tool(tool: Tool, example: Mapping[str, Any] | None = None) -> None:
    """Check a tool: a usable schema, texts for wrong arguments, the same result twice.

    Args:
        tool: made by ``@tool`` or `Tool`.
        example: arguments of a call that must succeed, the same way each time.

    Raises:
        CheckError: what is wrong, and the likely cause.
    """
    if not isinstance(tool, Tool):
        raise CheckError(f"{tool!r:.80} is not a Tool: decorate the function with @toolgym.tool")
    properties, required = _check_schema(tool)
    probes: list[tuple[dict[str, Any], bool]] = [({"no such parameter": 1}, True)]
    probes.append(({}, bool(required)))
    probes += [({name: value}, False) for name in properties for value in _WRONG]
    for arguments, must_fail in probes:
        result = _run(tool, arguments)
        if must_fail and result.error != "invalid_arguments":
            raise CheckError(
                f"tool {tool.name!r} accepted {arguments!r}: its arguments are not validated"
            )
        if result.error == "bug":
            raise CheckError(
                f"tool {tool.name!r} has a bug: {arguments!r:.120} made it raise "
                f"{result.content!r:.200}; raise ToolError for what the model should read"
            )
    if example is not None:
        _check_example(tool, dict(example))


def _check_schema(tool: Tool) -> tuple[list[str], list[str]]:
    schema = tool.schema()
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckError(
            f"the schema of tool {tool.name!r} is not JSON ({error}); is a default value no JSON?"
        ) from error
    function = schema["function"]
    if not _TOOL_NAME.fullmatch(function["name"]):
        raise CheckError(
            f"tool name {function['name']!r} must be letters, digits, _ and -, 64 at most: "
            "model servers refuse others"
        )
    if not function["description"].strip():
        raise CheckError(f"tool {tool.name!r} has no description: write a docstring")
    parameters = function["parameters"]
    properties, required = list(parameters["properties"]), list(parameters["required"])
    if parameters.get("type") != "object" or not set(required) <= set(properties):
        raise CheckError(
            f"the parameters of tool {tool.name!r} are not an object: {parameters!r:.200}"
        )
    if tool.schema() is schema or tool.schema() != schema:
        raise CheckError(f"tool {tool.name!r} must give a fresh, equal schema each time")
    return properties, required


def _run(tool: Tool, arguments: dict[str, Any]) -> ToolResult:
    try:
        result = tool.run(ToolCall("call_0", tool.name, arguments))
    except Exception as error:
        raise CheckError(
            f"tool {tool.name!r} let {type(error).__name__} out for {arguments!r:.120}: {error}; "
            "a failing tool gives a text"
        ) from error
    if not isinstance(result.content, str) or (result.error and not result.content.strip()):
        raise CheckError(f"tool {tool.name!r} gave no text for {arguments!r:.120}: {result!r:.200}")
    return result


def _check_example(tool: Tool, example: dict[str, Any]) -> None:
    before = copy.deepcopy(example)
    first, second = _run(tool, example), _run(tool, example)
    if first.error is not None:
        raise CheckError(f"tool {tool.name!r} fails on its example {example!r}: {first.content}")
    if first != second:
        raise CheckError(
            f"tool {tool.name!r} gave two results for {example!r}: {first.content!r:.80} and "
            f"{second.content!r:.80}; does it read a clock, the network or unseeded chance?"
        )
    if example != before:
        raise CheckError(f"tool {tool.name!r} changed its arguments from {before!r} to {example!r}")
    calls = [ToolCall(f"call_{n}", tool.name, example) for n in range(3)]
    if [result.content for result in tool.run_many(calls)] != [first.content] * 3:
        raise CheckError(f"tool {tool.name!r} answers otherwise in a batch: look at its batch=")


def check_reward(
    reward: RewardFunction | str,
    *,
    trajectories: Sequence[Trajectory] | None = None,
    answer_only: bool = False,
) -> None:
    """Check a reward function: one finite float a step, that depends on nothing later.

    Args:
        reward: the function, or a registered name.
        trajectories: episodes to try it on, beside the built-in probes.
        answer_only: the reward claims to read no tool result; it must not change when they do.

    Raises:
        CheckError: what is wrong, and the likely cause.
        UnknownNameError: no reward has that name.
    """
    rubric = make_rubric(reward)
    name = next(iter(rubric.functions))
    for trajectory in [*episodes(), *(trajectories or ())]:
        values = _values(name, rubric.parts, trajectory)
        if _values(name, rubric.parts, trajectory) != values:
            raise CheckError(
                f"reward {name!r} gave two results for one record: it must be deterministic"
            )
        for steps in range(len(values)):
            early = _values(name, rubric.parts, prefix(trajectory, steps))
            if early != values[:steps]:
                raise CheckError(
                    f"reward {name!r} depends on the future: the first {steps} steps of "
                    f"{trajectory.id!r} alone give {early}, within the episode {values[:steps]}; "
                    "score each step from itself and what came before"
                )
        if answer_only:
            _check_answer_only(name, rubric.parts, trajectory, values)


def _values(name: str, parts: Any, trajectory: Trajectory) -> list[float]:
    before = copy.deepcopy(trajectory)
    try:
        values: list[float] = parts(trajectory.task, trajectory)[name]
    except BadInputError as error:
        raise CheckError(f"{error} (on {trajectory.id!r})") from error
    except Exception as error:
        raise CheckError(
            f"reward {name!r} raised {type(error).__name__} on {trajectory.id!r} "
            f"({len(trajectory.steps)} steps): {error}"
        ) from error
    if trajectory != before:
        raise CheckError(f"reward {name!r} changed the record of {trajectory.id!r}: only read it")
    return values


def _check_answer_only(name: str, parts: Any, trajectory: Trajectory, values: list[float]) -> None:
    for content in ("", "nothing", " ".join(trajectory.task.targets)):
        other = _values(name, parts, with_other_results(trajectory, content))
        if other != values:
            raise CheckError(
                f"reward {name!r} reads tool results: with {content!r} in their place "
                f"{trajectory.id!r} gets {other}, not {values}; read step.answer only"
            )


def check_format(name: str, *, prompt: str = "tools_multi_step", hard: bool = True) -> None:
    """Check a format: what it writes it reads back; no text makes it raise or end silently.

    Args:
        name: a registered format.
        prompt: the prompting strategy.
        hard: try brackets, quotes, line breaks and several arguments too; a format that cannot
            carry them (``react-paper``, ``hermes-paper``) is checked without.

    Raises:
        CheckError: what is wrong, and the likely cause.
        UnknownNameError: no such format or strategy.
    """
    codec = get_format(name, prompt)
    for action in actions(hard):
        if action.calls and not codec.strategy.tools:
            continue
        text = codec.write(action, [SEARCH])
        read = codec.parse(text, [SEARCH])
        if not codec.strategy.tools:
            action, read = replace(action, thought=""), replace(read, thought="")
        if read != action:
            raise CheckError(f"format {name!r} wrote {action!r} as {text!r} and read {read!r}")
    for text in junk():
        _check_parse(name, codec.parse, text)


def _check_parse(name: str, parse: Any, text: str) -> None:
    try:
        action = parse(text, [SEARCH])
    except Exception as error:
        raise CheckError(
            f"format {name!r} raised {type(error).__name__} on {text[:80]!r}: parse must give a "
            "Problem instead"
        ) from error
    if not isinstance(action, Action):
        raise CheckError(f"format {name!r} read {text[:80]!r} as {action!r:.80}, not an Action")
    if action.calls and action.answer is not None:
        raise CheckError(f"format {name!r} read both calls and an answer in {text[:80]!r}")
    if not action.calls and action.answer is None and not action.problems:
        raise CheckError(f"format {name!r} passed over {text[:80]!r} without a word: add a Problem")


def check_env(env: gym.Env[Any, Any], *, seed: int = 7) -> None:
    """Check an environment: gymnasium's own checks, then ours.

    Ours: the same seed gives the same transcript; a step after the end raises; ``info`` is JSON
    without NaN; a reply of 2 MB and one of NUL bytes are survived.

    Args:
        env: a `ToolEnv`, with or without gymnasium's wrappers.
        seed: for the transcripts.

    Raises:
        CheckError: what is wrong, and the likely cause.
        AssertionError: from gymnasium's checks.
    """
    inner = env.unwrapped if isinstance(env, gym.Env) else env
    if not isinstance(inner, ToolEnv):
        raise CheckError(f"{inner!r:.80} is not a ToolEnv: gymnasium's own check_env is for others")
    gymnasium_check_env(inner)
    first, second = _transcript(inner, seed), _transcript(inner, seed)
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        if one != other:
            raise CheckError(
                f"the same seed gave another transcript at entry {number}: {one!r:.200} and "
                f"{other!r:.200}; draw from self.np_random only, and keep clocks out of info"
            )
    _check_end(inner, seed)
    for reply in ("x" * 2_000_000, "\x00" * 100, "Action: Calculator[\x00]\nAnswer:", "\ud800"):
        inner.reset(seed=seed)
        _check_info(inner.step(reply))
        if inner.trajectory.steps[0].action != reply:
            raise CheckError(f"the record lost a reply of {len(reply):,} characters")


def _transcript(env: ToolEnv, seed: int) -> list[Any]:
    env.action_space.seed(seed)
    entries: list[Any] = []
    for number in range(3):
        entries.append(env.reset(seed=seed + number))
        _check_info(entries[-1])
        while not env.ended:
            entries.append(env.step(env.action_space.sample()))
            _check_info(entries[-1])
    return entries


def _check_info(returned: Sequence[Any]) -> None:
    observation, info = returned[0], returned[-1]
    try:
        json.dumps(info, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckError(
            f"info is not plain JSON ({error}): keep objects and NaN out of it"
        ) from error
    if not isinstance(observation, str):
        raise CheckError(f"the observation must be text, not {type(observation).__name__}")


def _check_end(env: ToolEnv, seed: int) -> None:
    env.reset(seed=seed)
    for _ in range(env.max_steps):
        if not env.ended:
            env.step("")
    if not env.ended:
        raise CheckError(f"the episode went on after max_steps = {env.max_steps} turns")
    try:
        env.step("")
    except EpisodeEndedError:
        return
    raise CheckError("step() after the end must raise EpisodeEndedError, and did not")
