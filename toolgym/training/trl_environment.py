"""Our environments as TRL's own ``environment_factory`` takes them, for a script of your own.

No TRL is imported here: what it asks for is a class with ``reset`` and a function for each tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from toolgym._util.jsonl import value_hash
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError
from toolgym.formats import Strategy
from toolgym.messages import Chat
from toolgym.rollouts.engine import make_env
from toolgym.tools.toolset import Schema, Toolset
from toolgym.training.grpo import worlds_of
from toolgym.training.trl_native import NativeEpisode, native_class
from toolgym.training.trl_reader import NATIVE, tool_turns

__all__ = ["TrlEnvironment", "trl_environment"]

RewardPart = Callable[..., list[float | None]]
"""Called by TRL with lists over the completions of a step; None leaves one out of the loss."""

Factory = type[NativeEpisode]


@dataclass(frozen=True)
class TrlEnvironment:
    """What a ``GRPOTrainer`` is given; each field has TRL's own name for its argument.

    Args:
        rows: for ``datasets.Dataset.from_list``, as they are or some of them. ``prompt``: chat
            messages; ``task``: the id of the task that ``reset`` begins, so that a group plays one
            task; ``split``: its split; ``environment``, where tools differ by task: whose tools
            TRL offers.
        environment_factory: a class to be called without arguments, or one for each
            ``environment``.
        reward_funcs: one for each part of the rubric, named as it is. For rows of other
            environments they give None.
        reward_weights: of these, for ``GRPOConfig``. A weight of 0 is a metric: logged only.
        max_tool_calling_iterations: for ``GRPOConfig``: turns with calls until the environment
            would end the episode. What a policy says after them is not read.
    """

    rows: list[dict[str, Any]]
    environment_factory: Factory | dict[str, Factory]
    reward_funcs: list[RewardPart]
    reward_weights: list[float]
    max_tool_calling_iterations: int


def trl_environment(
    env: str | gym.Env[str, str] | Sequence[str | gym.Env[str, str]],
    env_args: Mapping[str, Any] | None = None,
    *,
    system: str | None = None,
) -> TrlEnvironment:
    """Environments for TRL's ``GRPOTrainer(environment_factory=...)``.

    TRL samples, parses calls with the model's chat template and calls the tools; arguments are
    validated, calls ended at their deadline and long results cut as everywhere in toolgym, and a
    failure is a text for the policy. Each episode is rebuilt as a `Trajectory`, which the
    environment's own rewards score; a reward function of the user finds it as
    ``environment.trajectory`` of the ``environments`` that TRL gives it, behind ours.

    Args:
        env: an environment id, an environment, or several whose rewards are the same.
        env_args: keyword arguments, for ids. ``format`` says how a call looks in the model's
            chat template, so that a broken one is not taken for an answer: ``hermes`` (default:
            ``<tool_call>`` tags, as Qwen's) or ``llama3`` (bare JSON). The answer is what follows
            ``Answer:`` in the last reply, else all of it.
        system: the system message; default: instructions by the strategy ``prompt``, without
            the tools, which the chat template shows; empty: none, as in exported native rows.

    Raises:
        UnknownNameError: no such environment, tool, format, prompt or reward.
        MissingFileError: a file that does not exist.
        BadInputError: no environment, one that calls in another format, arguments for one that is
            made already, no reward with a weight, or rewards that differ.
    """
    many = [env] if isinstance(env, str | gym.Env) else list(env)
    worlds = worlds_of([_opened(item, env_args) for item in many])
    rows: list[dict[str, Any]] = []
    factories: dict[str, Factory] = {}
    for world in worlds:
        factories |= _add_rows(rows, world, system, len(factories))
    if len(factories) == 1:
        for row in rows:
            del row["environment"]  # TRL reads it only where it has several to choose from
    owned = frozenset(factories.values())
    weights = worlds[0].rubric.weights
    return TrlEnvironment(
        rows=rows,
        environment_factory=factories if len(factories) > 1 else next(iter(factories.values())),
        reward_funcs=[_part(name, owned, n == 0) for n, name in enumerate(weights)],
        reward_weights=list(weights.values()),
        max_tool_calling_iterations=max(map(tool_turns, worlds)),
    )


def _opened(env: str | gym.Env[str, str], env_args: Mapping[str, Any] | None) -> ToolEnv:
    if isinstance(env, str):
        made: gym.Env[Any, Any] = make_env(env, {"format": NATIVE[0], **(env_args or {})})
    elif env_args:
        raise BadInputError("env_args are for ids: give them where the environment is made")
    else:
        made = env.unwrapped
    if not isinstance(made, ToolEnv):
        raise BadInputError(f"an environment must be a ToolEnv, not {type(made).__name__}")
    if made.format.name not in NATIVE:
        raise BadInputError(
            f"format {made.format.name!r} writes calls as text of its own, and TRL reads them with "
            f"the model's chat template: use format {' or '.join(map(repr, NATIVE))}, or train "
            "with toolgym.training.grpo.train_grpo, which plays every format"
        )
    return made


def _add_rows(
    rows: list[dict[str, Any]], world: ToolEnv, system: str | None, before: int
) -> dict[str, Factory]:
    """Rows of all tasks, and a class for each set of tools among them."""
    text = _instructions(world.format.strategy) if system is None else system
    opening: list[Chat] = [{"role": "system", "content": text}] if text else []
    label = world.spec.id if world.spec is not None else world.tasks.name
    names: dict[str, str] = {}
    found: dict[str, Factory] = {}
    last: tuple[Toolset, str] | None = None
    for task in world.tasks:
        tools = world.tools_for(task) if world.format.strategy.tools else Toolset()
        if last is None or tools is not last[0]:
            schemas: list[Schema] = tools.schemas()
            key = value_hash(schemas)
            if key not in names:
                names[key] = f"{label}:{before + len(names)}"
                found[names[key]] = native_class(world, schemas)
            last = tools, names[key]
        prompt = [*opening, {"role": "user", "content": task.question}]
        row = {"prompt": prompt, "task": task.id, "split": task.split, "environment": last[1]}
        rows.append(row)
    return found


def _instructions(strategy: Strategy) -> str:
    """The system text of a strategy for models that are shown tools by their chat template."""
    if not strategy.instructions:
        return ""
    answer = (
        f"{strategy.thinking()} the final answer, in a few words, on a last line 'Answer: ...'."
    )
    if not strategy.tools:
        return f"Answer the question from what you know. {answer}"
    turns = "in one turn only" if strategy.tool_turns == 1 else "in as many turns as you want"
    return f"Answer the question. You may call functions {turns}. When you know it: {answer}"


def _part(name: str, owned: frozenset[Factory], first: bool) -> RewardPart:
    def read(
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        environments: Sequence[Any] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        if environments is None:
            raise BadInputError(
                f"the reward {name!r} reads TRL's environments: give the trainer the "
                "environment_factory of the same trl_environment()"
            )
        # The class decides, as TRL's own column of `get_reward` does.
        episodes = [item if type(item) in owned else None for item in environments]
        values: list[float | None] = []
        for episode, prompt, completion in zip(episodes, prompts, completions, strict=True):
            if episode is None:
                values.append(None)
            else:
                steps = episode._read(prompt, completion).steps
                values.append(sum(step.reward_parts[name] for step in steps))
        if first:
            _log([item for item in episodes if item is not None], log_metric)
            if log_extra is not None:
                answers = [None if e is None else e.trajectory.answer for e in episodes]
                log_extra("answer", answers)
        return values

    read.__name__ = name
    return read


def _log(episodes: Sequence[NativeEpisode], log: Callable[[str, float], None] | None) -> None:
    """TRL counts a call as failed when it raised, which ours never do."""
    if log is None or not episodes:
        return
    played = [episode.trajectory for episode in episodes]
    errors = [result.error is not None for t in played for _, result in t.calls]
    log("episodes/answered", sum(t.terminated for t in played) / len(played))
    if errors:
        log("tools/error_frequency", sum(errors) / len(errors))
