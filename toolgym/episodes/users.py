"""Who speaks to the policy in an episode of several user turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolgym._util.kinds import require_each
from toolgym.errors import BadInputError
from toolgym.messages import ToolCall
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = ["ScriptedUser", "User", "UserMaker", "UserTurn"]


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What a user says, and what he does besides.

    Args:
        text: that the policy reads.
        tools: names of tools that the policy may call from now on; their documents are shown to it
            below the text. Until then they are hidden (`toolgym.env.ToolEnv.hidden_for`).
        calls: of tools that the user has in his own hands, made in the sessions of the episode.

    Raises:
        BadInputError: the text is not a string.
    """

    text: str
    tools: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be said."""
        if not isinstance(self.text, str):
            raise BadInputError(f"a user says a string, not {self.text!r:.80}")


class User(Protocol):
    """Who speaks again after the policy's turn; one a fresh episode."""

    def reply(self, trajectory: Trajectory) -> str | UserTurn | None:
        """What he says to a turn of the policy that gives an answer.

        Args:
            trajectory: the episode up to and with that turn; not to be changed.

        Returns:
            None: he has no more to say, and the episode ends.
        """
        ...


UserMaker = Callable[[Task], User | None]
"""Makes the user of an episode; None: nobody speaks after the question."""


class ScriptedUser:
    """A user who says fixed turns, one after each answer, whatever it is.

    Args:
        turns: after the question.

    Raises:
        BadInputError: they are something else than strings and turns in a list.
    """

    def __init__(self, turns: Sequence[str | UserTurn]) -> None:
        meant = "turns of a user are a list of strings or UserTurn objects, such as ['And then?']"
        self._turns = require_each(turns, (str, UserTurn), meant)
        self._said = 0

    def reply(self, trajectory: Trajectory) -> str | UserTurn | None:
        """The next turn.

        Args:
            trajectory: not looked at.
        """
        self._said += 1
        return self._turns[self._said - 1] if self._said <= len(self._turns) else None
