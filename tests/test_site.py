"""What the site makes of the library itself: galleries, and the page of public names."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import toolgym
from toolgym.registry import ENVIRONMENTS, FORMATS, REWARDS, TOOLS

ROOT = Path(__file__).parent.parent
KINDS = {
    "environments": ENVIRONMENTS,
    "tools": TOOLS,
    "formats": FORMATS,
    "rewards": REWARDS,
}


@pytest.fixture(scope="module")
def hooks() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "hooks.py"))


@pytest.mark.parametrize("gallery", KINDS)
def test_every_name_has_a_card(gallery: str, hooks: dict[str, Any]) -> None:
    page = (ROOT / "docs" / f"gallery-{gallery}.md").read_text(encoding="utf-8")
    made = hooks["on_page_markdown"](page)
    assert "<!-- gallery" not in made
    cards = re.findall(r"^## (\S+)$", made, re.M)
    assert set(cards) >= set(KINDS[gallery])


def test_the_examples_are_right(hooks: dict[str, Any]) -> None:
    made = "\n".join(hooks["environments"]())
    played = re.findall(r"^ *=== .* reward (\S+)$", made, re.M)
    assert played == ["1"] * len(ENVIRONMENTS)
    assert "Error" not in "\n".join(hooks["tools"]())


def test_rewards_tell_the_episodes_apart(hooks: dict[str, Any]) -> None:
    made = "\n".join(hooks["rewards"]())
    rows = {
        cells[1].strip(): cells[2:-1]
        for cells in (line.split("|") for line in made.splitlines() if line.startswith("| "))
    }
    assert float(rows["searches, and answers `Rabat`"][0]) == 1.0
    assert float(rows["lists candidates"][0]) == 0.0
    assert float(rows["`scenario-oracle`"][-1]) == 1.0


def test_an_unknown_gallery_is_an_error(hooks: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="planets"):
        hooks["on_page_markdown"]("<!-- gallery: planets -->")


def test_every_public_name_is_on_the_reference_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: (\S+)$", page, re.M))
    for name in toolgym.__all__:
        thing = getattr(toolgym, name)
        assert f"{thing.__module__}.{thing.__qualname__}" in named, name
