"""What an episode may use up, and what its user puts before the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolgym._util.kinds import require
from toolgym.errors import BadInputError
from toolgym.formats import Format
from toolgym.formats.turn import Begun
from toolgym.grading.rubric import Rubric
from toolgym.messages import Message, ToolResult
from toolgym.task import TaskSet, whole_number
from toolgym.tools.toolset import Toolset
from toolgym.trajectory import Problem

__all__ = ["Limits", "check_parts", "check_system", "estimated_tokens", "refusals", "with_system"]

_PLACE = "{instructions}"
_BYTES_PER_TOKEN = 4


def estimated_tokens(text: str) -> int:
    """Tokens of a text whose writer does not say how many they are: a token for 4 bytes of UTF-8.

    Args:
        text: of a reply.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of an episode; None: there is none.

    Args:
        max_calls: tool calls that are made; those beyond are answered with an error.
        max_tokens: tokens that the policy writes; the episode ends with the reply that uses them
            up, and neither answer nor calls of a reply that goes beyond them count.

    Raises:
        BadInputError: a budget that is not a whole number of at least 1.
    """

    max_calls: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        for name in ("max_calls", "max_tokens"):
            value = getattr(self, name)
            if value is not None:
                whole_number(name, value, least=1)

    def __bool__(self) -> bool:
        """Whether there is any: every step asks, and most environments have none."""
        return self.max_calls is not None or self.max_tokens is not None

    def describe(self) -> dict[str, int]:
        """Those that there are, for ``run.json``."""
        both = {"max_calls": self.max_calls, "max_tokens": self.max_tokens}
        return {name: int(value) for name, value in both.items() if value is not None}

    def told(self, tools: bool) -> str:
        """What instructions say of them.

        Args:
            tools: whether any are offered.
        """
        calls = f"At most {self.max_calls} tool calls can be made in all."
        tokens = f"At most {self.max_tokens} tokens can be written in all replies together."
        said = [calls] if tools and self.max_calls is not None else []
        return " ".join([*said, *([tokens] if self.max_tokens is not None else [])])

    def hold(self, begun: Begun, calls: int, tokens: int, written: int | None) -> None:
        """Hold a turn to what is left; what of it may not be done is marked.

        Args:
            begun: the turn.
            calls: that the episode had before it.
            tokens: that were written before it.
            written: tokens of the turn, where the policy says them.
        """
        if self.max_calls is not None and calls + len(begun.parsed.calls) > self.max_calls:
            begun.allowed = max(0, self.max_calls - calls)
            begun.why = f"the budget of {self.max_calls} tool calls is used up; answer now"
        if self.max_tokens is None:
            return
        begun.estimated = written is None
        begun.tokens = estimated_tokens(begun.action) if written is None else written
        if tokens + begun.tokens > self.max_tokens:
            begun.allowed = 0
            begun.why = f"the budget of {self.max_tokens} tokens is used up"
            problem = Problem("token_budget", begun.why)
            problems = (*begun.parsed.problems, problem)
            begun.parsed = replace(begun.parsed, answer=None, problems=problems)

    def tokens_left(self, written: int) -> int | None:
        """Tokens that can still be written; None: any number.

        Args:
            written: by now.
        """
        return None if self.max_tokens is None else max(0, self.max_tokens - written)


def refusals(begun: Begun) -> list[ToolResult]:
    """Results of the calls of a turn that are not made.

    Args:
        begun: the turn.
    """
    if begun.refused:
        text = "Error: tools may not be called again; answer now."
        return [ToolResult(call.id, text, "refused") for call in begun.parsed.calls]
    left = begun.parsed.calls[begun.allowed :] if begun.allowed is not None else ()
    return [ToolResult(call.id, f"Error: {begun.why}.", "over_budget") for call in left]


def with_system(messages: Sequence[Message], system: str | None, note: str) -> list[Message]:
    """An opening with the user's own system text in it.

    Args:
        messages: the opening, perhaps with instructions as its first message.
        system: the text; the instructions follow it, or stand where it says ``{instructions}``.
        note: follows the instructions; where there are none it is left out.
    """
    first, *rest = messages
    instructions = first.content if first.role == "system" else ""
    if note and instructions:
        instructions = f"{instructions}\n{note}"
    if system is None:
        own = instructions
    elif _PLACE in system:
        own = system.replace(_PLACE, instructions)
    else:
        own = "\n\n".join(part for part in (system, instructions) if part)
    if first.role == "system":
        return [replace(first, content=own), *rest]
    return [Message("system", own), *messages] if own else list(messages)


def check_parts(tasks: Any, toolset: Any, format: Any, rubric: Any) -> None:
    """Refuse what an environment cannot be made of.

    Args:
        tasks: a `TaskSet`.
        toolset: a `Toolset`.
        format: a `Format`.
        rubric: a `Rubric`.

    Raises:
        BadInputError: one of them is something else.
    """
    require(tasks, TaskSet, "tasks of an environment are a TaskSet, such as read_tasks gives")
    require(toolset, Toolset, "tools of an environment are a Toolset, such as Toolset([a_tool])")
    require(format, Format, "a format is a Format, such as get_format('hermes') gives")
    require(rubric, Rubric, "a rubric is a Rubric, such as Rubric({'accuracy': 1.0})")


def check_system(system: Any) -> str | None:
    """The argument ``system``.

    Raises:
        BadInputError: it is neither a string nor None.
    """
    if system is not None and not isinstance(system, str):
        raise BadInputError(f"system is a string or None, not {system!r:.80}")
    return system
