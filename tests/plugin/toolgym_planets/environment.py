"""``Planets-v0``: its tasks, its tool, its reward, its format and a policy that knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolgym import Task, ToolError, Trajectory, tool
from toolgym.envs.toolqa.family import Family
from toolgym.formats import Action
from toolgym.formats.tags import TagsFormat
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request, past_results, question_of
from toolgym.registry import REWARDS, Resource

MOONS = {
    "Mercury": "none",
    "Earth": "the Moon",
    "Mars": "Phobos and Deimos",
    "Neptune": "Triton",
    "Saturn": "Titan",
}


@tool(name="Moons", inline=True, cache=True)
def moons(planet: str) -> str:
    """Name the largest moons of a planet.

    Args:
        planet: its name.
    """
    if planet not in MOONS:
        raise ToolError(f"{planet!r} is not a planet that I know")
    return MOONS[planet]


def short(task: Task, trajectory: Trajectory, *, words: int = 3) -> list[float]:
    """Accuracy, for answers of at most so many words."""
    right = REWARDS.get("accuracy")(task, trajectory)
    brief = [len((step.answer or "").split()) <= words for step in trajectory.steps]
    return [value * fits for value, fits in zip(right, brief, strict=True)]


class HushedFormat(TagsFormat):
    """Tags, and a plea for few words."""

    name = "hushed"

    def instructions(self, tools: Sequence[Any]) -> str:
        """The tags' own, and the plea."""
        return f"{super().instructions(tools)} Use few words."


class Astronomer(Policy):
    """Asks for the moons of the planet that the question names, then says what it was told."""

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """One reply a request."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply:
        told = past_results(request)
        named = [planet for planet in MOONS if planet in question_of(request)]
        if told:
            action = Action("", (), told[0][1])
        else:
            action = Action("", (ToolCall("call_0", "Moons", {"planet": named[0]}),))
        return Reply(request.format.write(action, request.tools))

    def describe(self) -> dict[str, Any]:
        """It has no settings."""
        return {"policy": "astronomer"}


FAMILY = Family(
    name="Planets",
    sample=Resource("toolgym_planets", "planets.jsonl"),
    tools=("Moons",),
    reward={"short": 1.0},
)

make = FAMILY.make
make_vector = FAMILY.make_vector
