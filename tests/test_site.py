"""What the site makes of the library itself: galleries, and the page of public names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toolgym

ROOT = Path(__file__).parent.parent
GALLERIES = ("environments", "tools", "formats", "rewards")
MAKE = """
import json, runpy, sys
from toolgym.registry import ENVIRONMENTS, FORMATS, REWARDS, TOOLS
hooks = runpy.run_path(sys.argv[1])
names = dict(environments=ENVIRONMENTS, tools=TOOLS, formats=FORMATS, rewards=REWARDS)
pages = {name: hooks["on_page_markdown"](open(f"{sys.argv[2]}/gallery-{name}.md").read())
         for name in names}
try:
    hooks["on_page_markdown"]("<!-- gallery: planets -->")
except KeyError as error:
    pages["planets"] = str(error)
print(json.dumps([pages, {name: list(kind) for name, kind in names.items()}]))
"""


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, str], dict[str, list[str]]]:
    """The pages as a process makes them in which nobody registered further names."""
    docs = ROOT / "docs"
    command = [sys.executable, "-c", MAKE, str(docs / "hooks.py"), str(docs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: Any = json.loads(done.stdout)
    return found[0], found[1]


@pytest.mark.parametrize("gallery", GALLERIES)
def test_every_name_has_a_card(
    gallery: str, made: tuple[dict[str, str], dict[str, list[str]]]
) -> None:
    pages, names = made
    assert "<!-- gallery" not in pages[gallery]
    cards = re.findall(r"^## (\S+)$", pages[gallery], re.M)
    assert set(cards) >= set(names[gallery])


def test_the_examples_are_right(made: tuple[dict[str, str], dict[str, list[str]]]) -> None:
    pages, names = made
    played = re.findall(r"^ *=== .* reward (\S+)$", pages["environments"], re.M)
    assert played == ["1"] * len(names["environments"])
    assert "Error" not in pages["tools"]


def test_rewards_tell_the_episodes_apart(
    made: tuple[dict[str, str], dict[str, list[str]]],
) -> None:
    rows = {
        cells[1].strip(): cells[2:-1]
        for cells in (
            line.split("|") for line in made[0]["rewards"].splitlines() if line.startswith("| ")
        )
    }
    assert float(rows["searches, and answers `Rabat`"][0]) == 1.0
    assert float(rows["lists candidates"][0]) == 0.0
    assert float(rows["`scenario-oracle`"][-1]) == 1.0


def test_an_unknown_gallery_is_an_error(
    made: tuple[dict[str, str], dict[str, list[str]]],
) -> None:
    assert made[0]["planets"] == "'planets'"


def test_every_public_name_is_on_the_reference_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: (\S+)$", page, re.M))
    for name in toolgym.__all__:
        thing = getattr(toolgym, name)
        assert f"{thing.__module__}.{thing.__qualname__}" in named, name
