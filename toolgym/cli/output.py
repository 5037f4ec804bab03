"""What commands print: JSON for machines, tables and progress bars for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["print_json", "progress_bar", "stage_bars", "table"]

Advance = Callable[[int, int], None]
"""Called with what is finished and what is planned."""


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Rows as aligned text columns.

    Args:
        rows: [rows][columns]; numbers are aligned to the right.
        header: column names; empty for none.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    lines = [list(header), *cells] if header else cells
    if not lines:
        return ""
    count = len(lines[0])
    widths = [max(len(line[column]) for line in lines) for column in range(count)]
    right = [bool(rows) and all(isinstance(r[c], int | float) for r in rows) for c in range(count)]

    def join(line: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join(join(line) for line in lines)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@contextmanager
def progress_bar(label: str, unit: str = "episodes") -> Iterator[Advance]:
    """A progress bar on stderr; nothing at all when stderr is no terminal.

    Args:
        label: what is going on.
        unit: what is counted.

    Yields:
        A function of finished and planned counts.
    """
    if not sys.stderr.isatty():
        yield lambda finished, planned: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *((DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda finished, planned: bar.update(task, completed=finished, total=planned)


@contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int, str], None]]:
    """One progress bar a stage on stderr; a line a finished stage when stderr is no terminal.

    Yields:
        A function of stage, finished and planned counts, and a note.
    """
    if not sys.stderr.isatty():
        yield _finished_stage
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, finished: int, planned: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=planned, note=note)
            bars.update(tasks[stage], completed=finished, total=planned, note=note)

        yield advance


def _finished_stage(stage: str, finished: int, planned: int, note: str) -> None:
    """Stages count to 1 when they are done as a whole."""
    if finished == planned == 1 and note:
        print(f"{stage}: {note}", file=sys.stderr, flush=True)
