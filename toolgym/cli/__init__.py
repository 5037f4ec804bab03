"""The command line: ``toolgym COMMAND``. Each command imports its work when it runs."""

from __future__ import annotations

import functools
import os
import signal
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    app: typer.Typer

__all__ = ["TerminatedError", "answer_signals", "app", "main"]


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, with another exit code."""

    exit_code = 128 + signal.SIGTERM


@functools.cache
def _app() -> typer.Typer:
    """All commands; built on first use, so that Ctrl-C is answered while they are imported."""
    from toolgym.cli import (
        audit,
        data,
        decisions,
        episodes,
        evaluation,
        new,
        resources,
        rewards,
        serving,
        training,
        viewing,
    )
    from toolgym.cli.shell import new_app, warn
    from toolgym.errors import in_words
    from toolgym.registry import COMMANDS

    made = new_app()
    made.command("envs")(resources.list_names)
    made.add_typer(new.new_app, name="new")
    made.command("tool")(resources.call)
    made.add_typer(resources.index_app, name="index")
    made.add_typer(resources.model_app, name="model")
    made.command("rollout")(episodes.play)
    made.command("merge")(episodes.join)
    made.add_typer(serving.serve_app, name="serve")
    made.command("view")(viewing.view)
    made.command("eval")(evaluation.evaluate_run)
    made.command("plan-eval")(decisions.plan_eval)
    made.command("score")(rewards.score_run)
    made.command("ablate")(rewards.ablate_rewards)
    made.command("filter")(data.keep)
    made.add_typer(data.export_app, name="export")
    made.add_typer(training.train_app, name="train")
    made.command("selftrain")(training.practise)
    made.command("compare")(evaluation.compare_tuned)
    made.command("report")(evaluation.report_run)
    made.command("lineage")(data.lineage)
    made.command("audit")(audit.audit_env)
    for name in COMMANDS:
        try:
            made.add_typer(COMMANDS.get(name), name=name)
        except Exception as error:  # a plug-in's own: the other commands must stay
            warn(f"the commands {name!r} of a plug-in cannot be loaded: {in_words(error)}")
    return made


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'toolgym.cli' has no attribute {name!r}")
    return _app()


def answer_signals() -> None:
    """Let Ctrl-C and SIGTERM end this process with one line and their exit codes.

    The face calls this first of all where a command is run, so that neither shows a traceback
    while the rest is imported.
    """
    owner = os.getpid()

    def terminate(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        if os.getpid() != owner:  # a fork has no command to end
            os.kill(os.getpid(), signal.SIGTERM)
        raise TerminatedError

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        print("error: stopped; run the same command again", file=sys.stderr, flush=True)
        os._exit(getattr(error, "exit_code", 130))

    sys.excepthook = hook
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)


def main() -> None:
    """The console script ``toolgym``."""
    answer_signals()
    from toolgym._util.threads import wait_briefly

    wait_briefly()
    _app()()
