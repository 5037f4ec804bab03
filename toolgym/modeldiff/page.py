"""A comparison of two models as a page: blocks of text, tables and drawings."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence

from toolgym._util.text import number, text_table
from toolgym.evaluation.document import (
    Block,
    Figure,
    Heading,
    Paragraph,
    Quote,
    Table,
    ceiling,
    line,
    path,
    svg,
    text,
)
from toolgym.modeldiff.general import Ability, ability_blocks
from toolgym.modeldiff.heldout import Family
from toolgym.modeldiff.weights import THIRDS, Change, WeightChange

__all__ = ["TITLE", "blocks", "layer_chart", "layer_map", "to_text"]

_WIDTH, _LEFT, _TOP = 860, 64, 34
_NAMES = {"attention": "attention", "mlp": "MLP", "other": "other"}
_COLOURS = {"attention": "#2563a8", "mlp": "#c2540a", "other": "#6b7280"}
_MARKS = {"attention": "circle", "mlp": "square", "other": "circle"}
_BAND = "#f4f6f9"
_LIGHT, _DARK = (238, 243, 251), (10, 52, 112)  # colours of no change and of the largest
_MOST_KINDS = 16


def layer_chart(change: WeightChange) -> str:
    """Relative change of attention and MLP by layer, the thirds of the layers shaded."""
    cells = change.by(lambda place: (place.layer, place.module))
    lines = {
        module: [_in_percent(cells.get((layer, module))) for layer in range(change.layers)]
        for module in _COLOURS
        if any(layer is not None and key == module for layer, key in cells)
    }
    top = ceiling(max((v for values in lines.values() for v in values if v), default=0.0))
    height = 260
    step = (_WIDTH - _LEFT - 120) / max(1, change.layers)

    def x(layer: float) -> float:
        return _LEFT + step * (layer + 0.5)

    def y(value: float) -> float:
        return _TOP + height * (1 - value / top)

    parts = [*_bands(change, x, height)]
    for n in range(5):
        value = top * n / 4
        parts.append(line(_LEFT, y(value), _WIDTH - 120, y(value)))
        parts.append(text(_LEFT - 8, y(value) + 4, f"{value:.3g} %", "end"))
    every = math.ceil(change.layers / 24)
    for layer in range(0, change.layers, every):
        parts.append(text(x(layer), _TOP + height + 18, str(layer)))
    parts.append(text(x((change.layers - 1) / 2), _TOP + height + 38, "layer, from the input"))
    ends = _spread([(y(values[-1] or 0.0), module) for module, values in lines.items()])
    for place, module in ends:
        parts.append(
            text(x(change.layers - 1) + 12, place + 4, _NAMES[module], "start", _COLOURS[module])
        )
    for module, values in lines.items():
        points = [(x(n), y(v)) for n, v in enumerate(values) if v is not None]
        parts.append(path(points, _COLOURS[module]))
        for layer, found in enumerate(values):
            if found is not None:
                label = f"layer {layer}, {_NAMES[module]}: {found:.3g} %"
                parts.append(_mark(x(layer), y(found), module, label))
    return svg(parts, _WIDTH, _TOP + height + 50)


def layer_map(change: WeightChange) -> str:
    """Relative change of each kind of tensor (``q_proj``, ``up_proj``, ...) in each layer."""
    kinds, cells = _kinds(change)
    if not kinds:
        return ""
    largest = max((v for v in cells.values() if v is not None), default=0.0)
    left = 24 + 7.5 * max(len(kind) for kind in kinds)
    step = min(48.0, (_WIDTH - left - 20) / max(1, change.layers))
    size = 22
    parts = []
    for row, kind in enumerate(kinds):
        top = 4 + row * size
        parts.append(text(left - 8, top + 15, kind, "end"))
        for layer in range(change.layers):
            value = cells.get((kind, layer))
            if value is None:
                continue
            colour = _shade(value / largest if largest else 0.0)
            parts.append(
                f'<rect x="{left + layer * step:.1f}" y="{top}" width="{step - 1:.1f}" '
                f'height="{size - 1}" fill="{colour}">'
                f"<title>layer {layer}, {html.escape(kind)}: {value:.3g} %</title></rect>"
            )
    bottom = 4 + len(kinds) * size
    every = math.ceil(change.layers * 20 / max(1.0, step * change.layers))
    for layer in range(0, change.layers, every):
        parts.append(text(left + (layer + 0.5) * step, bottom + 16, str(layer)))
    parts.append(text(left, bottom + 42, "no change", "start"))
    for n in range(20):
        parts.append(
            f'<rect x="{left + 76 + 8 * n}" y="{bottom + 30}" width="8" height="14" '
            f'fill="{_shade(n / 19)}"/>'
        )
    parts.append(text(left + 244, bottom + 42, f"{largest:.3g} %", "start"))
    return svg(parts, _WIDTH, bottom + 54)


def _kinds(change: WeightChange) -> tuple[list[str], dict[tuple[str, int], float | None]]:
    """The kinds with most elements, in the order of the network, and their change by layer."""
    sums = change.by(lambda p: (p.kind, p.layer, p.module))
    inside = {k: c for k, c in sums.items() if k[1] is not None and k[2] != "norms"}
    sizes: dict[str, int] = {}
    for (kind, _, _), found in inside.items():
        sizes[kind] = sizes.get(kind, 0) + found.elements
    kept = set(sorted(sizes, key=lambda kind: -sizes[kind])[:_MOST_KINDS])
    cells: dict[tuple[str, int], Change] = {}
    for (kind, layer, _), found in inside.items():
        if kind in kept and layer is not None:
            cells[kind, layer] = cells.get((kind, layer), Change()) + found
    order = sorted(kept, key=lambda kind: (_module(kind, inside), kind))
    return order, {key: _in_percent(found) for key, found in cells.items()}


def _module(kind: str, keys: dict[tuple[str, int | None, str], Change]) -> str:
    return next(module for name, _, module in keys if name == kind)


def _in_percent(change: Change | None) -> float | None:
    relative = change.relative if change is not None else None
    return None if relative is None else 100 * relative


def _spread(ends: Sequence[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Heights of labels, moved so that none covers another."""
    last = -math.inf
    for height, name in sorted(ends):
        last = max(height, last + 16)
        yield last, name


def _bands(change: WeightChange, x: Callable[[float], float], height: int) -> Iterator[str]:
    if change.layers < 3:
        return
    for name in THIRDS:
        inside = [layer for layer in range(change.layers) if change.third(layer) == name]
        begin, end = x(inside[0] - 0.5), x(inside[-1] + 0.5)
        if name != "middle":
            yield (
                f'<rect x="{begin:.1f}" y="{_TOP}" width="{end - begin:.1f}" height="{height}" '
                f'fill="{_BAND}"/>'
            )
        yield text((begin + end) / 2, _TOP - 10, f"{name} third")


def _mark(x: float, y: float, module: str, label: str) -> str:
    title = f"<title>{html.escape(label)}</title>"
    if _MARKS[module] == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS[module]}">{title}</circle>'
    return (
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{_COLOURS[module]}">'
        f"{title}</rect>"
    )


def _shade(share: float) -> str:
    mixed = (round(a + (b - a) * share) for a, b in zip(_LIGHT, _DARK, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


TITLE = "Before and after training"
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
        made += ability_blocks(abilities)
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
