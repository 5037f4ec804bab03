"""The curriculum beside three controls, on the miniature, with the same number of episodes.

Usage: python -m benchmarks.curriculum [--seeds 0 1 2] [--rounds 3] [--tasks 60] [--out DIR]
       [--page docs]

Four ways to choose what is practised: ``bandit``, all kinds alike, the hardest quarter, and one
fixed set. Each begins with the base of its seed, practises ``tasks`` questions of 8 episodes a
round, learns by SFT, and is measured on held-out questions that take two operations or two calls.
A run that was stopped goes on. Nothing is claimed beyond the table: the world is generated, and the
model has a million parameters.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.curves import accuracy_curves
from toolgym._util.jsonl import read_json, write_json, write_rows, write_text
from toolgym._util.optional import quiet
from toolgym.evaluation.document import Block, Figure, Heading, Paragraph, Table, to_markdown
from toolgym.evaluation.intervals import wilson
from toolgym.miniature.making import MiniatureTasks
from toolgym.miniature.model import BaseSettings
from toolgym.miniature.preset import build_base
from toolgym.miniature.world import World
from toolgym.selftrain.loop import selftrain
from toolgym.selftrain.settings import EnvironmentSettings, own_model, preset

WAYS = ("bandit", "uniform", "hardest", "fixed")
HARD = "-hard"
DRAWING = "curriculum.svg"
CARE = (
    "What is shown is that the chain works, and how it spent the same number of episodes. The "
    "world is generated, the model has a million parameters and was shown right tool use in part "
    "of its pre-training; nothing follows for other models or for questions of people. The "
    "command: `python -m benchmarks.curriculum`."
)
HELD_OUT = 100
"""Hard questions of each of the two parts that have any, a seed."""


def environments(world: Path, seed: int) -> list[EnvironmentSettings]:
    """Where it practises, and beside them the hard questions, for evaluation only."""
    found = []
    for environment in own_model("miniature").environments(world):
        maker = MiniatureTasks(environment.label, seed, "test")
        hardest = [kind for kind in maker.kinds() if 2 in kind.values()]
        found.append(environment.model_copy(update={"test": None}))
        if not hardest:
            continue
        file = world / f"{environment.label}{HARD}.jsonl"
        each = HELD_OUT // len(hardest)
        rows = [row for kind in hardest for row in maker.make(kind, each, seed, world)]
        write_rows(file, [{**row, "id": f"hard-{place}"} for place, row in enumerate(rows)])
        test = {"name": f"{environment.label}{HARD}", "train": None, "test": {"tasks": str(file)}}
        found.append(environment.model_copy(update=test))
    return found


def measured(out: Path, way: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One arm of one seed: right answers to the hard questions by round, live groups, seconds."""
    place = out / f"seed-{seed}"
    world = place / "world"
    World(seed).write(world)
    sizes = BaseSettings.tiny() if given.tiny else None
    with quiet():
        base = build_base(out / "bases", seed, sizes)
    settings = preset("miniature").settings(seed=seed).model_dump() | {
        "model": str(base),
        "build": {},
        "environments": [each.model_dump() for each in environments(world, seed)],
        "rounds": given.rounds,
        "baseline": False,
        "stop_when_worse": False,
        "curriculum": {"choose": way, "tasks": given.tasks, "sittings": 3},
    }
    report = selftrain(settings, out=place / way, progress=None)
    facts = read_json(report.with_suffix(".json"))
    sittings = sorted((place / way).glob("round-*/practice/sitting-*/done.json"))
    kinds = [
        counts
        for file in sittings
        for found in read_json(file)["results"].values()
        for counts in found["kinds"].values()
    ]
    hard = [
        [found["sampled"][f"{part}{HARD}"] for part in ("arithmetic", "scenarios")]
        for found in facts["evaluations"]
    ]
    return {
        "right": [sum(part["right"] for part in parts) for parts in hard],
        "n": sum(part["n"] for part in hard[0]),
        "live": sum(counts[3] for counts in kinds) / sum(counts[0] for counts in kinds),
        "episodes": sum(counts[1] for counts in kinds),
        "seconds": sum(facts["seconds"].values()),
    }


def page(found: Mapping[str, Mapping[str, Any]], given: argparse.Namespace) -> list[Block]:
    """The table of a study."""
    rows = []
    ends: dict[str, tuple[float, float]] = {}
    for way, seeds in found.items():
        cells = []
        for number in range(given.rounds + 1):
            right = sum(facts["right"][number] for facts in seeds.values())
            n = sum(facts["n"] for facts in seeds.values())
            low, high = wilson(right / n, n)
            ends[way] = low, high
            cells.append(f"{right / n:.1%} [{100 * low:.1f}, {100 * high:.1f}]")
        live = sum(facts["live"] for facts in seeds.values()) / len(seeds)
        last = ", ".join(f"{facts['right'][-1] / facts['n']:.1%}" for facts in seeds.values())
        seconds = sum(facts["seconds"] for facts in seeds.values())
        rows.append([way, *cells, last, f"{live:.0%}", f"{seconds:.0f}"])
    head = ["chosen by", "before", *(f"round {number + 1}" for number in range(given.rounds))]
    head += ["last round by seed", "groups with variance", "seconds"]
    episodes = {facts["episodes"] for seeds in found.values() for facts in seeds.values()}
    text = (
        f"Seeds {', '.join(map(str, given.seeds))}; {' or '.join(f'{e:.0f}' for e in episodes)} "
        "episodes of practice in each arm and seed; accuracy, sampled at temperature 1, on held-out"
        " questions with two operations or two calls; 95 % Wilson intervals over the questions of "
        "all seeds, which do not cover that only so many seeds were trained."
    )
    apart = [
        f"{one} and {other}"
        for one, other in itertools.combinations(ends, 2)
        if ends[one][0] > ends[other][1] or ends[other][0] > ends[one][1]
    ]
    said = (
        f"these intervals lie apart: {'; '.join(apart)}" if apart else "no two intervals lie apart"
    )
    text += f" After the last round {said}."
    curves = {
        way: [[(count, facts["n"]) for count in facts["right"]] for facts in seeds.values()]
        for way, seeds in found.items()
    }
    below = "Accuracy on the hard questions, before and after each round; thin lines are seeds."
    return [
        Heading("A curriculum, and three controls", 1),
        Paragraph(text),
        Table(head, rows),
        Figure(accuracy_curves(curves), DRAWING, below),
        Paragraph(CARE),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--page", type=Path, help="write the page and its drawing here, too")
    parser.add_argument("--tiny", action="store_true", help="an untrained base, to try the chain")
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {way: {} for way in given.ways}
    for seed in given.seeds:
        for way in given.ways:
            facts = measured(given.out, way, seed, given)
            found[way][str(seed)] = facts
            print(f"seed {seed}, {way}: {facts}", file=sys.stderr, flush=True)
            write_json(given.out / "curriculum.json", found)
    blocks = page(found, given)
    for folder in (given.out, given.page):
        if folder is not None:
            drawn = next(block for block in blocks if isinstance(block, Figure))
            write_text(folder / DRAWING, drawn.svg)
            write_text(folder / "curriculum.md", to_markdown(blocks))
    print(to_markdown(blocks[:3]))


if __name__ == "__main__":
    main()
