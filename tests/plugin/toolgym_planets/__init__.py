"""Questions about planets and their moons: an environment with all that it brings."""

from __future__ import annotations

from toolgym.registry import (
    AUTHORS,
    COMMANDS,
    CORPORA,
    ENVIRONMENTS,
    FORMATS,
    MAKERS,
    MODELS,
    POLICIES,
    PRESETS,
    REWARDS,
    SERVERS,
    TASKS,
    TOOLS,
    VIEWERS,
    Resource,
)

__all__ = ["register"]


def register() -> None:
    """Add every kind of name that a plug-in can add."""
    here = "toolgym_planets"
    ENVIRONMENTS.add(
        "Planets-v0",
        f"{here}.environment:make",
        vector=f"{here}.environment:make_vector",
        about="questions about planets and their moons",
    )
    TOOLS.add("Moons", f"{here}.environment:moons", about="the moons of a planet")
    REWARDS.add("short", f"{here}.environment:short", about="1 for a right answer in few words")
    FORMATS.add(
        "hushed", f"{here}.environment:HushedFormat", about="tags, and a plea for few words"
    )
    POLICIES.add("astronomer", f"{here}.environment:Astronomer", about="asks Moons, then answers")
    TASKS.add("giants", Resource(here, "giants.jsonl"), about="questions about giants alone")
    CORPORA.add("orbits", Resource(here, "orbits.jsonl"), about="an article on each planet")
    AUTHORS.add("planetary", f"{here}.more:PlanetaryAuthor", about="scenarios about orbits")
    PRESETS.add("stargazing", f"{here}.more:Stargazing", about="practise on planets")
    MAKERS.add("conjunctions", f"{here}.more:Conjunctions", about="new questions about planets")
    MODELS.add("orrery", f"{here}.more:ORRERY", about="a model of the planets, in a package")
    COMMANDS.add("planets", f"{here}.more:app", about="what is known of planets")
    VIEWERS.add("planet", f"{here}.more:describe_row", about="rows of planets")
    SERVERS.add("probe", f"{here}.more:probe", about="a probe at a planet, which tells its moons")
