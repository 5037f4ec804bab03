"""Every error that toolgym raises on purpose, as one tree.

Each class is also a builtin, so that ``except LookupError`` works for someone who does not know the
library. A message is one line: what is wrong, the value, near names, the next step.

Who catches what:

| raised | caught by | what the caller sees |
|---|---|---|
| `ToolError` in a tool | the toolset | a tool result with ``error``; the policy reads the message |
| `NothingFoundError` in a tool | the toolset | a tool result that is marked as empty; no error |
| any other exception in a tool | the toolset | the same, recorded as a bug of the tool |
| anything wrong with a reply | the format | a typed problem in the step; never an exception |
| `PolicyError`, `EndpointError` | the rollout | a row of ``failures.jsonl``, tried again |
| any other exception in a policy | the rollout | the same; its class is the ``kind`` |
| `ToolgymError` | the command line | one line, and ``exit_code`` (table in docs/command-line.md) |
| anything else | nobody | a traceback: it is a bug of toolgym or of a plug-in |

In Python nothing but the rows above is caught: a broken file, an unknown name or a wrong argument
raises where it was given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

__all__ = [
    "BadInputError",
    "CheckError",
    "EndpointError",
    "EpisodeEndedError",
    "MissingExtraError",
    "MissingFileError",
    "NothingFoundError",
    "PolicyError",
    "ReplayMissError",
    "RunMismatchError",
    "TemplateError",
    "ToolError",
    "ToolTimeoutError",
    "ToolgymError",
    "UnknownNameError",
    "did_you_mean",
    "explain",
    "in_words",
]


class ToolgymError(Exception):
    """The root of the tree: catch this to catch everything that toolgym raises on purpose."""

    exit_code = 1


class UnknownNameError(ToolgymError, LookupError):
    """A name (environment, tool, format, reward, ...) that no registry holds."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}"
        )
        self.kind, self.name, self.known = kind, name, names

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str]]]:
        """Rebuild from the three parts: errors cross process borders in vector environments."""
        return type(self), (self.kind, self.name, self.known)


class BadInputError(ToolgymError, ValueError):
    """Data or an argument that cannot be used: a broken line, a wrong value, an empty set."""

    exit_code = 3


class CheckError(ToolgymError, AssertionError):
    """A tool, reward, format or environment that breaks its contract; the message says how."""

    exit_code = 3


class MissingFileError(ToolgymError, FileNotFoundError):
    """A file or folder that is not there."""

    exit_code = 3


class RunMismatchError(ToolgymError, ValueError):
    """A run folder that was begun with other settings than those it is to be resumed with."""

    exit_code = 3


class ReplayMissError(ToolgymError, LookupError):
    """A tool call to which a cassette holds no answer; never told to the policy."""

    exit_code = 3


class MissingExtraError(ToolgymError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""

    exit_code = 4


class EpisodeEndedError(ToolgymError, RuntimeError):
    """``step`` was called before ``reset`` or after the end of the episode."""


class PolicyError(ToolgymError, RuntimeError):
    """A policy that raised or returned something that is not a reply. Never scored as 0."""

    exit_code = 5


class EndpointError(PolicyError):
    """A failure of a model server, typed by ``kind``.

    Args:
        kind: one of ``connection``, ``timeout``, ``rate_limit``, ``server``, ``refused`` (the
            server answered that the request is wrong: no retry helps), ``bad_reply``, or ``ended``
            (the server that a run starts is not there, and will not be: the run ends).
        message: what happened and what to do next.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[EndpointError], tuple[str, str]]:
        """Rebuild from both parts."""
        return type(self), (self.kind, str(self))


class TemplateError(ToolgymError, ValueError):
    """A chat template that cannot be trained on, since it rewrites what was said before."""

    exit_code = 3


class ToolError(ToolgymError):
    """A failure that a tool wants the model to read. Any other exception in a tool is a bug."""


class ToolTimeoutError(ToolError, TimeoutError):
    """A tool call that was ended at its deadline."""


class NothingFoundError(ToolgymError, LookupError):
    """What a tool raises, or gives, when it has no result: an answer to the model, not a failure.

    The paper's pass rate (arXiv 2502.05867) counts calls whose result is "not an error or empty".
    """


def in_words(error: BaseException) -> str:
    """What an exception says, at most 2 000 characters; also one whose own text fails."""
    try:
        return str(error)[:2000]
    except Exception:
        return f"{type(error).__name__} without a readable text"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.55) -> str:
    """Near names as the tail of a message: `` (did you mean 'a' or 'b'?)``, or nothing.

    Args:
        name: what was asked for.
        known: what exists.
        cutoff: how near, from 0.0 to 1.0 (difflib's ratio).
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = difflib.get_close_matches(str(name).casefold(), by_folded, n=3, cutoff=cutoff)
    if not folded:
        return ""
    return f" (did you mean {' or '.join(repr(by_folded[match]) for match in folded)}?)"


_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_BOUNDS = {"greater_than": "above", "greater_than_equal": "at least", "less_than_equal": "at most"}


def explain(error: ValidationError, root: type[BaseModel], what: str = "key") -> str:
    """The first thing that does not fit, in one line: where, what is right, what was given.

    Args:
        error: what pydantic says.
        root: the model that was asked.
        what: a field is called to the reader.
    """
    problems = error.errors()
    path, owner = _place(root, problems[0]["loc"])
    # Of the kinds that a field may have, pydantic says each one that did not fit.
    same = [each for each in problems if _place(root, each["loc"])[0] == path]
    problem = next((each for each in same if each["type"] not in _KINDS), same[0])
    place, given = ".".join(path), problem["input"]
    if problem["type"] == "extra_forbidden":
        known = list(owner.model_fields)
        return f"unknown {what} {place!r}{did_you_mean(path[-1], known)}; known: {', '.join(known)}"
    context, hint = problem.get("ctx", {}), ""
    kinds = " or ".join(dict.fromkeys(_KINDS[p["type"]] for p in same if p["type"] in _KINDS))
    if problem["type"] in _KINDS:
        text = f"must be {kinds}"
        if isinstance(given, bool) and kinds == "a string":
            hint = " (YAML reads on, off, yes and no so, unless they stand in quotes)"
    elif problem["type"] in _BOUNDS:
        text = f"must be {_BOUNDS[problem['type']]} {next(iter(context.values())):g}"
    elif problem["type"] == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        text = f"must be {kinds + ', or ' if kinds else ''}one of {', '.join(choices)}"
        hint = did_you_mean(str(given), choices)
    elif problem["type"] == "too_short":
        text = f"must hold at least {context['min_length']}"
    elif problem["type"] == "value_error":  # a sentence of our own
        text = problem["msg"].removeprefix("Value error, ")
        return f"{place}: {text}" if place else text
    else:
        return f"{place}: {problem['msg']}, not {given!r:.60}"
    return f"{place} {text}, not {given!r:.60}{hint}"


def _place(root: Any, loc: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """A path without pydantic's names for the kinds of a field, and the model that ends it."""
    path: list[str] = []
    kind, owner = root, root
    for part in loc:
        if type(None) in get_args(kind):  # what may be left out
            kind = get_args(kind)[0]
        if hasattr(kind, "model_fields"):
            owner = kind
            field = kind.model_fields.get(str(part))
            kind = None if field is None else field.annotation
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:  # of several kinds it says the tag of the one that was tried
            tagged = (get_args(each) for each in get_args(kind) if get_origin(each) is Annotated)
            kind = next((a for a, *tags in tagged if getattr(tags[0], "tag", "") == part), kind)
            continue
        path.append(str(part))
    return path, owner
