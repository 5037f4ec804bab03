"""Where the tasks of a self-training run come from, and how many there are."""

from __future__ import annotations

import glob
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import load_env_creator

from toolgym._util.hashes import value_hash
from toolgym._util.optional import require_extra
from toolgym.data.chat import LearnAs
from toolgym.errors import BadInputError, MissingFileError
from toolgym.formats import get_format
from toolgym.grading.rubric import Rubric
from toolgym.registry import CORPORA, ENVIRONMENTS, MAKERS, TOOLS
from toolgym.rollouts.playing import make_env, spec_of
from toolgym.rollouts.runs import Run
from toolgym.selftrain.curriculum import make_maker
from toolgym.selftrain.settings import (
    EnvironmentSettings,
    OwnModel,
    SelfTrainSettings,
    of_round,
    own_model,
)
from toolgym.selftrain.stages import without_tools
from toolgym.tools.toolset import is_server
from toolgym.tools.translator.modelfiles import MODELS

__all__ = ["Places", "Tasks", "Used", "arguments", "bundled", "learning", "made_for", "places"]
__all__ += ["practice_rows", "searched", "used"]

_OWN = "its own world"
_SEARCH = "WikipediaSearch"


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
        later: what the second and further rounds practise on, where that is said; the last goes on.
    """

    name: str
    id: str
    practise: Tasks | None
    evaluate: Tasks | None
    corpus: str
    turns: int
    needs: tuple[str, ...] = ()
    later: tuple[Tasks, ...] = ()

    def practised(self, number: int) -> Tasks | None:
        """What a round practises on, counted from 1."""
        return of_round((self.practise, *self.later), number)


@dataclass(frozen=True, slots=True)
class Used:
    """What one environment of a run was played on, in practice or in the evaluations.

    Args:
        source: where the tasks come from.
        family: of the tasks, such as ``PopQA``.
        tasks: how many were played; None where the training drew them.
        tasks_hash: of all tasks of the source.
        corpus: what was searched, as it was named; empty where there was no search.
        corpus_hash: of the index.
        passages: in it; None where it is not there any more, or is another one now.
    """

    source: str
    family: str
    tasks: int | None
    tasks_hash: str
    corpus: str = ""
    corpus_hash: str = ""
    passages: int | None = None


def used(
    environment: EnvironmentSettings, part: str, folders: Sequence[Path], rounds: int | None = None
) -> list[Used]:
    """What an environment was played on in one part of a run; more than one where that changed.

    Args:
        environment: with its arguments.
        part: ``train`` or ``test``: the arguments that go with it.
        folders: of the recorded runs; where there is none, the training played by itself.
        rounds: how many there were.

    Raises:
        BadInputError: an argument that cannot be used.
        MissingFileError: nothing was recorded, and tasks or corpus are not there any more.
    """
    found: dict[Used, None] = {}
    for folder in folders:
        said = Run.open(folder).settings
        tasks = int(said["episodes"]) // int(said["samples_per_task"])
        facts = said["task_source"], said["task_family"], tasks, said["hashes"]["tasks"]
        found[Used(*facts, *_searched(environment.id, said["env"]["args"], said["hashes"]))] = None
    given = environment.practices[:rounds] if part == "train" else [environment.test or {}]
    for extra in () if folders else given:
        args = {**environment.args, **extra}
        env = make_env(environment.id, args)
        hashes = {tool.name: tool.fingerprint for tool in env.toolset if tool.fingerprint}
        drawn = env.tasks.source, env.tasks.name, None, env.tasks.fingerprint()
        found[Used(*drawn, *_searched(environment.id, args, hashes))] = None
    return list(found)


def made_for(environment: EnvironmentSettings, folders: Sequence[Path]) -> list[Used]:
    """What an environment practised on under a curriculum, as one: tasks were made by sitting."""
    found = used(environment, "train", folders) if folders else []
    if not found:
        return []
    tasks = sum(each.tasks or 0 for each in found)
    hashes = value_hash(sorted(each.tasks_hash for each in found))
    return [
        replace(found[0], source=f"made by {environment.maker!r}", tasks=tasks, tasks_hash=hashes)
    ]


def _searched(
    env_id: str, args: Mapping[str, Any], hashes: Mapping[str, str]
) -> tuple[str, str, int | None]:
    """The corpus that was searched, the hash of its index, and its passages."""
    if _SEARCH not in hashes:
        return "", "", None
    tools = [tool for tool in args.get("tools") or () if isinstance(tool, Mapping)]
    own = next((tool for tool in tools if tool.get("name") == _SEARCH), {})
    known = inspect.signature(_creator(env_id)).parameters
    default = known["corpus"].default if "corpus" in known else ""
    corpus = str(own.get("corpus") or args.get("corpus") or default)
    from toolgym.tools.search.tool import open_corpus

    try:
        index = open_corpus(corpus, own.get("index"))
    except MissingFileError:
        return corpus, hashes[_SEARCH], None
    # Of passages that are read in part, the tool's hash says how, too.
    partly = value_hash([index.fingerprint, "best", own.get("passage_chars", 600)])
    same = hashes[_SEARCH] in (index.fingerprint, partly)
    return corpus, hashes[_SEARCH], len(index) if same else None


def places(settings: SelfTrainSettings) -> list[Places]:
    """The environments of a run; no corpus is opened and nothing is fetched.

    Raises:
        UnknownNameError: an environment, tool, format, prompt or reward that does not exist.
        BadInputError: an argument that cannot be used, or a broken task file.
    """
    if settings.grpo.reward is not None:
        Rubric(settings.grpo.reward)
    own = own_model(settings.model)
    if own is not None and not settings.environments:
        return _brought(own, settings)
    return [_place(settings, environment) for environment in settings.environments]


def _brought(own: OwnModel, settings: SelfTrainSettings) -> list[Places]:
    """The environments that a preset brings; their files are not written yet."""
    found, counts = [], own.tasks(settings.build)
    for environment in own.environments(Path("world")):
        practise, evaluate = (Tasks(count, _OWN) for count in counts[environment.label])
        corpus = _OWN if "corpus" in environment.args else ""
        turns = int(environment.args.get("max_steps", 1))
        found.append(Places(environment.label, environment.id, practise, evaluate, corpus, turns))
    return found


def searched(environment: EnvironmentSettings) -> str:
    """What an environment searches, or nothing where it has no search.

    Raises:
        UnknownNameError: an environment that does not exist.
    """
    known = inspect.signature(_creator(environment.id)).parameters
    if "corpus" not in known:
        return ""
    return str(environment.args.get("corpus") or known["corpus"].default or "")


def arguments(values: Mapping[str, Any]) -> str:
    """Arguments of an environment, a filter or a training in words."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "all tasks"


def practice_rows(
    settings: SelfTrainSettings, environment: EnvironmentSettings
) -> list[tuple[str, str]]:
    """What practice was given and how it is learned, for a table; by round where that changes.

    Raises:
        BadInputError: see `learning`.
    """
    rows = []
    given = environment.practices[: max(1, settings.rounds)]
    for number, args in enumerate(given, 1):
        when = f" in round {number}" if number < len(given) else f" from round {number} on"
        where = environment.label + (when if len(given) > 1 else "")
        if args or len(given) > 1:
            rows.append((f"practised in {where}", arguments(args)))
        anew = learning(settings, environment, number)
        if anew is not None:
            rows.append((f"learned from {where}", f"re-rendered with {anew}"))
    return rows


def learning(
    settings: SelfTrainSettings, environment: EnvironmentSettings, number: int
) -> LearnAs | None:
    """The prompt under which an environment's practice is learned; None: as it was played.

    Args:
        settings: of the run; what they say goes before.
        environment: else its evaluation's prompt, where practice has another or worked examples.
        number: of the round, from 1.

    Raises:
        UnknownNameError: an environment that does not exist.
        BadInputError: practice and evaluation have different examples, of which none can be made
            of the other.
    """
    if settings.learn_as is not None or environment.train is None:
        return LearnAs.read(settings.learn_as)
    practice = {**environment.args, **environment.practice(number)}
    wanted = {**environment.args, **(environment.test or {})}
    known = inspect.signature(_creator(environment.id)).parameters
    found: dict[str, Any] = {}
    prompts = [args.get("prompt", _default(known, "prompt")) for args in (practice, wanted)]
    if prompts[0] != prompts[1]:
        found["prompt"] = prompts[1]
    examples = practice.get("examples", 0), wanted.get("examples", 0)
    if examples[0] != examples[1]:
        if examples[1] != 0:
            raise BadInputError(
                f"environment {environment.label!r} practises with examples={examples[0]!r:.40} "
                f"and is evaluated with {examples[1]!r:.40}: replies can be learned without "
                "examples (evaluate with 0) or as they were played (say learn_as: {})"
            )
        found["examples"] = 0
    return LearnAs.read(found)


def _default(known: Mapping[str, inspect.Parameter], name: str) -> Any:
    return known[name].default if name in known else None


def bundled(corpus: str) -> str:
    """What a registered corpus is, in words; any other is its own name."""
    return (CORPORA.about(corpus) or repr(corpus)) if corpus in CORPORA else corpus


def _creator(env_id: str) -> Any:
    return load_env_creator(str(spec_of(env_id).entry_point))


def _place(settings: SelfTrainSettings, environment: EnvironmentSettings) -> Places:
    needs: list[str] = []
    creator = _creator(environment.id)
    known = inspect.signature(creator).parameters
    _check(environment.args, known)
    made, test = _made(settings, environment), environment.test
    practices = []
    for number, extra in enumerate(environment.practices, 1):
        learning(settings, environment, number)
        practices.append(_tasks(environment, extra, environment.train_tasks, needs, made))
    evaluate = None if test is None else _tasks(environment, test, environment.test_tasks, needs)
    corpus = searched(environment)
    needs += _translators(environment.args.get("tools") or ())
    default = known["max_steps"].default if "max_steps" in known else 1
    if corpus and corpus not in CORPORA and not _there(corpus):
        needs.append(f"corpus {corpus!r}: not there; `toolgym index build` makes one")
    return Places(
        environment.label,
        environment.id,
        practices[0] if practices else None,
        evaluate,
        bundled(corpus),
        int(environment.args.get("max_steps", default)),
        tuple(dict.fromkeys(needs)),
        tuple(practices[1:]),
    )


def _made(settings: SelfTrainSettings, environment: EnvironmentSettings) -> int | None:
    """Most tasks that are made for an environment in a round; None: it has tasks.

    Raises:
        BadInputError: nobody makes them, or with options that do not fit.
    """
    if settings.curriculum is None or environment.train is None:
        return None
    if environment.maker is None:
        raise BadInputError(
            f"environment {environment.label!r} has no maker, and a curriculum plays new tasks: "
            f"give it one of {', '.join(MAKERS)}, or leave curriculum out"
        )
    make_maker(environment.maker)
    return settings.curriculum.tasks


def _check(args: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Names that `_tasks` leaves out."""
    default = {n: known[n].default for n in ("format", "prompt") if n in known}
    chosen = {**default, **{name: args[name] for name in default if name in args}}
    if len(chosen) == 2:
        get_format(chosen["format"], chosen["prompt"])
    for tool in args.get("tools") or ():
        if not is_server(tool):
            TOOLS.get(tool["name"] if isinstance(tool, Mapping) else tool)


def _tasks(
    environment: EnvironmentSettings,
    extra: Mapping[str, Any],
    limit: int | None,
    needs: list[str],
    makes: int | None = None,
) -> Tasks:
    if makes is not None:
        return Tasks(makes, f"made in each round by {environment.maker!r}")
    args = {**environment.args, **extra}
    name = spec_of(environment.id).id
    facts = ENVIRONMENTS.source_facts(name, str(args.get("tasks", "sample")), args.get("split"))
    if facts is not None:
        if facts.dataset and not _cached(facts.dataset):
            needs.append(f"data set {facts.dataset!r}: not in the hub's cache; it will be fetched")
        counts = [count for count in (facts.tasks, limit) if count is not None]
        return Tasks(min(counts, default=None), facts.source)
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


def _cached(path: str) -> bool:
    datasets = require_extra("datasets", "train")
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    return prepared.is_dir() or _in_hub_cache("datasets", path)


def _in_hub_cache(kind: str, path: str) -> bool:
    hub = require_extra("huggingface_hub", "train")
    return (Path(hub.constants.HF_HUB_CACHE) / f"{kind}--{path.replace('/', '--')}").is_dir()


def _there(corpus: str) -> bool:
    return corpus.startswith("hf:") or Path(corpus).exists() or bool(glob.glob(corpus))
