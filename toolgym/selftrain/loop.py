"""Self-training: evaluate, then by round practise, filter, train, evaluate; then a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_rows
from toolgym._util.optional import quiet, require_extra
from toolgym._util.progress import shown
from toolgym._util.workfolder import hold
from toolgym.data.chat import LearnAs
from toolgym.data.conditions import condition
from toolgym.data.filter import select
from toolgym.data.lineage import Origins, link_rows
from toolgym.data.pairs import Balance, Groups, pairs_of
from toolgym.errors import BadInputError
from toolgym.rollouts.playing import open_env
from toolgym.rollouts.recording import Episodes
from toolgym.rollouts.runs import Run
from toolgym.selftrain import preflight, stages
from toolgym.selftrain.environments import learning
from toolgym.selftrain.judging import Evaluations, fell
from toolgym.selftrain.report import write_report
from toolgym.selftrain.settings import SelfTrainSettings, load_settings, own_model
from toolgym.selftrain.stages import Progress, Work, stage
from toolgym.selftrain.steering import LIVE, steered
from toolgym.training.config import RIGHT, GroupConfig, Sampling, TrainConfig, processes
from toolgym.trajectory import EpisodeSpool, Trajectory

__all__ = ["SELECTED", "selection", "selftrain", "training"]

SELECTED = ("sft", "dpo")
"""Methods that learn from chosen episodes; the others play while they train."""
PRACTICE = "practice"
SELECTION = "selection"
ROWS = "rows.jsonl"

Chosen = tuple[Origins, dict[str, Any]]


def selection(
    work: Work, method: str, number: int, practised: Path, beside: Path | None, folder: Path
) -> dict[str, Any]:
    """Choose what to learn from the practice of every environment, and write it as rows.

    Every row carries the id of its episode, or of both episodes of a pair.

    Args:
        work: see `Work`.
        method: one of `SELECTED`.
        number: of the round, from 1.
        practised: folder of the practice's runs.
        beside: folder of the runs without tools, where DPO asks for them.
        folder: where to write.

    Returns:
        By environment: ``total`` episodes, ``kept`` rows, and what was ``dropped``, by reason.

    Raises:
        BadInputError: there is nothing to train on in any of them.
    """
    rows: list[dict[str, Any]] = []
    groups: list[Origins] = []
    counts: dict[str, Any] = {}
    for environment in work.environments:
        if environment.train is None:
            continue
        runs = stages.recorded(practised, environment.label)
        if not runs:
            continue
        # One environment in which nothing is right yet must not end a run that learns in another.
        anew = learning(work.settings, environment, number)
        if method == "sft":
            kept = folder / environment.label
            made, counts[environment.label] = _episodes(work, number, runs, kept, anew)
        else:
            other = None if beside is None else Run.open(beside / environment.label)
            made, counts[environment.label] = _pairs(work, number, runs, other, anew)
        rows += made.rows
        groups += [made] if made.rows else []
    if not rows:
        raise BadInputError(
            "nothing to train on: "
            + "; ".join(
                f"{name}: none of {c['total']} episodes kept ({_reasons(c['dropped'])})"
                for name, c in counts.items()
            )
            + "; loosen filter (or dpo.pairing) and go on in this folder; or raise "
            "samples_per_task or take a better model, in another one"
        )
    write_rows(folder / ROWS, rows)
    link_rows(folder / ROWS, groups)
    return counts


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"


def _episodes(
    work: Work, number: int, runs: list[Run], folder: Path, anew: LearnAs | None
) -> Chosen:
    from toolgym.training.sft import episode_row

    options = work.settings.filters(number).model_dump()
    source = runs[0] if len(runs) == 1 else [each for run in runs for each in run]
    kept = select(source, **options, seed=work.settings.seed, may_be_empty=True)
    kept.write(folder)
    rows: list[dict[str, Any]] = []
    origins = _origins(kept.trajectories, runs, rows)
    for trajectory in origins:
        rows.append(episode_row(trajectory, anew))
    origins.rows = rows
    return origins, kept.summary()


def _origins(read: Callable[[], Sequence[Trajectory]], runs: list[Run], made: Sized) -> Origins:
    origin = {"path": [str(run.path) for run in runs]}
    return Origins(Episodes.in_memory(read, origin, held=True), made)


def _pairs(
    work: Work, number: int, runs: list[Run], beside: Run | None, anew: LearnAs | None
) -> Chosen:
    from toolgym.training.dpo import episode_pair

    settings = work.settings
    # A round's practice is held: which run a side is of shows by the episode itself.
    bare = [] if beside is None else beside.trajectories()
    trajectories = [*(each for run in runs for each in run.trajectories()), *bare]
    counts: dict[str, Any] = {"total": len(trajectories), "kept": 0}
    right = condition(settings.dpo.where or settings.filters(number).where or RIGHT, trajectories)
    rows: list[dict[str, Any]] = []
    sides, dropped, spool = Balance(), Counter[str](), EpisodeSpool(held=True)
    origins = _origins(lambda: trajectories, runs if beside is None else [*runs, beside], spool)
    groups = Groups(origins, spool)
    how: Any = {"pairing": settings.dpo.pairing, "per_task": settings.dpo.per_task}
    try:
        for pair in pairs_of(groups, right, dropped, **how):
            row = episode_pair(pair, anew)
            # Both runs count their episodes from 0.
            apart = any(pair.rejected is trajectory for trajectory in bare)
            rows.append({**row, "rejected_without_tools": True} if apart else row)
            origins.pair(groups.place(pair.chosen), groups.place(pair.rejected))
            sides.add(pair)
    except BadInputError as error:
        return origins, counts | {"dropped": {str(error): len(trajectories)}}
    origins.rows = rows
    counts |= {"kept": len(rows), "dropped": dict(dropped)}
    return origins, counts | {"balance": sides.told()}


def training(
    work: Work, method: str, number: int, model: str, begun: Path, folder: Path
) -> dict[str, Any]:
    """Train on what was chosen, or by playing; the next model lies in ``folder/model``.

    Args:
        work: see `Work`.
        method: ``sft``, ``dpo`` or ``grpo``.
        number: of the round, from 1.
        model: the model to begin with.
        begun: folder of the round, with what it practised and chose.
        folder: of this stage.
    """
    name = f"round-{number}: training"

    def tell(done: int, total: int, note: str) -> None:
        work.tell(name, done, total, note)

    train: dict[str, Callable[..., Any]] = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}
    made = train[method](work, number, model, begun, folder / "model", tell)
    return {key: value for key, value in asdict(made).items() if key != "path"}


def _sft(work: Work, number: int, model: str, begun: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.sft import train_sft

    rows, config = begun / SELECTION / ROWS, work.settings.train
    return train_sft(rows, model, out, config, seed=_seed(work, config), progress=tell)


def _dpo(work: Work, number: int, model: str, begun: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.dpo import train_dpo

    rows, config = begun / SELECTION / ROWS, work.settings.dpo
    return train_dpo(rows, model, out, config, seed=_seed(work, config), progress=tell)


def _seed(work: Work, config: TrainConfig) -> int:
    return work.settings.seed if config.seed is None else config.seed


def _grpo(work: Work, number: int, model: str, begun: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.grpo import train_grpo

    settings, sampling = work.settings, work.settings.sampling
    from_prefixes = settings.grpo.starts == "prefixes"
    worlds, played = [], []
    for environment in settings.environments or work.environments:
        if environment.train is None:
            continue
        given = {**environment.args, **environment.practice(number)}
        if settings.curriculum is not None and not from_prefixes:
            live = begun / PRACTICE / f"{environment.label}{LIVE}"
            if not live.is_file():
                continue
            given["tasks"] = str(live)
        if settings.grpo.reward is not None:
            given["reward"] = settings.grpo.reward
        world = open_env(environment.id, given).bare("GRPO")
        if from_prefixes:
            played += stages.recorded(begun / PRACTICE, environment.label)
        elif environment.train_tasks is not None and settings.curriculum is None:
            world.tasks = world.tasks.shuffled(settings.seed)[: environment.train_tasks]
        worlds.append(world)
    if not worlds:
        raise BadInputError(
            "in no task of the practice were the episodes rewarded differently: there is nothing "
            "that GRPO could learn; raise curriculum.tasks or samples_per_task, or take kinds that "
            "are nearer to what the model can do"
        )
    return train_grpo(
        worlds,
        model,
        out,
        settings.grpo.model_dump(include=set(GroupConfig.model_fields)),
        prefixes=played or None,
        **sampling.model_dump(include=set(Sampling.model_fields)),
        sampling_batch_size=sampling.batch_size,
        served=work.players.in_training(),
        # Every round draws anew.
        seed=_seed(work, settings.grpo) + 1000 * number,
        progress=tell,
    )


def selftrain(
    settings: SelfTrainSettings | Mapping[str, Any] | str | Path,
    *,
    out: str | Path,
    progress: Progress | bool | None = None,
) -> Path:
    """Let a model practise in environments and learn from its own right episodes.

    Can be ended at any moment, by Ctrl-C or signal 9: the same call goes on where it was, and ends
    with the same result.

    Args:
        settings: the settings, or a YAML or JSON file of them; see `SelfTrainSettings`.
        out: folder of everything that is made.
        progress: called with stage, done, planned and a note. None: a bar, in a terminal or a
            notebook; False: none.

    Returns:
        The report in Markdown; ``report.html`` lies beside it.

    Raises:
        BadInputError: settings that do not fit, or nothing right was found to train on.
        RunMismatchError: the folder was begun with other settings, or is in use.
        MissingExtraError: torch, transformers or TRL is missing.
        MissingFileError: a model, a task file or a corpus is missing.
        TemplateError: the model's chat template cannot be trained on.
    """
    loaded = load_settings(settings)
    require_extra("transformers", "train")  # before anything is written, and for quiet() to find
    if processes() > 1:
        raise BadInputError(
            f"self-training runs in one process, not in {processes()}; train its rounds with "
            "`toolgym train` where several are needed"
        )
    folder = Path(out).resolve()
    with quiet():
        preflight.check(loaded)
    with hold(folder, f"self-training in {str(folder)!r}"), quiet():
        preflight.remember(loaded, folder)
        work = Work(loaded, list(loaded.environments), folder, shown(progress, "selftrain"))
        with work.players:
            return _all_stages(work)


def _all_stages(work: Work) -> Path:
    """All stages in order; the report."""
    settings = work.settings
    model = _base(work)
    base = model
    history = [_evaluate(work, model, 0)]
    Evaluations(work).judge()  # refuses a metric that these tasks do not have, before the rounds
    if settings.baseline:
        run = partial(stages.baseline, work, partial(work.players.policy, model))
        stage(work, stages.BASELINE, run)
    rounds: list[dict[str, Any]] = []
    for number in range(1, settings.rounds + 1):
        begin = model if settings.begin_with == "last" else base
        done, model = _round(work, model, begin, number)
        rounds.append(done)
        history.append(_evaluate(work, model, number))
        if settings.stop_when_worse and fell(work, number):
            break
    return write_report(work, history, rounds)


def _base(work: Work) -> str:
    """The model to begin with; one that its preset builds, and its world, lie in the run's folder.

    Raises:
        BadInputError: options that the preset cannot use.
    """
    settings = work.settings
    own = own_model(settings.model)
    if own is None:
        return settings.model

    def build(folder: Path) -> dict[str, Any]:
        def tell(stage: str, done: int, total: int, note: str) -> None:
            work.tell(f"base: {stage}", done, total, note)

        model, world = own.build(settings.build, folder, tell)
        return {"model": model, "world": world}

    results = stage(work, "base", build)
    folder = work.out / "base"
    if not work.environments:
        work.environments = own.environments(folder / results["world"])
    return str(folder / results["model"])


def _round(work: Work, model: str, begin: str, number: int) -> tuple[dict[str, Any], str]:
    """One round; returns its counts and the next model.

    Args:
        work: see `Work`.
        model: that practises.
        begin: that is trained: the same, or the base.
        number: of the round, from 1.
    """
    name, method = f"round-{number}", work.settings.method(number)
    done: dict[str, Any] = {"method": method}
    policies = partial(work.players.policy, model)
    practised, beside = f"{name}/{PRACTICE}", None
    if work.settings.practises(method):
        way = stages.practice if work.settings.curriculum is None else steered
        play = partial(way, work, policies, name, number)
        done["practice"] = stage(work, practised, play)
    if method == "dpo" and work.settings.dpo.without_tools:
        beside = work.out / name / "without-tools"
        bare = partial(stages.practice, work, policies, name, number, tools=False)
        done["without_tools"] = stage(work, f"{name}/{beside.name}", bare)
    if method in SELECTED:
        choose = partial(selection, work, method, number, work.out / practised, beside)
        done["selection"] = stage(work, f"{name}/{SELECTION}", choose)
    # On a GPU the model that plays and the one that trains would not fit beside each other.
    work.players.release()
    train = partial(training, work, method, number, begin, work.out / name)
    done["training"] = stage(work, f"{name}/training", train)
    return done, str(work.out / name / "training" / "model")


def _evaluate(work: Work, model: str, number: int) -> dict[str, Any]:
    name = f"evaluation-{number}"
    policies = partial(work.players.policy, model)
    return stage(work, name, partial(stages.evaluation, work, policies, name))
