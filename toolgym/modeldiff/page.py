"""A comparison of two models as a page: blocks of text, tables and drawings."""

from __future__ import annotations

from collections.abc import Sequence

from toolgym._util.text import number, text_table
from toolgym.evaluation.document import Block, Figure, Heading, Paragraph, Quote, Table
from toolgym.modeldiff.drawing import layer_chart, layer_map
from toolgym.modeldiff.general import Ability
from toolgym.modeldiff.heldout import Family
from toolgym.modeldiff.weights import Change, WeightChange

__all__ = ["TITLE", "blocks", "to_text"]

TITLE = "Before and after training"
_NAMES = {"attention": "attention", "mlp": "MLP"}
_ALL_METRICS = ("exact_match", "token_f1", "Solve-P", "Solve-R", "Solve-F1")


def blocks(
    base: str,
    tuned: str,
    weights: WeightChange | None,
    families: Sequence[Family],
    abilities: Sequence[Ability],
    warnings: Sequence[str],
) -> list[Block]:
    """The page.

    Args:
        base: name of the model before.
        tuned: name of the model after.
        weights: or None when they were left out.
        families: may be empty.
        abilities: may be empty.
        warnings: may be empty.
    """
    made: list[Block] = [
        Heading(TITLE, 1),
        Table(["model", "name"], [["before", f"`{base}`"], ["after", f"`{tuned}`"]]),
    ]
    if warnings:
        made += [Heading("Warnings"), *map(Paragraph, warnings)]
    if weights is not None:
        made += _weights(weights)
    if families:
        made += _held_out(families)
    if abilities:
        made += _general(abilities)
    return made


def to_text(made: Sequence[Block]) -> str:
    """The page for a terminal: without drawings."""
    parts = []
    for block in made:
        match block:
            case Heading(text, level):
                parts.append(f"{text}\n{('=' if level == 1 else '-') * len(text)}")
            case Paragraph(text) | Quote(text):
                parts.append(text)
            case Table(head, rows):
                parts.append(text_table(head, rows))
            case Figure():
                pass
    return "\n\n".join(parts).replace("`", "")


def _weights(change: WeightChange) -> list[Block]:
    total = change.total
    made: list[Block] = [Heading("Where the weights changed"), Paragraph(_in_words(change))]
    made += [Paragraph(note) for note in change.notes]
    head = ["part", "relative change", "share of change", "share of weights", "changed weights"]
    if change.layers >= 3 and total.moved:
        rows = [
            [f"{third} ({_span(change, third)}), {_NAMES[module]}", *_cells(change, found)]
            for (third, module), found in change.thirds().items()
            if module in ("attention", "mlp")
        ]
        made += [Paragraph("By third of the layers, counted from the input:"), Table(head, rows)]
    rows = [
        [_NAMES.get(module, module), *_cells(change, found)]
        for module, found in change.modules().items()
    ]
    made += [Paragraph("By kind of module:"), Table(head, [*rows, ["all", *_cells(change, total)]])]
    made += [
        Paragraph(
            "Relative change: ||after - before|| / ||before||, over all weights of the part. Share "
            "of change: of the sum of squared differences. Where it is above the share of weights, "
            "the part moved more than the average. Optimisers of Adam's kind move every weight by "
            "about as much a step: parts of small weights then show the larger relative change."
        )
    ]
    if total.moved and change.layers:
        chart = "Relative change of the weights by layer."
        plan = "Relative change by layer and kind of weight: the darker the more."
        made += [Figure(layer_chart(change), "layers.svg", chart)]
        if drawn := layer_map(change):
            made += [Figure(drawn, "map.svg", plan)]
    return [*made, *_layers(change)]


def _in_words(change: WeightChange) -> str:
    total = change.total
    if not total.moved:
        return "No weight changed: the two models are the same numbers."
    text = (
        f"All weights: {_percent(total.relative)} relative change; {total.changed:,} of "
        f"{total.elements:,} are not equal."
    )
    cells = {
        key: found
        for key, found in change.thirds().items()
        if key[1] in ("attention", "mlp") and found.relative is not None
    }
    if change.layers < 3 or not cells:
        return text
    (third, module), most = max(cells.items(), key=lambda item: item[1].relative or 0.0)
    text += (
        f" Of the layers, the {_NAMES[module]} of the {third} third changed most, by "
        f"{_percent(most.relative)}."
    )
    lower = cells.get(("lower", "mlp"))
    if lower is not None and (third, module) != ("lower", "mlp"):
        text += f" The MLPs of the lower third: {_percent(lower.relative)}."
    return text + " (arXiv 2508.08791 finds the gains in the lower layers' MLPs.)"


def _span(change: WeightChange, third: str) -> str:
    inside = [layer for layer in range(change.layers) if change.third(layer) == third]
    ends = f"{inside[0]}" if len(inside) == 1 else f"{inside[0]}-{inside[-1]}"
    return f"layer{'s' if len(inside) > 1 else ''} {ends}"


def _cells(change: WeightChange, found: Change) -> list[str]:
    shares = (
        change.share(found),
        found.elements / max(1, change.total.elements),
        found.changed / max(1, found.elements),
    )
    return [_percent(found.relative), *(f"{100 * share:.1f} %" for share in shares)]


def _percent(share: float | None) -> str:
    """Three digits: a fine-tuned model may be 0.01 % away."""
    return "-" if share is None else f"{100 * share:.3g} %"


def _layers(change: WeightChange) -> list[Block]:
    cells = change.by(lambda place: (place.layer, place.module))
    rows = []
    for layer in range(change.layers):
        whole = sum((c for (n, _), c in cells.items() if n == layer), start=Change())
        found = [cells.get((layer, module)) for module in ("attention", "mlp", "norms")]
        shown = [_percent(c.relative if c is not None else None) for c in found]
        share = f"{100 * change.share(whole):.1f} %"
        rows.append([str(layer), *shown, _percent(whole.relative), share])
    if not rows:
        return []
    head = ["layer", "attention", "MLP", "norms", "whole layer", "share of change"]
    return [Paragraph("Relative change by layer:"), Table(head, rows)]


def _held_out(families: Sequence[Family]) -> list[Block]:
    rows = [_family_row(family) for family in families]
    made: list[Block] = [
        Heading("Held-out accuracy by task family"),
        Paragraph(_lost(families)),
        Table(["family", "tasks", "before", "after", "change", "p", "p (Holm)", "verdict"], rows),
        Paragraph(
            "Paired by task. The change has its 95 % interval (bootstrap over tasks); p is the "
            "exact McNemar test, p (Holm) the same corrected for the number of families."
        ),
    ]
    others = [
        [
            f"{family.name}, {row.name}",
            number(row.before, True),
            number(row.after, True),
            _points(row.change, row.low, row.high),
        ]
        for family in families
        for row in family.comparison.rows
        if row.name in _ALL_METRICS
    ]
    sources = [[f.name, f.comparison.source or "not recorded", _left_out(f)] for f in families]
    made += [Table(["other metrics", "before", "after", "change"], others)]
    made += [Table(["family", "tasks from", "left out"], sources)]
    if any(family.comparison.source == "sample" for family in families):
        made += [Paragraph("Some tasks are the bundled sample: no figures on a benchmark.")]
    return made


def _left_out(family: Family) -> str:
    found = family.comparison
    if not found.only_before and not found.only_after:
        return "none"
    return f"{found.only_before} tasks only before, {found.only_after} only after"


def _family_row(family: Family) -> list[str]:
    row = family.comparison["accuracy"]
    return [
        family.name,
        str(family.comparison.tasks),
        number(row.before, True),
        number(row.after, True),
        _points(row.change, row.low, row.high),
        *("-" if p is None else f"{p:.2g}" for p in (row.p_value, family.p_holm)),
        _verdict(row.low, row.high),
    ]


def _points(change: float, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * change:+.1f}{ends}"


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no interval"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def _lost(families: Sequence[Family]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for family in families:
        row = family.comparison["accuracy"]
        by_verdict.setdefault(_verdict(row.low, row.high), []).append(family.name)
    texts = {"worse": "Lost", "better": "Gained", "undecided": "Undecided"}
    found = [f"{texts[key]}: {'; '.join(by_verdict[key])}." for key in texts if key in by_verdict]
    return " ".join(found) or "No interval could be had: too few tasks, or all alike."


def _general(abilities: Sequence[Ability]) -> list[Block]:
    rows = []
    for found in abilities:
        distance = found.change / found.error if found.error else None
        rows.append(
            [
                f"{found.task}, {found.metric}",
                f"{found.before:.4f}",
                f"{found.after:.4f}",
                f"{found.change:+.4f}",
                "-" if found.error is None else f"{found.error:.4f}",
                "-" if distance is None else f"{distance:+.1f}",
                f"paired, {found.pairs} documents" if found.pairs else "unpaired",
            ]
        )
    head = ["task, metric", "before", "after", "change", "standard error", "change / error"]
    return [
        Heading("General abilities (lm-eval)"),
        Table([*head, "error from"], rows),
        Paragraph(
            "A change of less than two standard errors may be chance; of many tasks some pass that "
            "mark by chance, too."
        ),
    ]
