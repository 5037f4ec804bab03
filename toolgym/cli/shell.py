"""What commands print, and how they fail: one line on stderr and a documented exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from toolgym import __version__
from toolgym._util.text import written
from toolgym.cli import TerminatedError
from toolgym.errors import ToolgymError

__all__ = [
    "TRACEBACK",
    "Commands",
    "InterruptedRunError",
    "UsageProblem",
    "new_app",
    "playing_bar",
    "print_json",
    "progress_bar",
    "stage_bars",
    "table",
    "warn",
]

if TYPE_CHECKING:
    from rich.progress import TaskID


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
    """A progress bar on stderr; nothing at all when stderr is not a terminal.

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


QUIET = 30.0  # seconds between two lines of progress where stderr is not a terminal
Told = Callable[[str, int, int, str], None]
"""Called with what is done, finished and planned counts (0: not known yet), and a note."""


@contextmanager
def stage_bars() -> Iterator[Told]:
    """One progress bar a stage on stderr; without a terminal a line a finished stage, and others.

    Yields:
        A function that is told how far a stage is; as a whole it counts to 1.
    """
    with _bars() as advance:

        def tell(stage: str, finished: int, planned: int, note: str) -> None:
            if finished == planned == 1 and note and not sys.stderr.isatty():
                print(f"{stage}: {note}", file=sys.stderr, flush=True)
            else:
                advance(stage, finished, planned, note)

        yield tell


@contextmanager
def playing_bar(label: str, notice: Callable[[], str] = str) -> Iterator[tuple[Advance, Advance]]:
    """Progress of a rollout on stderr, which moves within a turn.

    Args:
        label: what is going on.
        notice: what the policy waits for, or nothing; asked every second.

    Yields:
        A function of finished and planned episodes, and one of turns and tokens so far.
    """
    done, sampled, begun = (0, 0), (0, 0), time.monotonic()
    with _bars() as advance:

        def tell() -> None:
            note = written(*sampled, time.monotonic() - begun) if sampled[0] else ""
            advance(label, *done, notice() or note)

        def episodes(finished: int, planned: int) -> None:
            nonlocal done
            done = finished, planned
            tell()

        def pulse(turns: int, tokens: int) -> None:
            nonlocal sampled
            sampled = turns, tokens
            tell()

        def watch() -> None:
            shown = ""
            while not ended.wait(1.0):
                now = notice()
                if now or shown:  # no reply comes during an outage, and nothing else tells of it
                    tell()
                shown = now

        tell()
        ended = threading.Event()
        watcher = threading.Thread(target=watch, name="toolgym-progress", daemon=True)
        watcher.start()
        try:
            yield episodes, pulse
        finally:
            ended.set()
            watcher.join()


@contextmanager
def _bars() -> Iterator[Told]:
    """A bar for each label, with its time; where stderr is no terminal a line now and then."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(label: str, finished: int, planned: int, note: str) -> None:
            total = planned or None
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total, note=note)
            bars.update(tasks[label], completed=finished, total=total, note=note)

        yield advance


def _lines() -> Told:
    said = time.monotonic()

    def advance(label: str, finished: int, planned: int, note: str) -> None:
        nonlocal said
        if time.monotonic() - said < QUIET:
            return
        said = time.monotonic()
        counted = f"{finished}/{planned}" if planned else f"{finished}"
        print(f"{label}: {counted}{', ' if note else ''}{note}", file=sys.stderr, flush=True)

    return advance


TRACEBACK = "TOOLGYM_TRACEBACK"
"""Environment variable that, when set to 1, shows the traceback of an error as well."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_DISK |= {errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""What is wrong with a disk, its permissions or a path, not with the program."""

_SCARCE = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""What the system does not give any more: processes, memory, open files."""

# typer has its own copy of click in some versions and imports click in others; its public
# BadParameter leads to the right classes in both.
UsageProblem: Any = typer.BadParameter.__mro__[1]
_ShellError: Any = typer.BadParameter.__mro__[2]


class InterruptedRunError(ToolgymError):
    """Ctrl-C; the message says what is kept and how to go on."""

    exit_code = 130


class Commands(TyperGroup):
    """The group of all commands: turns whatever happens inside one into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                "stopped; nothing was half written, run the same command again"
            ) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the command line, run, and exit.

        Raises:
            SystemExit: always, with the exit code of docs/command-line.md.
        """
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_stdout()
            code = 0
        except ToolgymError as error:
            cause = error.__cause__
            _fail(str(error), (cause if isinstance(cause, TerminatedError) else error).exit_code)
        except UsageProblem as error:
            _fail(_usage(error), 2)
        except _ShellError as error:
            _fail(str(error), 1)
        except OSError as error:
            if error.errno in _SCARCE:
                _fail(_scarce(error), 1)
            if error.errno not in _DISK:
                _fail(_bug(error), 1)
            place = f" {str(error.filename)!r}" if error.filename is not None else ""
            _fail(
                f"cannot write or read{place}: {error.strerror}; make room, mend the permissions, "
                "or name another folder, and run the same command again",
                3,
            )
        except MemoryError as error:
            _fail(_scarce(error), 1)
        except Exception as error:  # a bug: one line too, and the way to its traceback
            if isinstance(error.__cause__, KeyboardInterrupt):  # between two commands: click's own
                raise error.__cause__ from None
            if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
                _fail(_scarce(error), 1)
            _fail(_bug(error), 1)
        sys.exit(code if isinstance(code, int) else 0)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"toolgym {__version__}")
        raise typer.Exit


def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Version.")
    ] = False,
) -> None:
    """Gymnasium environments for language models that use tools.

    Errors are one line. Exit codes: 0 fine, 1 other error, 2 usage or unknown name, 3 data or
    files, 4 missing extra, 5 policy or endpoint failures, 130 Ctrl-C, 143 SIGTERM.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def new_app() -> typer.Typer:
    """The command line without its commands."""
    made = typer.Typer(
        name="toolgym",
        cls=Commands,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback(invoke_without_command=True)(_start)
    return made


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    print(f"warning: {_one_line(message)}", file=sys.stderr)


_HEARD = 30.0  # seconds until a process says that it alone of several has failed


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1":
        try:  # processes that train together mostly fail alike: the first one speaks
            time.sleep(_HEARD)
        except KeyboardInterrupt:  # the SIGTERM of their launcher
            sys.exit(code)
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exc()
    print(f"error: {_one_line(message)}", file=sys.stderr)
    if code == InterruptedRunError.exit_code:
        # Ctrl-C inside of a source text that Python executes, as in a dataclass that is being
        # imported, is remembered also when it was caught, and the process would die of the signal
        # at its end: the next source text clears that.
        exec("")  # noqa: S102 - a constant
    sys.exit(code)


def _bug(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error} (this is a bug in toolgym or in a plug-in; "
        f"{TRACEBACK}=1 shows the traceback)"
    )


def _scarce(error: BaseException) -> str:
    return (
        f"the system gives no more threads, processes, files or memory ({_said(error)}); do less "
        "at once (--concurrency, --workers, --processes, --batch-size) or raise the limit (ulimit "
        "-a shows them), and run the same command again"
    )


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _one_line(message: str) -> str:
    """A message without line breaks or control characters, which would break terminals and logs."""
    flat = " ".join(message.split())
    return "".join(character if character.isprintable() else "?" for character in flat)


def _usage(error: Any) -> str:
    context = error.ctx
    where = context.command_path if context is not None else "toolgym"
    return f"{error.format_message().rstrip('.')}; see: {where} --help"


def _drop_stdout() -> None:
    """The reader has gone (``| head``): send the rest, and the last flush, to nothing."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file, as under a test runner
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
