"""``toolgym score``: rewards tried on recorded episodes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from toolgym.cli import options
from toolgym.cli.shell import print_json
from toolgym.errors import BadInputError, UnknownNameError

__all__ = ["rescore"]


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
