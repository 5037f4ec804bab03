"""Environments for programs that play them from outside: ``toolgym serve``."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.episodes import environment_arguments, what_is_kept
from toolgym.cli.shell import InterruptedRunError

__all__ = ["serve_app"]

serve_app = typer.Typer(help="An environment as a server that programs play (extra: mcp).")


@serve_app.callback()
def _serve() -> None:
    """An environment as a server that programs play, one episode a client."""


@serve_app.command("mcp")
def serve_mcp(
    env: options.EnvId,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; resumed if it exists.")],
    task: Annotated[
        str | None, typer.Option("--task", help="Only this task, by its id; default: all.")
    ] = None,
    http: Annotated[
        int | None,
        typer.Option(
            "--http", metavar="PORT", help="Over HTTP at this port (0: a free one), many clients."
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    idle: Annotated[
        float, typer.Option("--idle", help="Seconds until a silent client has left, over HTTP.")
    ] = 600.0,
    tell_reward: Annotated[
        bool, typer.Option("--tell-reward", help="Tell the reward at the end of an episode.")
    ] = False,
    keep_left: Annotated[
        bool,
        typer.Option(
            "--keep-left", help="Record an episode whose client leaves as truncated, not failed."
        ),
    ] = False,
    tasks: options.TasksOption = None,
    corpus: options.CorpusOption = None,
    split: options.SplitOption = None,
    tool: options.ToolOption = None,
    prompt: options.PromptOption = None,
    format: options.FormatOption = None,
    reward: options.RewardOption = None,
    max_steps: options.MaxStepsOption = None,
    env_arg: options.EnvArgOption = None,
    episodes: options.EpisodesOption = None,
    samples_per_task: options.SamplesOption = 1,
    seed: options.SeedOption = 0,
) -> None:
    """Offer an environment's tools to any MCP client, and record and score what it plays.

    Without --http one client is served over standard input and output. Each session plays one
    episode of the plan; the tool `answer` ends it.
    """
    from toolgym._util.optional import require_extra
    from toolgym.rollouts.playing import open_env
    from toolgym.serving.desk import Desk, plan_for_clients

    require_extra("mcp", "mcp")
    if not 0 < idle < 1e9:
        raise typer.BadParameter(f"--idle is a number of seconds above 0, not {idle:g}")
    # The question alone: a client is told its tools by the protocol, and never reads a format.
    named: dict[str, Any] = {"tasks": tasks, "corpus": corpus, "split": split}
    named |= {"prompt": prompt or "bare", "format": format, "max_steps": max_steps}
    given = environment_arguments(named, tool=tool, reward=reward, env_arg=env_arg)
    options.import_from_here()
    opened = open_env(env, given)
    planned = plan_for_clients(opened, "mcp", episodes, samples_per_task, seed, task)
    door = _door(host, http)
    made = Desk(opened, planned, out, tell_reward=tell_reward, keep_left=keep_left, progress=_tell)
    with closing(made) as desk:
        try:
            _serve_clients(desk, env, door, idle)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(what_is_kept(out)) from error


def _door(host: str, port: int | None) -> Any:
    """The socket of ``--http``, or None."""
    from toolgym.serving.mcp import listening

    if port is None:
        return None
    if not 0 <= port < 1 << 16:
        raise typer.BadParameter(f"--http is a port from 0 to 65535, not {port}")
    return listening(host, port)


def _serve_clients(desk: Any, env: str, door: Any, idle: float) -> None:
    import anyio

    from toolgym.serving import mcp

    finished, planned = desk.counts
    if desk.complete:
        _say(f"all {planned} episodes are recorded already")
    if door is None:
        anyio.run(mcp.serve_stdio, desk, env)
        return
    address, port = door.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    _say(f"http://{shown}:{port}/mcp serves {env}: {finished} of {planned} episodes are recorded")
    if not desk.complete:
        anyio.run(mcp.serve_http, desk, env, door, idle)


def _tell(finished: int, planned: int) -> None:
    _say(f"{finished} of {planned} episodes are recorded")


def _say(text: str) -> None:
    """A line on standard error: standard output belongs to the protocol."""
    print(text, file=sys.stderr, flush=True)
