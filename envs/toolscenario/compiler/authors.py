"""Making authors from plain data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolgym.envs.toolscenario.compiler.pipeline import build_folder
from toolgym.envs.toolscenario.compiler.stages import Author
from toolgym.errors import BadInputError, did_you_mean
from toolgym.registry import AUTHORS

__all__ = ["make_author"]


def make_author(
    name: str, options: Mapping[str, Any], out: str | Path | None = None, seed: int = 0
) -> Author:
    """A registered author.

    Args:
        name: such as ``offline`` or ``endpoint``.
        options: of its constructor, plain data.
        out: the file that will be built; an author with a parameter ``folder`` may keep what it
            has to keep in the build's folder.
        seed: of the build, for an author with such a parameter.

    Raises:
        UnknownNameError: no author has that name.
        BadInputError: an option that it does not have, or one that is missing.
    """
    factory = AUTHORS.get(name)
    accepted = inspect.signature(factory).parameters
    for option in options:
        if option not in accepted:
            raise BadInputError(
                f"author {name!r} has no option {option!r}"
                f"{did_you_mean(option, accepted)}; options: "
                f"{', '.join(accepted) or 'none'}"
            )
    offered: dict[str, Any] = {"seed": seed}
    if out is not None:
        offered["folder"] = str(build_folder(out))
    given = {key: value for key, value in offered.items() if key in accepted} | dict(options)
    needed = [
        key
        for key, parameter in accepted.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [key for key in needed if key not in given]
    if missing:
        raise BadInputError(
            f"author {name!r} needs the option {missing[0]!r} "
            f"(--{missing[0].replace('_', '-')} on the command line)"
        )
    made = factory(**given)
    if not isinstance(made, Author):
        raise BadInputError(f"author {name!r} is registered but makes no Author: {made!r:.80}")
    return made
