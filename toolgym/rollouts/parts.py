"""Episodes by their place or their id, and parts of what holds them; read when looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, overload

from toolgym._util.notebook import Shown, fragment
from toolgym.errors import did_you_mean
from toolgym.rollouts.tables import Tabular
from toolgym.trajectory import Trajectory, glance

__all__ = ["Ordered", "Part"]


class Ordered(Tabular):
    """Episodes in an order that does not change, such as a run or a selection."""

    def __len__(self) -> int:
        raise NotImplementedError

    def at(self, places: Iterable[int]) -> Iterator[Trajectory]:
        """The episodes at these places, read one at a time."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int | str) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> Part: ...
    def __getitem__(self, index: int | str | slice) -> Trajectory | Part:
        """One episode by its place or its id (``task#sample``), or a part; nothing else is read.

        Raises:
            IndexError: there is no such place.
            KeyError: there is no such id.
        """
        if isinstance(index, slice):
            return Part(self, range(len(self))[index])
        if not isinstance(index, str):
            return next(self.at([range(len(self))[index]]))
        place = self.place_of(index)
        if place < 0:
            known = [trajectory.id for trajectory, _ in zip(self, range(1000), strict=False)]
            raise KeyError(f"no episode {index!r}{did_you_mean(index, known)}")
        return next(self.at([place]))

    def place_of(self, name: str) -> int:
        """Where an episode stands, by its id; -1: nowhere."""
        return next((n for n, trajectory in enumerate(self) if trajectory.id == name), -1)

    def glance(self) -> Shown:
        """The first episodes as a table for a notebook."""
        return glance(self.at(range(min(5, len(self)))), len(self))


class Part(Ordered):
    """Some episodes of a run or a selection.

    Args:
        whole: whose they are.
        places: of the episodes in its order.
    """

    def __init__(self, whole: Ordered, places: range) -> None:
        self.whole, self.places = whole, places

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Trajectory]:
        return self.whole.at(self.places)

    def at(self, places: Iterable[int]) -> Iterator[Trajectory]:
        """The episodes at these places of the part, read one at a time."""
        return self.whole.at(self.places[place] for place in places)

    def trajectories(self) -> list[Trajectory]:
        """The episodes."""
        return list(self)

    def provenance(self) -> dict[str, Any]:
        """That of the whole."""
        return self.whole.provenance()

    def __repr__(self) -> str:
        return f"Part({len(self)} episodes of {self.whole!r})"

    def _repr_html_(self) -> str:
        return fragment([], [self.glance()], title=repr(self))
