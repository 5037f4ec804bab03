"""``toolgym eval``, ``score`` and ``filter``: what recorded episodes are worth."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.output import print_json, table
from toolgym.errors import BadInputError, UnknownNameError

__all__ = ["keep", "measure", "rescore"]


class Normalisation(StrEnum):
    """How texts are compared."""

    PAPER = "paper"
    SQUAD = "squad"


class Tools(StrEnum):
    """Which episodes by their use of tools."""

    ANY = "any"
    ONLY = "only"


class Dedupe(StrEnum):
    """What makes two episodes of a task the same."""

    TEXT = "text"
    TOKENS = "tokens"
    NONE = "none"


def measure(
    run: options.RunFolder,
    against: Annotated[
        Path | None, typer.Option("--against", help="An earlier run, compared task by task.")
    ] = None,
    normalisation: Annotated[
        Normalisation, typer.Option("--normalisation", help="How texts are compared.")
    ] = Normalisation.PAPER,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Figures by a column of the tasks (repeat), such as shape, complexity or s_pop. "
            "[default: shape and complexity, for scenarios]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the bootstrap.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Print a run's figures with 95 % intervals."""
    from toolgym.evaluation import compare, evaluate

    report = evaluate(run, normalisation=normalisation.value, seed=seed, by=by or None)
    change = None
    if against is not None:
        change = compare(against, run, normalisation=normalisation.value, seed=seed)
    if as_json:
        print_json(report.to_dict() | ({"change": change.to_dict()} if change else {}))
        return
    print(report)
    if change is not None:
        print(f"\nAgainst {against}\n{change}")


def rescore(
    run: options.RunFolder,
    reward: Annotated[
        list[str] | None,
        typer.Option("--reward", help="A reward's name or module:function (repeat); a row each."),
    ] = None,
    rubric: Annotated[
        list[str] | None,
        typer.Option("--rubric", help="NAME:reward=weight,reward=weight (repeat); a row each."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the bootstrap.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Try rewards on recorded episodes; nothing is played again."""
    from toolgym.evaluation.score import score

    rewards: dict[str, Any] = {name: _reward(name) for name in reward or ()}
    for text in rubric or ():
        name, found, spec = text.partition(":")
        if not found or not name.strip():
            raise typer.BadParameter(f"--rubric needs NAME:reward=weight,..., not {text!r}")
        rewards[name.strip()] = options.named_weights(spec.split(","))
    if not rewards:
        raise typer.BadParameter("name at least one --reward or --rubric")
    scored = score(run, rewards, seed=seed)
    if as_json:
        print_json(scored.to_dict())
    else:
        print(scored)


def _reward(name: str) -> Any:
    """A reward's name as it is, ``module:function`` as the function."""
    module, found, attribute = name.partition(":")
    if not found:
        return name
    from toolgym.registry import REWARDS, load

    options.import_from_here()
    try:
        function = load(name)
    except (ImportError, AttributeError) as error:
        raise BadInputError(f"reward {name!r} cannot be loaded: {error}") from error
    if not callable(function):
        raise UnknownNameError("reward", f"{module}:{attribute}", REWARDS)
    return function


def keep(
    run: options.RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder, or a .jsonl file.")],
    where: Annotated[
        str, typer.Option("--where", help="Conditions such as 'accuracy>=1 and calls<=2'.")
    ] = "accuracy>=1",
    tools: Annotated[
        Tools, typer.Option("--tools", help="only: at least one tool call.")
    ] = Tools.ANY,
    best_of: Annotated[
        int | None, typer.Option("--best-of", help="Keep the best n of each task.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="What --best-of ranks by; default: first in --where.")
    ] = None,
    per_task: Annotated[
        int | None, typer.Option("--per-task", help="Most episodes of one task.")
    ] = None,
    dedupe: Annotated[
        Dedupe, typer.Option("--dedupe", help="Drop episodes of a task that are the same.")
    ] = Dedupe.TEXT,
    seed: Annotated[int, typer.Option("--seed", help="For --per-task.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Keep the episodes that are worth training on, and say why the others went."""
    from toolgym.data.filter import select

    chosen = select(
        run,
        where=where or None,
        tools=tools.value,
        best_of=best_of,
        by=by,
        per_task=per_task,
        dedupe=None if dedupe is Dedupe.NONE else dedupe.value,
        seed=seed,
    )
    written = chosen.write(out)
    if as_json:
        print_json(chosen.summary() | {"file": str(written)})
        return
    rows = [("kept", f"{len(chosen)} of {chosen.total} episodes")]
    rows += [("dropped", f"{count}: {reason}") for reason, count in chosen.dropped.items()]
    print(table([*rows, ("file", str(written)), ("next", f"toolgym export sft {out}")]))
