"""How far something is: a bar in a terminal or a notebook, and nothing in a log."""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["shown"]

_PATIENCE = 1.0  # seconds: what is done by then shows no bar
_BETWEEN = 0.2  # seconds between two drawings
_QUIET = 30.0  # seconds between two lines where a bar cannot be drawn
_WIDTH = 24  # signs of a bar

Draw = Callable[[str, int, int, str, bool], None]
"""Draws a stage: its name, done, planned (0: not known), a note, and whether it has ended."""


def shown(progress: Callable[..., None] | bool | None, label: str) -> Callable[..., None] | None:
    """What is told of progress.

    Args:
        progress: a function, which is left as it is; False: nobody is told; None: a bar, where
            stderr is a terminal or the program a notebook; True: there also a line every 30
            seconds elsewhere.
        label: of the bar, where it is not told a stage.

    Returns:
        A function of what is done and planned, with the stage before them and a note behind them
        where there are any; None where nobody is told.
    """
    if progress is False:
        return None
    if callable(progress):
        return progress
    if _notebook():
        return _Bars(label, _Notebook(), _BETWEEN)
    if sys.stderr is not None and sys.stderr.isatty():
        return _Bars(label, _Terminal(), _BETWEEN)
    return _Bars(label, _line, _QUIET) if progress else None


def _notebook() -> bool:
    """Whether this is a kernel of Jupyter; nothing is imported to find out."""
    found = sys.modules.get("IPython")
    shell = found.get_ipython() if found is not None and hasattr(found, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


class _Bars:
    """Draws what it is told, not too often; what is done at once is not drawn at all."""

    def __init__(self, label: str, draw: Draw, between: float) -> None:
        self._label, self._draw, self._between = label, draw, between
        self._stage, self._begun, self._drawn = "", 0.0, 0.0

    def __call__(self, *told: Any) -> None:
        stage = told[0] if isinstance(told[0], str) else self._label
        finished, planned, *notes = told[isinstance(told[0], str) :]
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._drawn = stage, now, 0.0
        ended = 0 < planned <= finished
        since = now - (self._drawn or self._begun)
        if since < (self._between if self._drawn else _PATIENCE) and not (ended and self._drawn):
            return
        self._drawn = now
        note = " ".join([f"{now - self._begun:.0f} s", *filter(None, notes)])
        self._draw(stage, finished, planned, note, ended)


class _Terminal:
    """One line of stderr, drawn over and over."""

    def __init__(self) -> None:
        self._open = ""

    def __call__(self, stage: str, finished: int, planned: int, note: str, ended: bool) -> None:
        before = "\n" if self._open not in ("", stage) else "\r\x1b[2K"
        filled = round(_WIDTH * min(1.0, finished / planned)) if planned else 0
        bar = f" [{'#' * filled}{'.' * (_WIDTH - filled)}]" if planned else ""
        sys.stderr.write(f"{before}{stage}{bar} {_counted(finished, planned)} {note}"[:200])
        sys.stderr.write("\n" * ended)
        sys.stderr.flush()
        self._open = "" if ended else stage


class _Notebook:
    """A bar in the output of the cell, of the stage that goes on."""

    def __init__(self) -> None:
        self._display: Any = importlib.import_module("IPython.display")
        self._bar: Any = None

    def __call__(self, stage: str, finished: int, planned: int, note: str, ended: bool) -> None:
        bar = f'<progress value="{finished}" max="{planned}"></progress> ' if planned else ""
        said = html.escape(f"{stage} {_counted(finished, planned)} {note}")
        text = self._display.HTML(f"<div>{bar}{said}</div>")
        if self._bar is None:
            self._bar = self._display.display(text, display_id=True)
        else:
            self._bar.update(text)


def _line(stage: str, finished: int, planned: int, note: str, ended: bool) -> None:
    print(f"{stage}: {_counted(finished, planned)} {note}", file=sys.stderr, flush=True)


def _counted(finished: int, planned: int) -> str:
    return f"{finished}/{planned}" if planned else str(finished)
