"""How a round learns: what is chosen from its practice, and which training follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolgym._jsonl import write_rows
from toolgym.conditions import condition
from toolgym.errors import BadInputError
from toolgym.exporting import message_rows, token_row
from toolgym.filtering import sift
from toolgym.pairing import balance, make_pairs, pair_row, token_pair_row
from toolgym.rollouts import make_env
from toolgym.runs import Run
from toolgym.training.stages import Work
from toolgym.trajectory import Trajectory

__all__ = ["PRACTISED", "selection", "training"]

PRACTISED = ("sft", "dpo")
"""Methods that learn from episodes recorded beforehand; the others play while they train."""
ROWS = "rows.jsonl"

Chosen = tuple[list[dict[str, Any]], dict[str, Any]]


def selection(work: Work, method: str, practised: Path, folder: Path) -> dict[str, Any]:
    """Choose what to learn from the practice of every environment, and write it as rows.

    Every row carries the id of its episode, or of both episodes of a pair.

    Args:
        work: see `Work`.
        method: one of `PRACTISED`.
        practised: folder of the practice's runs.
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
        choose = _episodes if method == "sft" else _pairs
        made, counts[environment.label] = choose(work, run, folder / environment.label)
        rows += made
    if not rows:
        raise BadInputError(
            "nothing to train on: "
            + "; ".join(
                f"{name}: none of {c['total']} episodes kept ({c['dropped']})"
                for name, c in counts.items()
            )
            + "; loosen the filter, raise samples_per_task, or begin with a better model"
        )
    write_rows(folder / ROWS, rows)
    return counts


def _episodes(work: Work, run: Run, folder: Path) -> Chosen:
    kept = sift(run, **work.settings.filter.model_dump(), seed=work.settings.seed)
    kept.write(folder)
    return [_row(trajectory) for trajectory in kept.kept], kept.summary()


def _row(trajectory: Trajectory) -> dict[str, Any]:
    exact = trajectory.tokens is not None
    return token_row(trajectory) if exact else message_rows([trajectory])[0][0]


def _pairs(work: Work, run: Run, folder: Path) -> Chosen:
    settings = work.settings
    trajectories = run.trajectories()
    counts: dict[str, Any] = {"total": len(trajectories), "kept": 0, "dropped": {}}
    right = condition(settings.filter.where or "accuracy>=1", trajectories)
    try:
        pairs, counts["dropped"] = make_pairs(
            trajectories, right, pairing=settings.dpo.pairing, per_task=settings.dpo.per_task
        )
    except BadInputError as error:
        return [], counts | {"dropped": {str(error): len(trajectories)}}
    rows = [token_pair_row(pair) or pair_row(pair, "auto") for pair in pairs]
    return rows, counts | {"kept": len(rows), "balance": balance(pairs)}


def training(
    work: Work, method: str, number: int, model: str, rows: Path, folder: Path
) -> dict[str, Any]:
    """Train on what was chosen, or by playing; the next model lies in ``folder/model``.

    Args:
        work: see `Work`.
        method: ``sft``, ``dpo`` or ``grpo``.
        number: of the round, from 1.
        model: the model to begin with.
        rows: what `selection` wrote.
        folder: of this stage.
    """
    name = f"round-{number}: training"

    def tell(done: int, total: int, note: str) -> None:
        work.tell(name, done, total, note)

    train: dict[str, Callable[..., Any]] = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}
    made = train[method](work, number, model, rows, folder / "model", tell)
    return {key: value for key, value in asdict(made).items() if key != "path"}


def _sft(work: Work, number: int, model: str, rows: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.sft import train_sft

    options = work.settings.train.model_dump()
    return train_sft(rows, model, out, **options, seed=work.settings.seed, progress=tell)


def _dpo(work: Work, number: int, model: str, rows: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.dpo import train_dpo

    options = work.settings.dpo.model_dump(exclude={"pairing", "per_task"})
    return train_dpo(rows, model, out, **options, seed=work.settings.seed, progress=tell)


def _grpo(work: Work, number: int, model: str, rows: Path, out: Path, tell: Any) -> Any:
    from toolgym.training.grpo import train_grpo

    settings, sampling = work.settings, work.settings.sampling
    worlds = []
    for environment in settings.environments or work.environments:
        if environment.train is None:
            continue
        given = {**environment.args, **environment.train}
        if settings.grpo.reward is not None:
            given["reward"] = settings.grpo.reward
        world = make_env(environment.id, given)
        if environment.train_tasks is not None:
            world.tasks = world.tasks.shuffled(settings.seed)[: environment.train_tasks]
        worlds.append(world)
    return train_grpo(
        worlds,
        model,
        out,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        max_prompt_tokens=sampling.max_prompt_tokens,
        max_tokens=settings.grpo.max_length,
        sampling_batch_size=sampling.batch_size,
        # Every round draws anew.
        seed=settings.seed + 1000 * number,
        progress=tell,
        **settings.grpo.model_dump(exclude={"reward", "max_length"}),
    )
