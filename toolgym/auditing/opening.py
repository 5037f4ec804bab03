"""From whatever a user names to a function that makes a subject in another process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cloudpickle
import gymnasium as gym

from toolgym.auditing import foreign
from toolgym.auditing.rows import rows_subject
from toolgym.auditing.subjects import GymSubject, Subject, ToolSubject
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, did_you_mean
from toolgym.policies.base import make_policy
from toolgym.registry import ENVIRONMENTS, load

__all__ = ["maker"]

Make = Callable[[], Subject]
_KINDS: dict[str, tuple[Callable[..., Subject], tuple[str, ...]]] = {
    "reasoning-gym": (foreign.reasoning_gym_subject, ()),
    "skyrl": (foreign.skyrl_subject, ("rows", "form", "reward_range")),
    "openenv": (foreign.open_env_subject, ("gold", "form", "reward_range")),
    "verifiers": (foreign.verifiers_subject, ("gold", "form", "reward_range")),
}
_ROWS = ("reward", "held_out", "question", "gold", "form", "reward_range")
_GYM = ("gold", "form", "reward_range", "oracle")


def maker(env: Any, args: Mapping[str, Any], options: Mapping[str, Any]) -> Make:
    """A function that makes the subject.

    Args:
        env: see `toolgym.auditing.engine.audit`.
        args: keyword arguments of an environment that is named.
        options: ``reward``, ``held_out``, ``question``: of a file of tasks, see
            `toolgym.auditing.rows.rows_subject`; ``rows``: of skyrl-gym; ``gold``, ``form`` and
            ``reward_range``: of an environment that does not tell them; ``oracle``: name of a
            policy that plays the reference solution of an environment of ours.

    Raises:
        BadInputError: an option that this kind does not have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(env, str):
        return _named(env, dict(args), given)
    if isinstance(env, Subject):
        _only(type(env).__name__, given, ())
        return partial(pickle.loads, cloudpickle.dumps(env))
    _only("an environment", given, _GYM)
    if isinstance(env, gym.Env):
        if args:
            raise BadInputError("env_args are for ids: give them where the environment is made")
        return partial(_wrapped, partial(pickle.loads, cloudpickle.dumps(env)), given)
    if callable(env):
        return partial(_wrapped, partial(env, **args), given)
    raise BadInputError(
        "an audit takes an id, a .jsonl file, an environment, or a function that makes one, "
        f"not {env!r:.80}"
    )


def _named(env: str, args: dict[str, Any], given: dict[str, Any]) -> Make:
    if env.endswith((".jsonl", ".jsonl.zst")):
        _only(env, given, _ROWS)
        return partial(rows_subject, env, **given)
    kind, _, name = env.partition(":")
    if kind in _KINDS and name:
        make, known = _KINDS[kind]
        _only(env, given, known)
        return partial(make, name, args, **given)
    _only(env, given, _GYM)
    if not (kind and name.isidentifier()):
        from toolgym.rollouts.playing import spec_of

        spec_of(env)  # an unknown id is told before a process is started
    return partial(_wrapped, partial(_made, env, args), given, env)


def _only(env: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise BadInputError(
                f"{env} takes no option {name!r}{did_you_mean(name, known)}; "
                f"options: {', '.join(known) or 'none'}"
            )


def _made(env: str, args: Mapping[str, Any]) -> gym.Env[Any, Any]:
    from toolgym.rollouts.playing import open_env

    module, _, name = env.rpartition(":")
    if module and name.isidentifier():
        try:
            return load(env)(**args)  # type: ignore[no-any-return]
        except (ImportError, AttributeError) as error:
            raise BadInputError(f"environment {env!r} cannot be loaded: {error}") from error
    if name in ENVIRONMENTS:
        return open_env(env, args).bare("an audit").clone()
    return gym.make(env, **args)


def _wrapped(make: Callable[[], Any], given: Mapping[str, Any], env: str = "") -> Subject:
    """The subject around what a function makes."""
    made = make()
    if isinstance(made, Subject):
        return made
    if not isinstance(made, gym.Env):
        raise BadInputError(f"what was made is {type(made).__name__}, not an environment")
    name = env or (made.spec.id if made.spec is not None else type(made.unwrapped).__name__)
    if isinstance(made, ToolEnv):  # without wrappers
        bare: ToolEnv = made
        policy = given.get("oracle") or ENVIRONMENTS.oracle(name, bare.tasks.source)
        return ToolSubject(bare, name, make_policy(policy) if policy else None)
    return GymSubject(made, name, given.get("gold"), given.get("form"), given.get("reward_range"))
