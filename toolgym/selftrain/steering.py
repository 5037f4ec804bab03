"""Practice under a curriculum: choose kinds, make tasks, play them, count what came of them."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import read_json, read_rows, write_rows
from toolgym.data.conditions import condition
from toolgym.rollouts.engine import Run
from toolgym.selftrain.curriculum import Place, Tally, choose, make_maker, named, weighted
from toolgym.selftrain.stages import (
    DONE,
    SITTING,
    Policies,
    Work,
    figures,
    roll,
    sitting_number,
    stage,
)
from toolgym.training.config import RIGHT

__all__ = ["LIVE", "by_kind", "history", "steered"]

LIVE = "-live.jsonl"
"""Tasks of an environment whose episodes were rewarded differently; with its label before."""


def history(work: Work) -> list[tuple[int, Place, Tally]]:
    """Round, kind, and what came of its tasks, for every sitting that is done."""
    found = []
    for number in range(1, work.settings.rounds + 1):
        practised = work.out / f"round-{number}" / "practice"
        for folder in sorted(practised.glob(f"{SITTING}*"), key=sitting_number):
            if not (folder / DONE).is_file():
                continue
            for label, kinds in read_json(folder / DONE)["results"].items():
                found += [
                    (number, (label, kind), Tally(*counts))
                    for kind, counts in kinds["kinds"].items()
                ]
    return found


def by_kind(work: Work) -> dict[Place, dict[int, Tally]]:
    """What came of each kind's tasks in each round, in the order in which they were asked first."""
    found: dict[Place, dict[int, Tally]] = {}
    for number, place, tally in history(work):
        found.setdefault(place, {}).setdefault(number, Tally()).add(tally)
    return found


def steered(work: Work, policies: Policies, name: str, number: int, folder: Path) -> dict[str, Any]:
    """Practise on tasks that are made for it; see `toolgym.selftrain.curriculum`.

    Tasks whose episodes were all rewarded alike are replaced, by playing on, before the round
    trains. What is learned from is every episode; GRPO plays the tasks of ``LABEL-live.jsonl``.

    Args:
        work: see `Work`.
        policies: of the current model.
        name: of the round.
        number: of the round; every round draws anew.
        folder: where the sittings go.
    """
    settings = work.settings.curriculum
    if settings is None:
        raise ValueError("the settings have no curriculum")
    totals: dict[str, Counter[str]] = {}
    live: dict[str, list[dict[str, Any]]] = {}
    left = settings.tasks
    for sitting in range(1, settings.sittings + 1):
        count = min(left, settings.portion)
        if not count:
            break
        left -= count
        part = f"{name}/practice/{SITTING}{sitting}"

        def play(place: Path, count: int = count, sitting: int = sitting) -> dict[str, Any]:
            return _sitting(work, policies, f"{name}: practice", (number, sitting), count, place)

        done = stage(work, part, play)
        for label, counts in done.items():
            kept = ("episodes", "right", "failures")
            totals.setdefault(label, Counter()).update({key: counts[key] for key in kept})
            file = work.out / part / f"{label}{LIVE}"
            if file.is_file():
                live.setdefault(label, []).extend(row for _, row in read_rows(file, "tasks"))
        if settings.groups is not None and sum(map(len, live.values())) >= settings.groups:
            break
    for label, rows in live.items():
        write_rows(folder / f"{label}{LIVE}", rows)
    return {label: dict(counts) for label, counts in totals.items()}


def _sitting(
    work: Work,
    policies: Policies,
    told: str,
    when: tuple[int, int],
    count: int,
    folder: Path,
) -> dict[str, Any]:
    """Choose kinds by what is known, make their tasks, play them, and count what came of them."""
    settings, (number, sitting) = work.settings, when
    curriculum = settings.curriculum
    if curriculum is None:
        raise ValueError("the settings have no curriculum")
    makers = {
        environment.label: make_maker(environment.maker)
        for environment in work.environments
        if environment.train is not None and environment.maker is not None
    }
    kinds = {(label, named(kind)): kind for label, made in makers.items() for kind in made.kinds()}
    drawn = sitting if curriculum.choose == "fixed" else (number, sitting)
    rng = random.Random(f"{settings.seed}-curriculum-{drawn}")
    chosen = choose(list(kinds), weighted(history(work), number), curriculum, count, rng)
    found: dict[str, Any] = {}
    for environment in work.environments:
        rows: list[dict[str, Any]] = []
        of: dict[str, str] = {}
        for place, wanted in chosen.items():
            label, kind = place
            if label != environment.label:
                continue
            seed = int(value_hash([settings.seed, drawn, label, kind])[:8], 16)
            for row in makers[label].make(kinds[place], wanted, seed, folder / "made"):
                fresh = f"r{number}-s{sitting}-{len(rows)}"
                rows.append({**row, "id": fresh})
                of[fresh] = kind
        if not rows:
            continue
        file = folder / f"{environment.label}-tasks.jsonl"
        write_rows(file, rows)
        run = roll(
            work,
            policies(settings.sampling.temperature, practice=True),
            environment,
            {**environment.practice(number), "tasks": str(file), "split": None},
            None,
            settings.samples_per_task,
            settings.seed + 1000 * number + sitting,
            folder / environment.label,
            f"{told} {environment.label}, sitting {sitting}",
        )
        tallies, live = _counted(run, of, settings.filters(number).where or RIGHT)
        if live:
            kept = [row for row in rows if row["id"] in live]
            write_rows(folder / f"{environment.label}{LIVE}", kept)
        counts = {kind: [getattr(tally, key) for key in Tally.__slots__] for kind, tally in tallies}
        found[environment.label] = figures(run) | {"kinds": counts}
    return found


def _counted(run: Run, of: dict[str, str], right: str) -> tuple[list[tuple[str, Tally]], set[str]]:
    """What came of each kind, and the tasks whose episodes were rewarded differently."""
    holds = condition(right, run)
    tallies: dict[str, Tally] = {}
    rewards: dict[str, set[float]] = {}
    for trajectory in run:
        tally = tallies.setdefault(of[trajectory.task.id], Tally())
        tally.tries += 1
        tally.right += holds(trajectory)
        rewards.setdefault(trajectory.task.id, set()).add(trajectory.reward)
    live = {task for task, seen in rewards.items() if len(seen) > 1}
    for task in rewards:
        tallies[of[task]].tasks += 1
        tallies[of[task]].live += task in live
    return sorted(tallies.items()), live
