"""Self-training: evaluate, then by round practise, filter, train, evaluate; then a report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import need, quiet
from toolgym.errors import BadInputError
from toolgym.selftrain import methods, stages
from toolgym.selftrain import preflight as beginning
from toolgym.selftrain.presets import miniature_environments
from toolgym.selftrain.report import write_report
from toolgym.selftrain.report_sections import fell
from toolgym.selftrain.settings import SelfTrainSettings, load_settings
from toolgym.selftrain.stages import Progress, Work, stage
from toolgym.training.config import processes
from toolgym.training.output import held

if TYPE_CHECKING:
    from toolgym.miniature.settings import BaseSettings

__all__ = ["base_settings", "selftrain"]


def selftrain(
    settings: SelfTrainSettings | Mapping[str, Any] | str | Path,
    *,
    out: str | Path,
    progress: Progress | None = None,
) -> Path:
    """Let a model practise in environments and learn from its own right episodes.

    Can be ended at any moment, by Ctrl-C or signal 9: the same call goes on where it was, and ends
    with the same result.

    Args:
        settings: the settings, or a YAML or JSON file of them; see `SelfTrainSettings`.
        out: folder of everything that is made.
        progress: called with stage, done, planned and a note.

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
    need("transformers", "train")  # before anything is written, and for quiet() to find
    if processes() > 1:
        raise BadInputError(
            f"self-training runs in one process, not in {processes()}; train its rounds with "
            "`toolgym train` where several are needed"
        )
    folder = Path(out).resolve()
    with quiet():
        beginning.check(loaded)
    with held(folder, f"self-training in {str(folder)!r}"), quiet():
        beginning.remember(loaded, folder)
        work = Work(loaded, list(loaded.environments), folder, progress)
        model = _base(work)
        base = model
        history = [_evaluate(work, model, 0)]
        if loaded.baseline:
            run = partial(stages.baseline, work, partial(_player, work, model))
            stage(work, stages.BASELINE, run)
        rounds: list[dict[str, Any]] = []
        for number in range(1, loaded.rounds + 1):
            begin = model if loaded.begin_with == "last" else base
            done, model = _round(work, model, begin, number)
            rounds.append(done)
            history.append(_evaluate(work, model, number))
            if loaded.stop_when_worse and fell(work, number):
                break
        return write_report(work, history, rounds)


def _base(work: Work) -> str:
    """The model to begin with; the miniature and its world are built in the run's folder."""
    if work.settings.model != "miniature":
        return work.settings.model
    results = stage(work, "base", partial(_build_miniature, work))
    folder = work.out / "base"
    if not work.environments:
        work.environments = miniature_environments(folder / results["world"])
    return str(folder / results["model"])


def base_settings(settings: SelfTrainSettings) -> BaseSettings:
    """Sizes and steps of the miniature.

    Raises:
        BadInputError: a setting that it does not have.
    """
    from toolgym.miniature.settings import BaseSettings

    options = dict(settings.miniature.base)
    try:
        return BaseSettings.tiny() if options.pop("tiny", False) else BaseSettings(**options)
    except TypeError as error:
        raise BadInputError(f"miniature.base: {error}") from error


def _build_miniature(work: Work, folder: Path) -> dict[str, Any]:
    from toolgym.miniature.base import build_base
    from toolgym.miniature.world import World

    chosen, base = work.settings.miniature, base_settings(work.settings)

    def tell(done: Any) -> None:
        work.tell(f"base: {done.stage}", done.step, done.steps, f"loss {done.loss:.2f}")

    World(chosen.seed).write(folder / "world", train=chosen.train, test=chosen.test)
    model = build_base(folder, seed=chosen.seed, settings=base, progress=tell)
    return {"model": model.name, "world": "world"}


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
    policies = partial(_player, work, model)
    practised, beside = f"{name}/{methods.PRACTICE}", None
    if methods.practises(work.settings, method):
        play = partial(stages.practice, work, policies, name, number)
        done["practice"] = stage(work, practised, play)
    if method == "dpo" and work.settings.dpo.without_tools:
        beside = work.out / name / "without-tools"
        bare = partial(stages.practice, work, policies, name, number, tools=False)
        done["without_tools"] = stage(work, f"{name}/{beside.name}", bare)
    if method in methods.SELECTED:
        choose = partial(methods.selection, work, method, work.out / practised, beside)
        done["selection"] = stage(work, f"{name}/{methods.SELECTION}", choose)
    # On a GPU the model that plays and the one that trains would not fit beside each other.
    _unload()
    train = partial(methods.training, work, method, number, begin, work.out / name)
    done["training"] = stage(work, f"{name}/training", train)
    return done, str(work.out / name / "training" / "model")


def _evaluate(work: Work, model: str, number: int) -> dict[str, Any]:
    name = f"evaluation-{number}"
    return stage(work, name, partial(stages.evaluation, work, partial(_player, work, model), name))


def _player(work: Work, model: str, temperature: float) -> Any:
    """A policy of the model; the weights are loaded once for all policies of the same model."""
    from toolgym.policies.local.transformers import TransformersPolicy

    options = work.settings.sampling.model_dump(exclude={"temperature", "concurrency"})
    return TransformersPolicy(model, temperature=temperature, **options)


def _unload() -> None:
    from toolgym.policies.local.transformers import unload_models

    unload_models()
