"""What `toolgym selftrain --dry-run` prints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from toolgym._util.tables import text_table

if TYPE_CHECKING:
    from toolgym.selftrain.environments import Tasks
    from toolgym.selftrain.memory import Memory
    from toolgym.selftrain.plan import Plan

__all__ = ["plan_text"]


def plan_text(plan: Plan) -> str:
    """A plan as tables for readers."""
    shape = plan.shape
    lines = [f"model  {plan.model}"]
    if shape is not None:
        lines[0] += f": {shape.name}, {shape.parameters:,} parameters ({shape.source})"
    lines += ["", _environments(plan), "", _rounds(plan)]
    lines.append(
        f"held-out questions are played {plan.evaluations} times; all of these are upper bounds"
    )
    if plan.memory:
        lines += ["", _memory(plan)]
    if plan.needs:
        lines += ["", "not on this machine:", *(f"- {need}" for need in plan.needs)]
    return "\n".join(lines)


def _environments(plan: Plan) -> str:
    rows = [
        [place.name, place.id, _tasks(place.practise), _tasks(place.evaluate), place.corpus or "-"]
        for place in plan.places
    ]
    return text_table(["environment", "id", "practises on", "is evaluated on", "searches"], rows)


def _tasks(tasks: Tasks | None) -> str:
    return "-" if tasks is None else f"{_count(tasks.tasks)} of {tasks.source}"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _rounds(plan: Plan) -> str:
    head = ["round", "practice", "rows", "steps", "tokens sampled", "tokens trained", "method"]
    rows = [
        [
            str(each.number),
            *map(_count, (each.practice, each.rows, each.steps, each.sampled, each.trained)),
            each.method,
        ]
        for each in plan.rounds
    ]
    return text_table(head, rows)


def _memory(plan: Plan) -> str:
    from toolgym.selftrain.memory import PARTS, fitting

    def cells(peak: Memory) -> list[str]:
        parts = [f"{getattr(peak, part) / 1e9:.2f}" for part in PARTS]
        gpu = fitting(peak.total)
        fits = f"{gpu} GiB" if gpu is not None else "none"
        return [*parts, f"{peak.total / 1e9:.2f}", fits if plan.gpu else _ram(peak.total)]

    last = "smallest GPU" if plan.gpu else "this machine"
    rows = [[name, *cells(peak)] for name, peak in plan.memory.items()]
    text = text_table(["GB at most", *PARTS, "total", last], rows)
    if plan.gpu and any(fitting(peak.total) is None for peak in plan.memory.values()):
        text += (
            "\nno single GPU has room: use lora, shorter max_length or max_prompt_tokens, "
            "smaller sampling.batch_size or device_batch_size, or `toolgym train` on several GPUs"
        )
    return text


def _ram(total: float) -> str:
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{'fits' if total <= have else 'too much for'} {have / 1e9:.0f} GB"
