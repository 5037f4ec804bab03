"""How commands fail: every error is one line on stderr and a documented exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from toolgym.errors import ToolgymError

__all__ = ["TRACEBACK", "Commands", "InterruptedRunError", "UsageProblem", "warn"]

TRACEBACK = "TOOLGYM_TRACEBACK"
"""Environment variable that, when set to 1, shows the traceback of an error as well."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
"""What is wrong with a disk or its permissions, not with the program."""

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
            _fail(str(error), error.exit_code)
        except UsageProblem as error:
            _fail(_usage(error), 2)
        except _ShellError as error:
            _fail(str(error), 1)
        except OSError as error:
            if error.errno not in _DISK:
                _fail(_bug(error), 1)
            place = f" {str(error.filename)!r}" if error.filename is not None else ""
            _fail(
                f"cannot write or read{place}: {error.strerror}; make room, mend the permissions, "
                "or name another folder, and run the same command again",
                3,
            )
        except Exception as error:  # a bug: one line too, and the way to its traceback
            _fail(_bug(error), 1)
        sys.exit(code if isinstance(code, int) else 0)


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    print(f"warning: {_one_line(message)}", file=sys.stderr)


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exc()
    print(f"error: {_one_line(message)}", file=sys.stderr)
    sys.exit(code)


def _bug(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error} (this is a bug in toolgym or in a plug-in; "
        f"{TRACEBACK}=1 shows the traceback)"
    )


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
