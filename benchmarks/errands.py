"""The miniature learns in worlds with a state and to ask its user, beside controls that do not ask.

``python -m benchmarks.errands --seeds 0 1 2 --out runs/errands`` runs it or goes on, and writes
``errands.md`` with the tables of docs/miniature-stateful.md. It needs the `train` extra.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_json
from toolgym._util.optional import quiet
from toolgym.data.conditions import measure
from toolgym.errors import ToolgymError
from toolgym.evaluation.document import Table, to_markdown
from toolgym.evaluation.intervals import proportion
from toolgym.miniature.errands import ASKED, TOLD
from toolgym.rollouts.runs import Run
from toolgym.selftrain.loop import selftrain
from toolgym.selftrain.settings import own_model, preset
from toolgym.selftrain.stages import DONE

JOB = "miniature-errands"
ARMS: dict[str, dict[str, Any]] = {
    "practised": {},
    "control: reached without asking": {
        "filter": {"where": "goal_reached>=1 and user_turns<=0", "dedupe": "tokens"}
    },
    # One of each task, which is about as many rows as the others keep, right or wrong.
    "control: any without asking": {
        "filter": {"where": "user_turns<=0", "per_task": 1, "dedupe": None}
    },
}
"""What each arm changes in the settings of the preset."""
WAYS = ("sampled", "greedy")
Counts = dict[str, list[int]]


def run(
    out: Path, seeds: Sequence[int], build: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Train the base of each seed in every way; go on where a run was ended.

    Args:
        out: folder of everything that is made; ``errands.json`` and ``errands.md`` are written.
        seeds: of worlds, bases and all sampling.
        build: options of the preset, such as ``{"train": 300}``.
        changes: settings that every arm gets, such as fewer rounds.

    Returns:
        ``{arm: {seed: [evaluation 0, 1, ...]}}``, see `evaluations`, and the seconds of each seed.
    """
    job = own_model(JOB)
    assert job is not None, "the preset builds its model"
    found: dict[str, Any] = {"arms": {arm: {} for arm in ARMS}, "seconds": {}}
    for seed in seeds:
        began, place = time.perf_counter(), out / f"seed-{seed}"
        with quiet():
            model, world = job.build({**build, "seed": seed}, place, lambda *_: None)
        _tell(f"seed {seed}: base, {time.perf_counter() - began:.0f} s")
        settings = preset(JOB).settings(seed=seed).model_dump()
        settings |= {"model": str(place / model), "build": {}, "stop_when_worse": False}
        settings["environments"] = [e.model_dump() for e in job.environments(place / world)]
        for arm, change in ARMS.items():
            folder = place / _folder(arm)
            _share_beginning(place / _folder(next(iter(ARMS))), folder)
            selftrain(settings | change | changes, out=folder)
            done = found["arms"][arm][str(seed)] = evaluations(folder)
            _tell(f"seed {seed}, {arm}: {done[-1]} ({time.perf_counter() - began:.0f} s)")
        found["seconds"][str(seed)] = round(time.perf_counter() - began, 1)
        write_json(out / "errands.json", found)
        text = to_markdown([summary(found, "sampled"), summary(found, "greedy"), asking(found)])
        (out / "errands.md").write_text(text, encoding="utf-8")
    return found


def _folder(arm: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in arm)


def _share_beginning(first: Path, folder: Path) -> None:
    """Until the first choice of episodes all arms play the same ones: they are played once."""
    for name in ("evaluation-0", "round-1/practice"):
        played, target = first / name, folder / name
        if folder != first and (played / DONE).is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(played, partial)
            partial.rename(target)


def evaluations(folder: Path) -> list[dict[str, Counts]]:
    """What the held-out episodes of a run came to, before the first round and after each.

    Args:
        folder: of the run.

    Returns:
        [rounds + 1] of ``{way: {environment: counts}}``; the counts are goals reached, episodes,
        episodes in which the user was heard, and goals reached in the others.
    """
    reached, heard = measure("goal_reached"), measure("user_turns")
    found: list[dict[str, Counts]] = []
    while (place := folder / f"evaluation-{len(found)}").is_dir():
        one: dict[str, Counts] = {}
        for way in WAYS:
            one[way] = {}
            for label in (TOLD, ASKED):
                rows = [(reached(t) >= 1, heard(t) > 0) for t in Run.open(place / f"{label}-{way}")]
                silent = [done for done, asked in rows if not asked]
                done = sum(done for done, _ in rows)
                one[way][label] = [done, len(rows), len(rows) - len(silent), sum(silent)]
        found.append(one)
    return found


def summary(found: Mapping[str, Any], way: str) -> Table:
    """Shares of goals reached before and after, pooled over the seeds, and each seed's."""
    head = [way, "told: before", "told: after", "asked: before", "asked: after", "asked, each seed"]
    rows = []
    for arm, seeds in found["arms"].items():
        cells = [arm]
        for label in (TOLD, ASKED):
            cells += [_share(_pooled(seeds, place, way, label)) for place in (0, -1)]
        each = (f"{100 * s[-1][way][ASKED][0] / s[-1][way][ASKED][1]:.1f}" for s in seeds.values())
        rows.append([*cells, ", ".join(each)])
    return Table(head, rows)


def asking(found: Mapping[str, Any]) -> Table:
    """How often the user was asked where it is needed, and what came of it where he was not."""
    head = ["sampled", "asks: before", "asks: after", "reached without asking, after"]
    rows = []
    for arm, seeds in found["arms"].items():
        before, after = (_pooled(seeds, place, "sampled", ASKED) for place in (0, -1))
        silent = f"{after[3]} of {after[1] - after[2]}"
        rows.append([arm, *(_share([n[2], n[1]]) for n in (before, after)), silent])
    return Table(head, rows)


def _pooled(seeds: Mapping[str, Any], place: int, way: str, label: str) -> list[int]:
    counts = [evaluated[place][way][label] for evaluated in seeds.values()]
    return [sum(column) for column in zip(*counts, strict=True)]


def _share(counts: Sequence[int]) -> str:
    right, of = counts[:2]
    share = proportion([1.0] * right + [0.0] * (of - right), [1.0] * of)
    value, low, high = (100 * (part or 0.0) for part in (share.value, share.low, share.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.errands")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/errands"))
    given = parser.parse_args(arguments)
    sizes = {"train": given.train, "test": given.test}
    try:
        found = run(given.out, given.seeds, sizes, {})
    except ToolgymError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; the same command goes on from here\n")
    print(to_markdown([summary(found, "sampled"), asking(found)]))


if __name__ == "__main__":
    main()
