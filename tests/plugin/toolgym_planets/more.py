"""What a plug-in adds beside an environment: an author, a job, commands, a viewer, a server."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from toolgym.envs.toolscenario.authors.template.author import OfflineAuthor
from toolgym.policies.local.packaged import PackagedModel
from toolgym.selftrain.curriculum import Kind, TaskMaker
from toolgym.selftrain.settings import EnvironmentSettings, Preset, SelfTrainSettings
from toolgym.tools.session import SessionSpec
from toolgym_planets.environment import MOONS

app = typer.Typer(help="What is known of planets.")
ORRERY = PackagedModel(
    package="orrery",
    version="1.0",
    wheel="0" * 64,
    member="orrery/planets.gguf",
    gguf="1" * 64,
    size=1,
)


@app.command("list")
def list_planets() -> None:
    """Print the planets."""
    print("\n".join(MOONS))


@app.command("moons")
def print_moons(planet: str) -> None:
    """Print the moons of a planet."""
    print(MOONS[planet])


def describe_row(row: dict[str, Any], width: int = 600) -> tuple[str, str] | None:
    """A row of a task file of planets."""
    if "planet" not in row:
        return None
    return str(row["id"]), f"{row['planet']}: {row['question']}"[:width]


class Conjunctions(TaskMaker):
    """New questions about planets, by how many moons are named of them."""

    def kinds(self) -> Sequence[Kind]:
        """One moon, or more."""
        return [{"moons": "one"}, {"moons": "more"}]

    def make(self, kind: Kind, count: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        """See `TaskMaker.make`."""
        several = kind["moons"] == "more"
        names = [name for name, moon in MOONS.items() if (" and " in moon) == several]
        return [
            {"id": f"{place}", "question": f"Which moons has {name}?", "answers": [MOONS[name]]}
            for place, name in enumerate(random.Random(seed).choices(names, k=count))
        ]


class Probe:
    """A probe in orbit."""

    planet = ""

    def look(self, moon: bool = True) -> str:
        """Look around.

        Args:
            moon: at the moons; else at the planet.
        """
        return MOONS[self.planet] if moon else self.planet


def probe(text: str, /) -> SessionSpec:
    """The tools of ``probe:Mars``."""
    return SessionSpec(type("Probe", (Probe,), {"planet": text.partition(":")[2]}))


class PlanetaryAuthor(OfflineAuthor):
    """The author without a model, under a name of its own."""


class Stargazing(Preset):
    """Practise on the bundled planets, be measured on giants."""

    def settings(
        self, model: str | None = None, *, corpus: str | None = None, seed: int = 0
    ) -> SelfTrainSettings:
        """One round."""
        planets = EnvironmentSettings(id="Planets-v0", train={}, test={"tasks": "giants"})
        model = model or "some/model"
        return SelfTrainSettings(model=model, environments=[planets], rounds=1, seed=seed)
