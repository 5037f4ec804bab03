"""What is played: an id or an environment, with whatever its registration or user wraps around it.

A policy of a rollout reads ``info["messages"]`` and is rewarded by what the outermost wrapper
gives. So rewards, ends, replies, messages and tools that wrappers change are played and recorded as
they are; a wrapper that changes the observation alone would change nothing, and is refused.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from toolgym._util.rebuilding import name_code, plain
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, PolicyError, UnknownNameError, did_you_mean
from toolgym.messages import Message, to_chats
from toolgym.policies.base import Reply, ReplyTokens, Request, join_tokens
from toolgym.registry import ENVIRONMENTS
from toolgym.rollouts.runs import episode_seed
from toolgym.tools.toolset import tell_tools
from toolgym.trajectory import Trajectory

if TYPE_CHECKING:
    from toolgym.rollouts.plan import Job

__all__ = [
    *("Episode", "Opened", "Playing", "RefusedWrapperError", "checked_reply", "make_env"),
    *("open_env", "spec_of"),
]


class RefusedWrapperError(BadInputError):
    """A wrapper that a rollout cannot play; every other episode would meet it, too."""


def spec_of(env_id: str) -> EnvSpec:
    """The registration behind an id.

    Args:
        env_id: such as ``ToolQA-PopQA-v0``, or ``package:Id-v0`` where a package has to be imported
            first; without its version it is the newest one.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: the package cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BadInputError(
                f"environment {env_id!r}: module {module!r} cannot be imported ({error})"
            ) from error
    if name in gym.registry:
        return gym.registry[name]
    versions = [spec for spec in gym.registry.values() if spec.version is not None]
    same = [spec for spec in versions if spec.id == f"{name}-v{spec.version}"]
    if not same:
        raise UnknownNameError("environment", env_id, ENVIRONMENTS)
    return max(same, key=lambda spec: spec.version or 0)


@dataclass(frozen=True)
class Opened:
    """An environment that can be played any number of times.

    Args:
        env: itself, without wrappers; limits of gymnasium's `TimeLimit` are its ``max_steps``.
        told: what ``run.json`` says of it.
        outer: the outermost wrapper, where one of them does something.
        wrappers: the names of those that do.
    """

    env: ToolEnv
    told: dict[str, Any]
    outer: gym.Env[Any, Any] | None = None
    wrappers: tuple[str, ...] = ()

    def play(self) -> Playing:
        """A fresh one for one episode: nothing that a wrapper keeps reaches another episode."""
        if self.outer is None:
            return Playing(self.env.clone(), ())
        return Playing(copy.deepcopy(self.outer), self.wrappers)

    def bare(self, doing: str) -> ToolEnv:
        """The environment itself.

        Args:
            doing: what plays it without wrappers, for the message.

        Raises:
            BadInputError: there are wrappers, which would be dropped.
        """
        if self.wrappers:
            raise BadInputError(
                f"{doing} cannot play {self.told['id'] or type(self.env).__name__!r} with its "
                f"wrappers ({', '.join(self.wrappers)}): give their reward as `reward`, or an "
                "environment without them"
            )
        return self.env


def open_env(env: Any, env_args: Mapping[str, Any] | None = None) -> Opened:
    """An environment from whatever a user may write.

    Args:
        env: an id, or an environment, wrapped or not; that one itself is never stepped.
        env_args: keyword arguments, for an id.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: an argument that cannot be used or that ``run.json`` cannot say, something
            else than a `ToolEnv`, or a wrapper that cannot be copied.
    """
    if isinstance(env, str):
        spec, args = spec_of(env), _checked(env, env_args)
        made = gym.make(spec.id, disable_env_checker=True, **args)
        told: dict[str, Any] = {"id": env}
    elif isinstance(env, gym.Env):
        if env_args:
            raise BadInputError("env_args are for ids: give them where the environment is made")
        made, args = env, dict(env.unwrapped.spec.kwargs) if env.unwrapped.spec else {}
        told = {"id": env.unwrapped.spec.id if env.unwrapped.spec else ""}
    else:
        raise BadInputError(
            "an environment is an id, such as those of `toolgym envs`, or an instance, such as "
            f"gym.make(...) gives, not {env!r:.80}"
        )
    base = made.unwrapped
    if not isinstance(base, ToolEnv):
        raise BadInputError(f"environment {env!r:.80} is a {type(base).__name__}, not a ToolEnv")
    told["args"] = {name: _argument(name, value, base) for name, value in args.items()}
    if not isinstance(env, str):
        told["instance"] = _made_with(base)
    return _with_wrappers(made, base, told)


def make_env(env: str, env_args: Mapping[str, Any] | None = None) -> ToolEnv:
    """The environment of an id without its wrappers, for whoever wants its tasks; see `open_env`.

    Raises:
        UnknownNameError: no environment has that id.
        BadInputError: see `open_env`.
    """
    return open_env(env, env_args).env


def _made_with(env: ToolEnv) -> dict[str, Any]:
    """What an instance is, in plain values; its tasks and tools have hashes of their own."""
    return {
        "class": name_code(type(env)),
        "format": env.format.name,
        "prompt": env.format.strategy.name,
        "reward": env.rubric.describe(),
        "max_steps": env.max_steps,
        "max_reply_chars": env.max_reply_chars,
        "max_result_chars": env.max_result_chars,
        **({"examples": len(env.examples)} if env.examples else {}),
        **({"system": env.system} if env.system is not None else {}),
        **({"descriptions": env.descriptions} if env.descriptions else {}),
        **env.limits.describe(),
        **({"user": plain(env.user, "user")} if env.user is not None else {}),
    }


def _with_wrappers(made: gym.Env[Any, Any], base: ToolEnv, told: dict[str, Any]) -> Opened:
    layers, env = [], made
    while isinstance(env, gym.Wrapper):
        layers.append(env)
        env = env.env
    limits = [layer._max_episode_steps for layer in layers if isinstance(layer, TimeLimit)]
    if limits:
        told["max_episode_steps"] = min(limits)
    own = base.clone()
    doing = [x for x in layers if not isinstance(x, TimeLimit | OrderEnforcing | PassiveEnvChecker)]
    if not doing:
        own.max_steps = min(own.max_steps, *limits) if limits else own.max_steps
        return Opened(own, told)
    told["wrappers"] = [_told(layer) for layer in doing]
    names = tuple(type(layer).__name__ for layer in doing)
    opened = Opened(own, told, made, names)
    try:
        opened.play()
    except Exception as error:  # whatever a wrapper holds
        raise BadInputError(
            f"wrappers {', '.join(names)}: one of them cannot be copied, as each episode needs it "
            f"({error}); give it a __deepcopy__, or what it holds to the environment"
        ) from error
    return opened


def _told(layer: gym.Wrapper[Any, Any, Any, Any]) -> dict[str, Any]:
    """A wrapper and what it was made with, as far as that can be seen."""
    name = type(layer).__name__
    given = getattr(layer, "_saved_kwargs", None)
    if given is None:
        given = {k: v for k, v in vars(layer).items() if k != "env" and not k.startswith("_")}
    given = {k: repr(v) if isinstance(v, gym.Space) else v for k, v in given.items()}
    return {"wrapper": name_code(type(layer)), "with": plain(given, f"wrapper {name}")}


def _checked(env_id: str, env_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments for an id that its creator takes."""
    if env_args is not None and not isinstance(env_args, Mapping):
        raise BadInputError(f"env_args are keyword arguments by name, not {env_args!r:.80}")
    args = dict(env_args or {})
    entry = spec_of(env_id).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    known = inspect.signature(creator).parameters if creator is not None else {}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for name in args.keys() - {"render_mode", "disable_env_checker"}:
            if name not in known:
                raise BadInputError(
                    f"{env_id} has no argument {name!r}{did_you_mean(name, known)}; "
                    f"arguments: {', '.join(known) or 'none'}"
                )
    return args


def _argument(name: str, value: Any, base: ToolEnv) -> Any:
    """An argument in plain values; tasks given in memory by their source, for a hash says more."""
    if name == "tasks" and not isinstance(value, str | Path):
        return base.tasks.describe()
    if name == "tools":
        return tell_tools(value)
    return plain(value, f"argument {name!r}")


class Playing:
    """One environment for one episode, and the wrappers around it.

    Args:
        outer: the environment, or its outermost wrapper.
        wrappers: the names of those that do something.
    """

    def __init__(self, outer: gym.Env[Any, Any], wrappers: tuple[str, ...]) -> None:
        self.outer, self._wrappers = outer, wrappers
        self.env = cast(ToolEnv, outer.unwrapped)
        self._tools: list[dict[str, Any]] | None = None

    def reset(self, task: int, sample: int, seed: int) -> dict[str, Any]:
        """Begin the episode.

        Returns:
            The info that the policy reads.

        Raises:
            RefusedWrapperError: a wrapper that keeps the policy from what it changes.
        """
        seen, info = self.outer.reset(seed=seed, options={"task": task, "sample": sample})
        if self._wrappers:
            record = self.env.trajectory
            if record.task.id != self.env.tasks[task].id or record.sample != sample:
                raise self._refused("does not hand on the options of reset()")
            self._check(seen, info, "\n\n".join(message.content for message in record.messages))
            if info["tools"] != record.tools:
                self._tools = copy.deepcopy(info["tools"])
        return dict(info)

    def take(
        self, outcome: tuple[Any, Any, bool, bool, dict[str, Any]], turn: int, reply: str
    ) -> tuple[dict[str, Any], bool]:
        """Take in what a step gave.

        Args:
            outcome: observation, reward, terminated, truncated, info.
            turn: number of the step, from 0.
            reply: that the outermost wrapper was given.

        Returns:
            The info that the policy reads, and whether the reply was played as it was.

        Raises:
            RefusedWrapperError: see `reset`; or a wrapper that does not play one turn a reply.
        """
        seen, reward, terminated, truncated, info = outcome
        if not self._wrappers:
            return info, True
        steps = self.env.trajectory.steps
        if len(steps) != turn + 1:
            raise self._refused("does not play one turn for each reply")
        if self.env.ended and not (terminated or truncated):
            raise self._refused("goes on after the end of the episode")
        self._check(seen, info, steps[-1].observation)
        self.env.amend(seen, float(reward), bool(terminated), bool(truncated))
        return info, steps[-1].action == reply

    def record(self, info: Mapping[str, Any]) -> Trajectory:
        """The record of the episode, as the policy saw it.

        Args:
            info: of the last step.
        """
        found = self.env.trajectory
        if self._wrappers:
            if info["messages"] != to_chats(found.messages):
                found.messages = list(map(Message.from_chat, info["messages"]))
            found.tools = found.tools if self._tools is None else self._tools
        return found

    def _check(self, seen: Any, info: Mapping[str, Any], expected: str) -> None:
        if not {"messages", "tools"} <= info.keys():
            raise self._refused("takes 'messages' or 'tools' out of the info")
        if seen != expected and info["messages"] == to_chats(self.env.trajectory.messages):
            raise self._refused("changes the observation, and policies read info['messages']")

    def _refused(self, why: str) -> RefusedWrapperError:
        one = self._wrappers[0] if len(self._wrappers) == 1 else f"one of {self._wrappers}"
        return RefusedWrapperError(
            f"wrapper {one} {why}: a rollout cannot play it; leave it out, or change the info"
        )


def checked_reply(reply: Any) -> Reply | Exception:
    """What a policy answered, or the error that it is none."""
    if isinstance(reply, Exception):
        return reply
    if isinstance(reply, Reply) and isinstance(reply.text, str):
        return reply
    return PolicyError(f"a policy's act() gives a Reply with a string, not {reply!r:.80}")


@dataclass(slots=True)
class Episode:
    """One running episode: the environment and what the policy has said in tokens."""

    playing: Playing
    job: Job
    info: dict[str, Any]
    turns: list[ReplyTokens | None] = field(default_factory=list)

    def request(self) -> Request:
        """What the policy is asked for the next turn."""
        turn = len(self.turns)
        return Request(
            messages=self.info["messages"],
            tools=self.info["tools"],
            format=self.playing.env.format,
            seed=episode_seed(self.job.seed, turn),
            episode=self.job.key,
            turn=turn,
            examples=self.info.get("examples", 0),
            tokens_left=self.playing.env.tokens_left,
        )

    def record(self, tokenizer: str) -> Trajectory:
        """The episode with its tokens, after its end."""
        trajectory = self.playing.record(self.info)
        trajectory.tokens = join_tokens(self.turns, tokenizer)
        return trajectory
