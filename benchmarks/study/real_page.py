"""The page of the study of the real model: counts, tables, and the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.curves import accuracy_curves
from toolgym.evaluation.document import Block, Figure, Heading, Paragraph, Table
from toolgym.evaluation.intervals import wilson

FIGURES = (
    *("exact_match", "token_f1", "accuracy", "accuracy_paper", "invoke_rate", "malformed_rate"),
    *("answer_words", "copied_passage", "Solve-F1"),
)


_SHOWN = {"gsm8k": "accuracy", "scenarios": "Solve-F1"}
"""What tells most of a set; of the others exact match."""


def told(facts: Mapping[str, Any]) -> str:
    """An arm of a seed in a line: exact match by set and way, and the time."""
    last = facts["rounds"][-1]
    known = {k: v["exact_match"] for k, v in last.items() if v.get("exact_match") is not None}
    shares = [f"{name} EM {100 * share:.1f} %" for name, share in known.items()]
    return f"{', '.join(shares)} ({facts['seconds']:.0f} s)"


def pooled(
    seeds: Sequence[Mapping[str, Any]], number: int, figure: str, name: str = ""
) -> tuple[int, int]:
    """Right and asked, greedily, of a figure that is 0 or 1 a question.

    Args:
        seeds: facts of an arm.
        number: of the round.
        figure: such as ``exact_match``.
        name: of a set; nothing: all that have the figure together.
    """
    found = [
        (values[figure], values["questions"])
        for seed in seeds
        for way, values in seed["rounds"][number].items()
        if way.endswith(f"{name}-greedy") and values.get(figure) is not None
    ]
    return round(sum(share * of for share, of in found)), sum(of for _, of in found)


def _interval(right: int, of: int) -> str:
    if not of:
        return "-"
    low, high = wilson(right / of, of)
    return f"{100 * right / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table(found: Mapping[str, Any]) -> Table:
    """All arms after their last round."""
    rows = []
    for arm, by_seed in found["arms"].items():
        seeds = [by_seed[seed] for seed in sorted(by_seed, key=int)]
        cells = [_interval(*pooled(seeds, -1, name)) for name in ("exact_match", "accuracy")]
        each = [pooled([seed], -1, "exact_match") for seed in seeds]
        means = [_mean(seeds, name) for name in ("token_f1", *FIGURES[4:])]
        perplexity = sum(s["perplexity"] for s in seeds) / len(seeds)
        shares = ", ".join(f"{100 * right / max(1, of):.1f}" for right, of in each)
        rows.append([arm, *cells, shares, *means, f"{perplexity:.1f}"])
    head = ["arm", "EM", "accuracy", "EM of each seed", "F1", "calls", "malformed", "words"]
    return Table([*head, "copied", "Solve-F1", "perplexity"], rows)


def _mean(seeds: Sequence[Mapping[str, Any]], name: str) -> str:
    """Of a figure over seeds and sets, after the last round, asked greedily."""
    last = [v.get(name) for s in seeds for k, v in s["rounds"][-1].items() if "greedy" in k]
    known = [value for value in last if value is not None]
    return f"{sum(known) / len(known):.2f}" if known else "-"


def _by_set(found: Mapping[str, Any], sets: Sequence[str]) -> Table:
    rows = [
        [arm, *(_interval(*pooled(list(by_seed.values()), -1, "exact_match", s)) for s in sets)]
        for arm, by_seed in found["arms"].items()
    ]
    return Table(["EM", *sets], rows)


def _elsewhere(found: Mapping[str, Any]) -> list[Block]:
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
    told = f"{share:.2f}" if figure == "Solve-F1" else _interval(round(share * asked), asked)
    return f"{told} of {asked} / {calls:.2f}"


def _changed(found: Mapping[str, Any]) -> Table:
    """Relative change of the weights by third of the layers, the mean over seeds."""
    trained = {
        arm: parts
        for arm, by_seed in found["arms"].items()
        if (parts := [s["changed"] for s in by_seed.values() if s["changed"]])
    }
    names = list(dict.fromkeys(name for parts in trained.values() for p in parts for name in p))
    rows = [
        [arm, *(f"{100 * sum(p[name] for p in parts) / len(parts):.2f} %" for name in names)]
        for arm, parts in trained.items()
    ]
    return Table(["arm", *names], rows)


def page(found: Mapping[str, Any], order: Sequence[str], arms: Sequence[str]) -> list[Block]:
    """The page.

    Args:
        found: ``questions``, ``model``, and facts by arm and seed.
        order: of the sets.
        arms: of the whole study.
    """
    left = "; ".join(arm for arm in arms if arm not in found["arms"])
    curves = {
        arm: [
            [pooled([seed], n, "exact_match") for n in range(len(seed["rounds"]))]
            for seed in by_seed.values()
        ]
        for arm, by_seed in found["arms"].items()
    }
    rounds = [r for arm in found["arms"].values() for s in arm.values() for r in s["rounds"]]
    sets = [name for name in order if f"{name}-greedy" in rounds[0]]
    return [
        Heading("A real model, trained in every way", 1),
        Paragraph(
            f"Model: {found['model']}. At most {found['questions']} held-out questions of each of "
            f"{', '.join(sets)}, asked greedily and without examples or guide unless the arm says "
            "so; between rounds fewer were asked. Practice sees the bundled questions alone. EM "
            "and accuracy in percent with 95 % Wilson intervals over the questions of all seeds; "
            "calls an episode, malformed share of attempts, words an answer, share of copied "
            "passages; perplexity of plain text, "
            "which shows what was lost."
        ),
        *([Paragraph(f"Arms that have not been run yet: {left}.")] if left else []),
        table(found),
        Figure(
            accuracy_curves(curves), "real-model-study.svg", "EM by round, thin lines are seeds"
        ),
        Heading("By set"),
        _by_set(found, sets),
        *_elsewhere(found),
        Heading("Where the weights changed"),
        Paragraph(
            "Relative change by third of the layers and kind of module "
            "([definitions](compare.md#where-the-weights-changed)). arXiv 2508.08791 finds that "
            "the gains of its training come with updates in the MLPs of the lower layers."
        ),
        _changed(found),
    ]
