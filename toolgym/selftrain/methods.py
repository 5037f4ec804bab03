"""How a round learns: what is chosen from its practice, and which training follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_rows
from toolgym.data.conditions import condition
from toolgym.data.export import message_rows, token_row
from toolgym.data.filter import sift
from toolgym.data.pairs import balance, make_pairs, pair_row, token_pair_row
from toolgym.errors import BadInputError
from toolgym.rollouts.engine import make_env
from toolgym.rollouts.runs import Run
from toolgym.selftrain.settings import SelfTrainSettings
from toolgym.selftrain.stages import Work
from toolgym.trajectory import Trajectory

__all__ = ["SELECTED", "practises", "selection", "training"]

SELECTED = ("sft", "dpo")
"""Methods that learn from chosen episodes; the others play while they train."""
PRACTICE = "practice"
SELECTION = "selection"
ROWS = "rows.jsonl"

Chosen = tuple[list[dict[str, Any]], dict[str, Any]]


def practises(settings: SelfTrainSettings, method: str) -> bool:
    """Whether a round of this method begins with recorded episodes."""
    return method in SELECTED or settings.grpo.starts == "prefixes"


def selection(
    work: Work, method: str, practised: Path, beside: Path | None, folder: Path
) -> dict[str, Any]:
    """Choose what to learn from the practice of every environment, and write it as rows.

    Every row carries the id of its episode, or of both episodes of a pair.

    Args:
        work: see `Work`.
        method: one of `SELECTED`.
        practised: folder of the practice's runs.
        beside: folder of the runs without tools, where DPO asks for them.
        folder: where to write.

    Returns:
        By environment: ``total`` episodes, ``kept`` rows, and what was ``dropped``, by reason.

    Raises:
        BadInputError: there is nothing to train on in any of them.
    """
    rows: list[dict[str, Any]] = []
    counts: dict[str, Any] = {}
    for environment in work.environments:
        if environment.train is None:
            continue
        # One environment in which nothing is right yet must not end a run that learns in another.
        run = Run.open(practised / environment.label)
        if method == "sft":
            made, counts[environment.label] = _episodes(work, run, folder / environment.label)
        else:
            other = None if beside is None else Run.open(beside / environment.label)
            made, counts[environment.label] = _pairs(work, run, other)
        rows += made
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
    return counts


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"


def _episodes(work: Work, run: Run, folder: Path) -> Chosen:
    kept = sift(run, **work.settings.filter.model_dump(), seed=work.settings.seed)
    kept.write(folder)
    return [_row(trajectory) for trajectory in kept.kept], kept.summary()


def _row(trajectory: Trajectory) -> dict[str, Any]:
    exact = trajectory.tokens is not None
    return token_row(trajectory) if exact else message_rows([trajectory])[0][0]


def _pairs(work: Work, run: Run, beside: Run | None) -> Chosen:
    settings = work.settings
    bare = [] if beside is None else beside.trajectories()
    trajectories = [*run.trajectories(), *bare]
    counts: dict[str, Any] = {"total": len(trajectories), "kept": 0, "dropped": {}}
    right = condition(settings.filter.where or "accuracy>=1", trajectories)
    try:
        pairs, counts["dropped"] = make_pairs(
            trajectories, right, pairing=settings.dpo.pairing, per_task=settings.dpo.per_task
        )
    except BadInputError as error:
        return [], counts | {"dropped": {str(error): len(trajectories)}}
    rows = []
    for pair in pairs:
        row = token_pair_row(pair) or pair_row(pair, "auto")
        # Both runs count their episodes from 0.
        apart = any(pair.rejected is trajectory for trajectory in bare)
        rows.append({**row, "rejected_without_tools": True} if apart else row)
    return rows, counts | {"kept": len(rows), "balance": balance(pairs)}


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

    options = work.settings.train.model_dump()
    rows = begun / SELECTION / ROWS
    return train_sft(rows, model, out, **options, seed=work.settings.seed, progress=tell)


def _dpo(work: Work, number: int, model: str, begun: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.dpo import train_dpo

    rows = begun / SELECTION / ROWS
    options = work.settings.dpo.model_dump(exclude={"pairing", "per_task", "without_tools"})
    return train_dpo(rows, model, out, **options, seed=work.settings.seed, progress=tell)


def _grpo(work: Work, number: int, model: str, begun: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.grpo import train_grpo

    settings, sampling = work.settings, work.settings.sampling
    from_prefixes = settings.grpo.starts == "prefixes"
    worlds, played = [], []
    for environment in settings.environments or work.environments:
        if environment.train is None:
            continue
        given = {**environment.args, **environment.train}
        if settings.grpo.reward is not None:
            given["reward"] = settings.grpo.reward
        world = make_env(environment.id, given)
        if from_prefixes:
            played.append(Run.open(begun / PRACTICE / environment.label))
        elif environment.train_tasks is not None:
            world.tasks = world.tasks.shuffled(settings.seed)[: environment.train_tasks]
        worlds.append(world)
    return train_grpo(
        worlds,
        model,
        out,
        prefixes=played or None,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        max_prompt_tokens=sampling.max_prompt_tokens,
        template=sampling.template,
        max_tokens=settings.grpo.max_length,
        sampling_batch_size=sampling.batch_size,
        cache_gib=sampling.cache_gib,
        # Every round draws anew.
        seed=settings.seed + 1000 * number,
        progress=tell,
        **settings.grpo.model_dump(exclude={"starts", "reward", "max_length"}),
    )
