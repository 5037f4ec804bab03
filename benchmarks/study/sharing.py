"""Stages that arms of a study have in common: what one arm has been through, another takes over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym.selftrain.settings import SelfTrainSettings, load_settings
from toolgym.selftrain.stages import DONE

__all__ = ["evaluated", "practised", "take_over", "trained"]

_AFTER_PRACTICE = {"rounds", "methods", "begin_with", "filter", "train", "dpo", "grpo"}


def evaluated(settings: SelfTrainSettings) -> str:
    """A key of what decides the evaluation of the base."""
    asked = settings.model_dump(include={"model", "seed"}, mode="json")
    places = [place.model_dump(mode="json") for place in settings.environments]
    asked["places"] = [{k: v for k, v in p.items() if not k.startswith("train")} for p in places]
    sampling = settings.sampling.model_dump(mode="json")
    if settings.sampling.guided != "always":
        sampling = {k: v for k, v in sampling.items() if k not in ("guided", "narrow")}
    return value_hash([asked, sampling])


def practised(settings: SelfTrainSettings, number: int) -> str:
    """A key of what decides the practice of a round, from 1."""
    if number == 1:
        return value_hash(_until(settings, 1, _AFTER_PRACTICE))
    return value_hash([trained(settings, number - 1), _practices(settings, number)])


def trained(settings: SelfTrainSettings, number: int) -> str:
    """A key of what decides the model after a round, from 1."""
    methods = [settings.method(each) for each in range(1, number + 1)]
    return value_hash([methods, _until(settings, number, {"rounds", "methods"})])


def _until(settings: SelfTrainSettings, number: int, without: set[str]) -> dict[str, Any]:
    """What decides a run up to a round, from 1."""
    said = settings.model_dump(mode="json", exclude=without)
    for place in said["environments"]:
        del place["train"]
    return {**said, "practices": [_practices(settings, each) for each in range(1, number + 1)]}


def _practices(settings: SelfTrainSettings, number: int) -> list[dict[str, Any] | None]:
    """What practice is given in a round, by environment."""
    return [e.practice(number) if e.practices else None for e in settings.environments]


def take_over(out: Path, settings: SelfTrainSettings) -> list[str]:
    """Copy what other arms, in folders beside this one, have been through in the same way.

    Args:
        out: the arm's folder; what it has already begun stays as it is.
        settings: the arm's.

    Returns:
        The names of the stages taken over.
    """
    taken = []
    for file in sorted(out.parent.glob("*/settings.json")):
        if file.parent == out:
            continue
        for name in _alike(settings, load_settings(file)):
            here, there = out / name, file.parent / name
            if here.exists() or not (there / DONE).is_file():
                continue
            copy = here.with_name(f".{here.name}")
            shutil.rmtree(copy, ignore_errors=True)  # of a copy that was killed
            shutil.copytree(there, copy)
            copy.rename(here)
            taken.append(name)
    return taken


def _alike(one: SelfTrainSettings, other: SelfTrainSettings) -> Iterator[str]:
    """Stages that both go through in the same way."""
    if evaluated(one) == evaluated(other):
        yield "evaluation-0"
    for number in range(1, min(one.rounds, other.rounds) + 1):
        if practised(one, number) != practised(other, number):
            return
        if all(each.practises(each.method(number)) for each in (one, other)):
            yield f"round-{number}/practice"
        if trained(one, number) != trained(other, number):
            return
        for stage in ("selection", "training"):
            yield f"round-{number}/{stage}"
        yield f"evaluation-{number}"
