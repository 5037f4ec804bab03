"""What a model of the study does where it never practised: other questions, tools, and none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolgym.evaluation.document import Block, Heading, Paragraph, Table
from toolgym.evaluation.intervals import wilson

__all__ = ["elsewhere_blocks"]

_SHOWN = {"gsm8k": "accuracy", "scenarios": "Solve-F1"}
"""What tells most of a set; of the others exact match."""


def elsewhere_blocks(found: Mapping[str, Any]) -> list[Block]:
    """A section for the page, or nothing.

    Args:
        found: ``arms``: facts by arm and seed, some of which hold ``elsewhere``: figures by set.
    """
    asked = {
        arm: parts
        for arm, by_seed in found["arms"].items()
        if (parts := [facts["elsewhere"] for facts in by_seed.values() if facts.get("elsewhere")])
    }
    sets = list(dict.fromkeys(name for parts in asked.values() for part in parts for name in part))
    if not sets:
        return []
    head = [f"{name}: {_SHOWN.get(name, 'exact_match')} / calls" for name in sets]
    rows = [[arm, *(_cell(parts, name) for name in sets)] for arm, parts in asked.items()]
    return [
        Heading("Asked where it never practised"),
        Paragraph(
            "The same models, asked greedily from sets of which no question was practised: shares "
            "in percent with 95 % Wilson intervals over the questions of all seeds (Solve-F1: a "
            "mean), and calls an episode. Of `closed-book` there is no tool: it shows what the "
            "model still knows by heart."
        ),
        Table(["arm", *head], rows),
    ]


def _cell(parts: list[Mapping[str, Any]], name: str) -> str:
    """A set's figure over the seeds that were asked, and the calls."""
    figure = _SHOWN.get(name, "exact_match")
    known = [part[name] for part in parts if part.get(name, {}).get(figure) is not None]
    if not known:
        return "-"
    asked = sum(part["questions"] for part in known)
    share = sum(part[figure] * part["questions"] for part in known) / asked
    calls = sum(part["invoke_rate"] * part["questions"] for part in known) / asked
    if figure == "Solve-F1":
        return f"{share:.2f} of {asked} / {calls:.2f}"
    low, high = wilson(share, asked)
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {asked} / {calls:.2f}"
