"""Every error that toolgym raises on purpose, as one tree.

Each class is also a builtin, so that ``except LookupError`` works for someone who does not know the
library. A message says what is wrong, shows the value, names what is near and ends with the next
step. ``exit_code`` is what the command line returns for it (table in docs/command-line.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadInputError",
    "CheckError",
    "EndpointError",
    "EpisodeEndedError",
    "MissingExtraError",
    "MissingFileError",
    "PolicyError",
    "ReplayMissError",
    "RunMismatchError",
    "TemplateError",
    "ToolError",
    "ToolTimeoutError",
    "ToolgymError",
    "UnknownNameError",
    "did_you_mean",
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
    """A policy that raised or returned something that is no reply. Never scored as 0."""

    exit_code = 5


class EndpointError(PolicyError):
    """A failure of a model server, typed by ``kind``.

    Args:
        kind: one of ``connection``, ``timeout``, ``rate_limit``, ``server``, ``refused`` (the
            server answered that the request is wrong: no retry helps) or ``bad_reply``.
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
