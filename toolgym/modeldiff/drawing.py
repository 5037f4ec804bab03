"""Two drawings of a change of weights, as SVG that needs nothing else: by layer, and a map."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence

from toolgym.evaluation.document import ceiling, line, path, svg, text
from toolgym.modeldiff.weights import THIRDS, Change, WeightChange

__all__ = ["layer_chart", "layer_map"]

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
        module: [_percent(cells.get((layer, module))) for layer in range(change.layers)]
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
    return order, {key: _percent(found) for key, found in cells.items()}


def _module(kind: str, keys: dict[tuple[str, int | None, str], Change]) -> str:
    return next(module for name, _, module in keys if name == kind)


def _percent(change: Change | None) -> float | None:
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
