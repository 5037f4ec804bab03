"""Every way to train the miniature, with controls, from the same bases."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.study.page import HELD_OUT, summary_table
from toolgym._util.jsonl import read_json, read_rows, write_json, write_rows
from toolgym._util.optional import quiet, require_extra
from toolgym.errors import UnknownNameError
from toolgym.evaluation.document import to_markdown
from toolgym.miniature.demonstrations import demonstration
from toolgym.miniature.model import BaseSettings
from toolgym.miniature.preset import build_base
from toolgym.miniature.world import SHARES, World
from toolgym.selftrain.loop import selftrain
from toolgym.selftrain.settings import own_model, preset

__all__ = ["ARMS", "run_study"]

SFT: dict[str, Any] = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3, "max_length": 512}
DPO: dict[str, Any] = {
    **{"pairing": "right_wrong", "beta": 0.1, "sft_weight": 0.2, "per_task": 2},
    **{"epochs": 1, "learning_rate": 3e-4, "max_length": 512},
}
GRPO: dict[str, Any] = {
    **{"batch_size": 256, "generations": 8, "learning_rate": 3e-4, "epochs": 100},
    **{"max_updates": 30, "device_batch_size": 64, "max_length": 512},
}
ARMS: dict[str, dict[str, Any]] = {
    "SFT": {"methods": ["sft"], "rounds": 2},
    # At DPO's own rate the model unlearns: few pairs are left of one that is mostly right.
    "SFT then DPO": {
        **{"methods": ["sft", "dpo"], "rounds": 2},
        "dpo": {**DPO, "learning_rate": 1e-4},
    },
    "DPO": {"methods": ["dpo"], "rounds": 2},
    "GRPO": {"methods": ["grpo"], "rounds": 1},
    "control: unfiltered episodes": {
        **{"methods": ["sft"], "rounds": 1},
        # About as many rows as SFT keeps. Dropping twins would keep most of what is wrong: guesses
        # differ from each other, right episodes do not.
        "filter": {"where": None, "per_task": 1, "dedupe": None},
    },
    "control: more demonstrations": {"methods": ["sft"], "rounds": 1},
}
"""What each arm changes in the embedded default."""
DEMONSTRATIONS = "control: more demonstrations"
HELD_OUT_TASKS = 50
"""Questions of each kind with held-out phrasings, a seed."""


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
        By arm and seed the accuracies before and after each round, GRPO's rewards, and seconds;
        see `benchmarks.study.page`.

    Raises:
        UnknownNameError: an arm that does not exist.
    """
    for arm in arms:
        if arm not in ARMS:
            raise UnknownNameError("arm", arm, ARMS)
    require_extra("transformers", "train")
    folder = Path(out)
    found: dict[str, Any] = {"arms": {arm: {} for arm in arms}, "train": train, "test": test}
    found |= {"base_seconds": {}, "machine": _machine(), "versions": _versions()}
    for seed in seeds:
        place = folder / f"seed-{seed}"
        World(seed).write(place / "world", train=train, test=test)
        model, found["base_seconds"][str(seed)] = _base(place, seed, base)
        for arm in arms:
            facts = _arm(place, model, arm, seed, dict(changes or {}))
            found["arms"][arm][str(seed)] = facts
            tell(f"seed {seed}, {arm}: {_summary(facts)}")
            write_json(folder / "study.json", found)
    (folder / "study.md").write_text(to_markdown([summary_table(found)]), encoding="utf-8")
    return found


def _base(place: Path, seed: int, settings: BaseSettings | None) -> tuple[Path, float]:
    """The base, and the seconds that the last attempt to build it took."""
    began, file = time.perf_counter(), place / "base.json"
    with quiet():
        model = build_base(place, seed=seed, settings=settings)
    if not file.is_file():
        write_json(file, {"seconds": round(time.perf_counter() - began, 1)})
    return model, float(read_json(file)["seconds"])


def _machine() -> str:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} CPU cores"


def _versions() -> str:
    names = ("toolgym", "torch", "transformers", "trl")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _summary(facts: Mapping[str, Any]) -> str:
    counts = [item for label, item in facts["rounds"][-1]["sampled"].items() if label in SHARES]
    right, of = (sum(int(item[key]) for item in counts) for key in ("right", "n"))
    return f"{right} of {of} ({facts['seconds']:.0f} s)"


def _arm(place: Path, model: Path, arm: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    settings = preset("miniature").settings(seed=seed).model_dump()
    settings |= {"model": str(model), "build": {}}
    settings |= {"environments": _environments(place / "world")}
    settings |= {"train": SFT, "dpo": DPO, "grpo": GRPO}
    settings |= {"baseline": False, "stop_when_worse": False} | ARMS[arm]
    for key, value in changes.items():
        merged = isinstance(value, Mapping) and isinstance(settings.get(key), Mapping)
        settings[key] = {**settings[key], **value} if merged else value
    folder = place / "".join(sign if sign.isalnum() else "-" for sign in arm)
    if arm != DEMONSTRATIONS:
        return _measured(settings, folder)
    tuned, seconds = _demonstrated(place, model, seed, settings)
    settings["rounds"] = 0  # both are only measured
    before = _measured(settings, folder / "before")
    after = _measured(settings | {"model": str(tuned)}, folder / "after")
    seconds += before["seconds"] + after["seconds"]
    return {**after, "rounds": before["rounds"] + after["rounds"], "seconds": seconds}


def _environments(world: Path) -> list[dict[str, Any]]:
    """Those of the miniature, and the same with held-out phrasings, for evaluation only."""
    usual = own_model("miniature").environments(world)
    other = [
        environment.model_copy(
            update={
                "name": f"{environment.label}{HELD_OUT}",
                "train": None,
                "test": {"tasks": str(world / f"{environment.label}{HELD_OUT}.jsonl")},
                "test_tasks": HELD_OUT_TASKS,
            }
        )
        for environment in usual
    ]
    return [environment.model_dump() for environment in (*usual, *other)]


def _measured(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Accuracy before and after each round, the rewards of GRPO's steps, and the time of it all."""
    report = read_json(selftrain(settings, out=folder).with_suffix(".json"))
    logs = sorted(folder.glob("round-*/training/model/training_log.jsonl"))
    steps = [row for log in logs for _, row in read_rows(log, "training log")]
    return {
        "rounds": report["evaluations"],
        "rewards": [row["reward"] for row in steps if "reward" in row],
        "seconds": sum(report["seconds"].values()),
    }


def _demonstrated(
    place: Path, model: Path, seed: int, settings: dict[str, Any]
) -> tuple[Path, float]:
    """The base, trained on as many more of its own kind of demonstrations as SFT had rows."""
    from toolgym.training.sft import train_sft

    file, target = place / "demonstrations.jsonl", place / "demonstrated"
    done = place / "demonstrated.json"
    if done.is_file():
        return target, float(read_json(done)["seconds"])
    began = time.perf_counter()
    kept = place / "SFT" / "round-1" / "selection" / "rows.jsonl"
    count = len(kept.read_bytes().splitlines()) if kept.is_file() else 1000
    world, rng = World(seed), random.Random(f"study-{seed}")
    rows = [
        {"messages": list(demonstration(world, world.problem(rng, "demo"), rng)[1])}
        for _ in range(count)
    ]
    write_rows(file, rows)
    made = train_sft(file, model, target, **settings["train"], seed=seed)
    write_json(done, {"seconds": round(time.perf_counter() - began, 1)})
    return made.path, float(read_json(done)["seconds"])
