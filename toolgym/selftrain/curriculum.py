"""Tasks made for practice: of the kinds in which the policy is neither sure nor lost."""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolgym.errors import BadInputError, did_you_mean
from toolgym.registry import MAKERS

__all__ = ["CurriculumSettings", "Kind", "Place", "Tally", "TaskMaker", "choose", "make_maker"]
__all__ += ["named", "weighted"]

Kind = Mapping[str, str | int]
"""What tasks have in common, such as ``{"shape": "multi-hop", "level": 2}``."""
Place = tuple[str, str]
"""An environment's label, and a kind as text."""
KEPT = 0.5
"""What a round's counts weigh in the next round: the policy is another one by then."""
SURE = 8
"""Tries, weighted, from which on a kind may count as mastered."""
ELSEWHERE = 0.01
"""Weight of a kind outside the band: little is learned there, but it may have changed."""


class TaskMaker(ABC):
    """Makes new tasks of a kind. Plug-ins register theirs in `toolgym.registry.MAKERS`."""

    @abstractmethod
    def kinds(self) -> Sequence[Kind]:
        """The kinds that it can make, in a fixed order."""

    @abstractmethod
    def make(self, kind: Kind, count: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        """New tasks, as rows of a file that the environment takes as ``tasks``.

        Args:
            kind: one of `kinds`.
            count: how many.
            seed: another seed, other tasks; the same seed, the same ones.
            folder: where it may keep what it makes on the way.

        Raises:
            BadInputError: there are not so many.
        """


class CurriculumSettings(BaseModel):
    """How practice chooses its tasks.

    Args:
        choose: ``bandit``: Thompson sampling of each kind's success rate *p*, kinds chosen in
            proportion to *p* (1 - *p*), which is the variance of a reward of 0 or 1, inside the
            band ``between``. The others are there to compare with: ``uniform``, all kinds alike;
            ``hardest``, the quarter of the kinds with the lowest success rates; ``fixed``, the
            first round's tasks in every round.
        tasks: most tasks of a round, over all environments.
        groups: tasks whose episodes are not all rewarded alike that a round wants; it plays on
            until it has them, or has played ``tasks``. None: ``tasks`` are played.
        sittings: parts of a round; the next one's tasks are chosen by what the last ones gave.
        between: success rates of the band.
        review: share of the tasks that go to kinds above the band, to see what was forgotten.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    choose: Literal["bandit", "uniform", "hardest", "fixed"] = "bandit"
    tasks: int = Field(default=100, ge=1)
    groups: int | None = Field(default=None, ge=1)
    sittings: int = Field(default=4, ge=1)
    between: tuple[float, float] = (0.1, 0.9)
    review: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> CurriculumSettings:
        low, high = self.between
        if not 0 <= low < high <= 1:
            raise ValueError(f"'between' is two rising shares from 0 to 1, not {self.between!r}")
        if self.groups is not None and self.groups > self.tasks:
            raise ValueError(f"'groups' ({self.groups}) is more than 'tasks' ({self.tasks})")
        return self

    @property
    def portion(self) -> int:
        """Tasks of a sitting; the last one may have fewer."""
        return -(-self.tasks // self.sittings)


@dataclass(slots=True)
class Tally:
    """What came of a kind's tasks.

    Args:
        tasks: played.
        tries: their episodes.
        right: episodes that a filter of the round would keep for what they did.
        live: tasks whose episodes were not all rewarded alike.
    """

    tasks: float = 0
    tries: float = 0
    right: float = 0
    live: float = 0

    def add(self, other: Tally, weight: float = 1.0) -> None:
        """Count another one, too."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + weight * getattr(other, name))

    @property
    def rate(self) -> float:
        """Share of right episodes; 0.5 where there was none."""
        return (self.right + 1) / (self.tries + 2)


def named(kind: Kind) -> str:
    """A kind as text, for tables: ``multi-hop, level 2``."""
    return ", ".join(
        value if isinstance(value, str) else f"{key} {value}" for key, value in kind.items()
    )


def make_maker(spec: str | Mapping[str, Any]) -> TaskMaker:
    """A registered maker of tasks.

    Args:
        spec: its name, or a mapping of ``name`` and its options.

    Raises:
        UnknownNameError: there is none of this name.
        BadInputError: an option that it does not have, or what is registered makes something else.
    """
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(options.pop("name", ""))
    factory = MAKERS.get(name)
    accepted = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in accepted:
            raise BadInputError(
                f"maker {name!r} has no option {option!r}{did_you_mean(option, accepted)}; "
                f"options: {', '.join(accepted) or 'none'}"
            )
    made = factory(**options)
    if not isinstance(made, TaskMaker):
        raise BadInputError(f"maker {name!r} is registered, but makes {made!r:.80}, no TaskMaker")
    return made


def weighted(history: Iterable[tuple[int, Place, Tally]], now: int) -> dict[Place, Tally]:
    """What is known of each kind in a round: earlier rounds count half of the next one.

    Args:
        history: round, kind, and what came of its tasks, by sitting.
        now: the round.
    """
    found: dict[Place, Tally] = {}
    for number, place, tally in history:
        found.setdefault(place, Tally()).add(tally, KEPT ** (now - number))
    return found


def choose(
    places: Sequence[Place],
    known: Mapping[Place, Tally],
    settings: CurriculumSettings,
    count: int,
    rng: random.Random,
) -> dict[Place, int]:
    """How many tasks of which kind to play next.

    Args:
        places: all kinds there are.
        known: what came of those that were played; see `weighted`.
        settings: see `CurriculumSettings`.
        count: tasks.
        rng: what is drawn with.

    Returns:
        Counts of the kinds that were chosen, in the order of ``places``; ``count`` in all.

    Source:
        Thompson 1933 for the draws; the band and *p* (1 - *p*) follow what has no gradient in GRPO
        (arXiv 2402.03300): a group that is all right or all wrong.
    """
    if settings.choose in ("uniform", "fixed"):
        return _evenly(places, places, count, rng)
    rates = {place: known.get(place, Tally()).rate for place in places}
    if settings.choose == "hardest":
        hardest = sorted(places, key=lambda place: rates[place])[: -(-len(places) // 4)]
        return _evenly(places, hardest, count, rng)
    mastered = [
        place
        for place in places
        if place in known and known[place].tries >= SURE and rates[place] > settings.between[1]
    ]
    chosen = dict.fromkeys(places, 0)
    for _ in range(count):
        if mastered and rng.random() < settings.review:
            chosen[rng.choice(mastered)] += 1
            continue
        weights = [_worth(known.get(place, Tally()), settings, rng) for place in places]
        chosen[rng.choices(places, weights)[0]] += 1
    return {place: number for place, number in chosen.items() if number}


def _worth(tally: Tally, settings: CurriculumSettings, rng: random.Random) -> float:
    drawn = rng.betavariate(1 + tally.right, 1 + tally.tries - tally.right)
    low, high = settings.between
    return max(drawn * (1 - drawn), ELSEWHERE) if low <= drawn <= high else ELSEWHERE


def _evenly(
    places: Sequence[Place], among: Sequence[Place], count: int, rng: random.Random
) -> dict[Place, int]:
    """The same number of each; what is left over goes to some that are drawn."""
    whole, left = divmod(count, len(among))
    more = set(rng.sample(list(among), left))
    counts = {place: whole * (place in among) + (place in more) for place in places}
    return {place: number for place, number in counts.items() if number}
