"""The study of the miniature: every way to train it, with controls, from the same bases.

Run it with ``python -m toolgym.miniature.study --seeds 0 1 2 --out runs/study``. It can be ended
at any moment and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from toolgym._jsonl import write_json, write_rows
from toolgym._optional import need, quiet
from toolgym.errors import UnknownNameError
from toolgym.intervals import wilson
from toolgym.miniature.base import build_base
from toolgym.miniature.demonstrations import demonstration
from toolgym.miniature.settings import BaseSettings
from toolgym.miniature.world import World
from toolgym.tables import markdown_table
from toolgym.training.defaults import default_settings, miniature_environments
from toolgym.training.selftrain import selftrain

__all__ = ["ARMS", "run_study"]

SFT: dict[str, Any] = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3, "max_length": 512}
DPO: dict[str, Any] = {
    **{"pairing": "right_wrong", "beta": 0.1, "sft_weight": 0.2, "per_task": 2},
    **{"epochs": 1, "learning_rate": 3e-4, "max_length": 512},
}
GRPO: dict[str, Any] = {
    **{"batch_size": 256, "generations": 8, "learning_rate": 3e-4, "epochs": 100},
    **{"max_steps": 30, "device_batch_size": 64, "max_length": 512},
}
ARMS: dict[str, dict[str, Any]] = {
    "SFT": {"methods": ["sft"], "rounds": 2},
    "SFT, then DPO": {"methods": ["sft", "dpo"], "rounds": 2},
    "DPO": {"methods": ["dpo"], "rounds": 2},
    "GRPO": {"methods": ["grpo"], "rounds": 1},
    "control: unfiltered episodes": {
        **{"methods": ["sft"], "rounds": 1},
        "filter": {"where": None, "per_task": 4, "dedupe": "tokens"},
    },
    "control: more demonstrations": {"methods": ["sft"], "rounds": 1},
}
"""What each arm changes in the embedded default."""
DEMONSTRATIONS = "control: more demonstrations"


def run_study(
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[str] = tuple(ARMS),
    train: int = 500,
    test: int = 500,
    base: BaseSettings | None = None,
    changes: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a base of each seed in every way, and measure each on the same held-out questions.

    Args:
        out: folder; ``study.json`` and ``study.md`` appear in it.
        seeds: of worlds, bases and all sampling.
        arms: some of `ARMS`.
        train: practice questions, over both environments.
        test: held-out questions, over both environments.
        base: sizes and steps of the bases.
        changes: further settings of every arm, such as fewer steps.
        tell: called with a line of progress.

    Returns:
        By arm, for each seed the accuracy before and after each round, and the pooled ones.

    Raises:
        UnknownNameError: an arm that does not exist.
    """
    for arm in arms:
        if arm not in ARMS:
            raise UnknownNameError("arm", arm, ARMS)
    need("transformers", "train")
    folder = Path(out)
    found: dict[str, Any] = {"arms": {arm: {} for arm in arms}, "train": train, "test": test}
    for seed in seeds:
        place = folder / f"seed-{seed}"
        World(seed).write(place / "world", train=train, test=test)
        with quiet():
            model = build_base(place, seed=seed, settings=base)
        for arm in arms:
            began = time.perf_counter()
            rounds = _arm(place, model, arm, seed, dict(changes or {}))
            found["arms"][arm][str(seed)] = rounds
            after = rounds[-1]["sampled"]
            seconds = time.perf_counter() - began
            tell(f"seed {seed}, {arm}: {after['right']} of {after['n']} ({seconds:.0f} s)")
            write_json(folder / "study.json", found)
    (folder / "study.md").write_text(table(found), encoding="utf-8")
    return found


def _arm(
    place: Path, model: Path, arm: str, seed: int, changes: dict[str, Any]
) -> list[dict[str, Any]]:
    environments = [item.model_dump() for item in miniature_environments(place / "world")]
    settings = default_settings(seed=seed).model_dump()
    settings |= {"model": str(model), "environments": environments, "baseline": False}
    settings |= {"train": SFT, "dpo": DPO, "grpo": GRPO, "stop_when_worse": False}
    settings |= ARMS[arm]
    for key, value in changes.items():
        merged = isinstance(value, Mapping) and isinstance(settings.get(key), Mapping)
        settings[key] = {**settings[key], **value} if merged else value
    folder = place / "".join(sign if sign.isalnum() else "-" for sign in arm)
    if arm != DEMONSTRATIONS:
        return _measured(settings, folder)
    tuned = _demonstrated(place, model, seed, settings)
    settings["rounds"] = 0  # both are only measured
    before = _measured(settings, folder / "before")
    return before + _measured(settings | {"model": str(tuned)}, folder / "after")


def _measured(settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Accuracy before, and after each round."""
    report = selftrain(settings, out=folder)
    evaluations = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["evaluations"]
    return [{way: found[way]["all"] for way in ("sampled", "greedy")} for found in evaluations]


def _demonstrated(place: Path, model: Path, seed: int, settings: dict[str, Any]) -> Path:
    """The base, trained on as many more of its own kind of demonstrations as SFT had rows."""
    from toolgym.training.sft import train_sft

    kept = place / "SFT" / "round-1" / "selection" / "rows.jsonl"
    count = len(kept.read_bytes().splitlines()) if kept.is_file() else 1000
    world, rng = World(seed), random.Random(f"study-{seed}")
    rows = [
        {"messages": list(demonstration(world, world.problem(rng, "demo"), rng)[1])}
        for _ in range(count)
    ]
    file = place / "demonstrations.jsonl"
    write_rows(file, rows)
    made = train_sft(file, model, place / "demonstrated", **settings["train"], seed=seed)
    return made.path


def table(found: Mapping[str, Any]) -> str:
    """The study as Markdown: accuracy pooled over the seeds, and each seed's."""
    rows = []
    for arm, seeds in found["arms"].items():
        if not seeds:
            continue
        first, last = ([rounds[n]["sampled"] for rounds in seeds.values()] for n in (0, -1))
        greedy = [rounds[-1]["greedy"] for rounds in seeds.values()]
        each = ", ".join(f"{100 * item['accuracy']:.1f}" for item in last)
        rows.append([arm, _pooled(first), _pooled(last), each, _pooled(greedy)])
    head = ["trained by", "before, sampled", "after, sampled", "each seed", "after, greedy"]
    count = max((len(seeds) for seeds in found["arms"].values()), default=0)
    return (
        f"Accuracy on {found['test']} held-out questions a seed, {count} seeds, in percent with "
        "95 % Wilson intervals over all questions of all seeds.\n\n" + markdown_table(head, rows)
    ) + "\n"


def _pooled(items: Sequence[Mapping[str, float]]) -> str:
    right, count = sum(int(i["right"]) for i in items), sum(int(i["n"]) for i in items)
    low, high = wilson(right / count, count)
    return f"{100 * right / count:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the study."""
    parser = argparse.ArgumentParser(prog="python -m toolgym.miniature.study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), metavar="ARM", help=str(list(ARMS))
    )
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--out", default="runs/study")
    given = parser.parse_args(arguments)
    tell = partial(print, file=sys.stderr, flush=True)
    found = run_study(
        given.out, seeds=given.seeds, arms=given.arms, train=given.train, test=given.test, tell=tell
    )
    print(table(found))


if __name__ == "__main__":
    main()
