"""Where the tasks of a self-training run come from, and how many there are."""

from __future__ import annotations

import glob
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from toolgym._util.optional import require_extra
from toolgym.errors import MissingFileError, UnknownNameError
from toolgym.formats import get_format
from toolgym.grading.rubric import Rubric
from toolgym.registry import TOOLS
from toolgym.rollouts.engine import environment_ids, make_env
from toolgym.selftrain.settings import EnvironmentSettings, SelfTrainSettings
from toolgym.selftrain.stages import without_tools
from toolgym.tools.translator.modelfiles import MODELS

__all__ = ["Places", "Tasks", "places", "searched"]

_PUBLISHED = {("openai/gsm8k", "train"): 7473}
"""Rows of hub splits that are used whole."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of one environment for one purpose.

    Args:
        tasks: how many are played; None where the source is not on this machine.
        source: where they come from.
    """

    tasks: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Places:
    """One environment of a run.

    Args:
        name: its label.
        id: of the environment.
        practise: None: it is evaluated only.
        evaluate: None: it practises only.
        corpus: what is searched.
        turns: most replies of an episode.
        needs: what is not on this machine.
    """

    name: str
    id: str
    practise: Tasks | None
    evaluate: Tasks | None
    corpus: str
    turns: int
    needs: tuple[str, ...] = ()


def places(settings: SelfTrainSettings) -> list[Places]:
    """The environments of a run; no corpus is opened and nothing is fetched.

    Raises:
        UnknownNameError: an environment, tool, format, prompt or reward that does not exist.
        BadInputError: an argument that cannot be used, or a broken task file.
    """
    if settings.grpo.reward is not None:
        Rubric(settings.grpo.reward)
    if settings.model == "miniature" and not settings.environments:
        return _miniature(settings)
    return [_place(environment) for environment in settings.environments]


def _miniature(settings: SelfTrainSettings) -> list[Places]:
    from toolgym.miniature.world import parts
    from toolgym.selftrain.presets import miniature_environments

    world, found = settings.miniature, []
    trained, tested = parts(world.train), parts(world.test)
    for environment in miniature_environments(Path("world")):
        source = f"generated world {world.seed}"
        found.append(
            Places(
                environment.label,
                environment.id,
                Tasks(trained[environment.label], source),
                Tasks(tested[environment.label], source),
                source if "corpus" in environment.args else "",
                int(environment.args["max_steps"]),
            )
        )
    return found


def searched(environment: EnvironmentSettings) -> str:
    """What an environment searches: a corpus, ``sample``, or nothing where it has no search.

    Raises:
        UnknownNameError: an environment that does not exist.
    """
    if "corpus" not in inspect.signature(_creator(environment.id)).parameters:
        return ""
    return str(environment.args.get("corpus") or "sample")


def _creator(env_id: str) -> Any:
    name = env_id.rpartition(":")[2]
    if name not in gym.registry and ":" not in env_id:
        raise UnknownNameError("environment", env_id, environment_ids())
    return load_env_creator(str(gym.spec(env_id).entry_point))


def _place(environment: EnvironmentSettings) -> Places:
    needs: list[str] = []
    creator = _creator(environment.id)
    known = inspect.signature(creator).parameters
    _check(environment.args, known)
    practise, evaluate = (
        None if extra is None else _tasks(environment, extra, limit, creator, needs)
        for extra, limit in (
            (environment.train, environment.train_tasks),
            (environment.test, environment.test_tasks),
        )
    )
    corpus = searched(environment)
    needs += _translators(environment.args.get("tools") or ())
    default = known["max_steps"].default if "max_steps" in known else 1
    if corpus not in ("", "sample") and not _there(corpus):
        needs.append(f"corpus {corpus!r}: not there; `toolgym index build` makes one")
    return Places(
        environment.label,
        environment.id,
        practise,
        evaluate,
        "bundled encyclopedia" if corpus == "sample" else corpus,
        int(environment.args.get("max_steps", default)),
        tuple(dict.fromkeys(needs)),
    )


def _check(args: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Names that `_tasks` leaves out."""
    default = {n: known[n].default for n in ("format", "prompt") if n in known}
    chosen = {**default, **{name: args[name] for name in default if name in args}}
    if len(chosen) == 2:
        get_format(chosen["format"], chosen["prompt"])
    for tool in args.get("tools") or ():
        TOOLS.get(tool["name"] if isinstance(tool, Mapping) else tool)


def _tasks(
    environment: EnvironmentSettings,
    extra: Mapping[str, Any],
    limit: int | None,
    creator: Any,
    needs: list[str],
) -> Tasks:
    args = {**environment.args, **extra}
    if args.get("tasks") == "hub":
        return _hub(creator, str(args.get("split", "test")), limit, needs)
    # Without tools no corpus is opened and no translator loaded.
    args = {key: value for key, value in args.items() if key not in ("tools", "corpus")}
    try:
        tasks = make_env(environment.id, args | without_tools(environment)).tasks
    except MissingFileError as error:
        needs.append(str(error))
        return Tasks(None, str(args.get("tasks", "sample")))
    count = len(tasks)
    return Tasks(count if limit is None else min(limit, count), tasks.source)


def _translators(tools: Sequence[Any]) -> list[str]:
    """Translation models that are not on this machine."""
    models = [
        str(tool.get("model", "distilled-600M"))
        for tool in tools
        if isinstance(tool, Mapping) and tool.get("backend") == "nllb"
    ]
    return [
        f"translation model {model!r}: not in the hub's cache; it will be fetched"
        for model in models
        if not Path(model).exists() and not _in_hub_cache("models", MODELS.get(model, model))
    ]


def _hub(creator: Any, split: str, limit: int | None, needs: list[str]) -> Tasks:
    hub = getattr(getattr(creator, "__self__", None), "hub", None)
    if hub is None:
        return Tasks(limit, "hub")
    of, count = hub.cuts.get(split, (split, None))
    count = _PUBLISHED.get((hub.path, of)) if count is None else count
    if limit is not None:
        count = limit if count is None else min(limit, count)
    if not _cached(hub.path):
        needs.append(f"data set {hub.path!r}: not in the hub's cache; it will be fetched")
    return Tasks(count, f"hub:{hub.path}:{split}")


def _cached(path: str) -> bool:
    datasets = require_extra("datasets", "train")
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    return prepared.is_dir() or _in_hub_cache("datasets", path)


def _in_hub_cache(kind: str, path: str) -> bool:
    hub = require_extra("huggingface_hub", "train")
    return (Path(hub.constants.HF_HUB_CACHE) / f"{kind}--{path.replace('/', '--')}").is_dir()


def _there(corpus: str) -> bool:
    return corpus.startswith("hf:") or Path(corpus).exists() or bool(glob.glob(corpus))
