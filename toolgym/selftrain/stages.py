"""The stages of a self-training run: each has a folder, and a marker once it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, write_json
from toolgym._util.text import written
from toolgym.rollouts.engine import Run, rollout
from toolgym.rollouts.playing import make_env
from toolgym.selftrain.sampling import Players
from toolgym.selftrain.settings import EnvironmentSettings, SelfTrainSettings

__all__ = [
    "BASELINE",
    "DONE",
    "SITTING",
    "Work",
    "baseline",
    "evaluation",
    "practice",
    "recorded",
    "roll",
    "sitting_number",
    "stage",
    "without_tools",
]

DONE = "done.json"
BASELINE = "no-tools"
SITTING = "sitting-"
"""Under a curriculum a round practises in parts; the folder of one, with its number."""
Progress = Callable[[str, int, int, str], None]
"""Called with the stage, what is done, what is planned, and a note."""
Policies = Callable[..., Any]
"""A policy of the current model at a temperature, for practice or not (``practice=True``)."""


@dataclass
class Work:
    """What every stage is given.

    Args:
        settings: the run's settings.
        environments: its environments; those that the preset brings are filled in.
        out: the run's folder.
        progress: told how far each stage is.
        seconds: measured for each stage that was executed now or before.
    """

    settings: SelfTrainSettings
    environments: list[EnvironmentSettings]
    out: Path
    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    players: Players = field(init=False)
    """Policies of the run's models."""

    def __post_init__(self) -> None:
        self.players = Players(self.settings.sampling, self.out, self.tell)

    def tell(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass progress on."""
        if self.progress is not None:
            self.progress(stage, done, total, note)


def stage(work: Work, name: str, execute: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Execute a stage, unless it is done; its results are read from the marker then.

    Args:
        work: see `Work`.
        name: of the stage and its folder.
        execute: takes the folder, returns plain data; must go on from what a kill has left there.

    Returns:
        What ``execute`` returned, now or when the stage was done.
    """
    folder = work.out / name
    marker = folder / DONE
    if marker.is_file():
        found = read_json(marker)
    else:
        began = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        found = {"results": execute(folder), "seconds": round(time.perf_counter() - began, 2)}
        write_json(marker, found)
    work.seconds[name] = float(found["seconds"])
    results = dict(found["results"])
    work.tell(name, 1, 1, summary(results))
    return results


def summary(results: dict[str, Any]) -> str:
    """A finished stage in a few words: what was right, kept or trained, as far as it says so."""
    sampled = results.get("sampled", results)
    counts = [value for value in sampled.values() if isinstance(value, dict)]
    for share, whole, text in (("right", "episodes", "right"), ("kept", "total", "episodes kept")):
        if counts and all(share in count and whole in count for count in counts):
            done, of = (sum(count[key] for count in counts) for key in (share, whole))
            return f"{done} of {of} {text} ({done / max(1, of):.1%})"
    if "steps" not in results:
        return "done"
    warnings = "".join(f"; warning: {warning}" for warning in results.get("warnings", ()))
    return f"{results['steps']} steps, loss {results['loss']:.3f}{warnings}"


def evaluation(work: Work, policies: Policies, name: str, folder: Path) -> dict[str, Any]:
    """Play the held-out tasks of every environment, at the sampling temperature and greedily.

    Returns:
        ``{"sampled": {environment: counts}, "greedy": ...}``; see `figures`.
    """
    found: dict[str, Any] = {"sampled": {}, "greedy": {}}
    for way, temperature in (("sampled", work.settings.sampling.temperature), ("greedy", 0.0)):
        for environment in work.environments:
            if environment.test is None:
                continue
            run = roll(
                work,
                policies(temperature),
                environment,
                environment.test,
                environment.test_tasks,
                1,
                # The same seed before and after: the same questions, so that they can be paired.
                work.settings.seed,
                folder / f"{environment.label}-{way}",
                f"{name}: {way} {environment.label}",
            )
            found[way][environment.label] = figures(run)
    return found


def practice(
    work: Work, policies: Policies, name: str, number: int, folder: Path, *, tools: bool = True
) -> dict[str, Any]:
    """Play the practice tasks of every environment several times each.

    Args:
        work: see `Work`.
        policies: of the current model.
        name: of the round.
        number: of the round; every round draws anew.
        folder: where the runs go.
        tools: without them, the episodes are there for pairs to reject. The questions are the same,
            where there are more than are played.
    """
    settings = work.settings
    counts = {}
    for environment in work.environments:
        if environment.train is None:
            continue
        run = roll(
            work,
            policies(settings.sampling.temperature, practice=True),
            environment,
            environment.practice(number) | ({} if tools else without_tools(environment)),
            environment.train_tasks,
            settings.samples_per_task if tools else settings.dpo.without_tools,
            settings.seed + 1000 * number,
            folder / environment.label,
            f"{name}: practice {environment.label}{'' if tools else ' without tools'}",
        )
        counts[environment.label] = figures(run)
    return counts


def recorded(practised: Path, label: str) -> list[Run]:
    """The runs of an environment in a round's practice: one, or under a curriculum several."""
    sittings = sorted(practised.glob(f"{SITTING}*"), key=sitting_number)
    folders = [folder / label for folder in (practised, *sittings)]
    return [Run.open(folder) for folder in folders if folder.is_dir()]


def sitting_number(folder: Path) -> int:
    """The number in the name of a sitting's folder."""
    return int(folder.name.removeprefix(SITTING))


def without_tools(environment: EnvironmentSettings) -> dict[str, Any]:
    """Arguments that take an environment's tools away."""
    bare = environment.args.get("prompt") == "bare"
    return {"tools": []} if bare else {"prompt": "no_tool"}


def baseline(work: Work, policies: Policies, folder: Path) -> dict[str, Any]:
    """Play the held-out tasks of every environment once without tools."""
    counts = {}
    for environment in work.environments:
        if environment.test is None:
            continue
        run = roll(
            work,
            policies(work.settings.sampling.temperature),
            environment,
            environment.test | without_tools(environment),
            environment.test_tasks,
            1,
            work.settings.seed,
            folder / environment.label,
            f"baseline: {environment.label} without tools",
        )
        counts[environment.label] = figures(run)
    return counts


def figures(run: Run) -> dict[str, Any]:
    """A run in counts and rates: what tables of the report are made of."""
    from toolgym.evaluation import evaluate

    report = evaluate(run)
    names = ("accuracy", "exact_match", "invoke_rate", "pass_rate", "malformed_rate")
    rates = {row.name: row.value for row in report.rows if row.name in names}
    return {
        "episodes": report.episodes,
        "right": round((rates.get("accuracy") or 0.0) * report.episodes),
        "failures": len(run.failures()),
        "task_source": run.settings.get("task_source", ""),
        "task_family": run.settings.get("task_family", ""),
        **rates,
    }


def roll(
    work: Work,
    policy: Any,
    environment: EnvironmentSettings,
    extra: dict[str, Any],
    tasks: int | None,
    samples: int,
    seed: int,
    out: Path,
    name: str,
) -> Run:
    """Play episodes of one environment, and tell how far they are.

    Args:
        work: see `Work`.
        policy: plays.
        environment: whose arguments hold.
        extra: further arguments.
        tasks: at most so many; None: all.
        samples: episodes of each.
        seed: of the run.
        out: its folder.
        name: of the stage, for the progress.
    """
    args = {**environment.args, **extra}
    episodes = None
    if tasks is not None:
        episodes = samples * min(tasks, len(make_env(environment.id, args).tasks))
    counts, sampled, begun = (0, 0), (0, 0), time.perf_counter()

    def tell() -> None:
        going = sampled[0] and not 0 < counts[1] <= counts[0]  # then the stage says what came
        note = written(*sampled, time.perf_counter() - begun) if going else ""
        work.tell(name, *counts, note)

    def played(done: int, total: int) -> None:
        nonlocal counts
        counts = done, total
        tell()

    def pulse(turns: int, tokens: int) -> None:
        nonlocal sampled
        sampled = turns, tokens
        tell()

    return rollout(
        environment.id,
        policy,
        env_args=args,
        episodes=episodes,
        samples_per_task=samples,
        seed=seed,
        out=out,
        concurrency=work.settings.sampling.concurrency,
        progress=played,
        pulse=pulse,
    )
