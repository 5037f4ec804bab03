"""Two policies that nobody wants, to try rewards on: one guesses, one says all that it has read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from toolgym.envs.toolqa.lookup import SEARCH, UNKNOWN
from toolgym.envs.toolqa.reading import names
from toolgym.formats import Action
from toolgym.formats.base import argument_name
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request, past_results, question_of

__all__ = ["RandomPolicy", "SpamPolicy"]

_MOST = 3  # searches of an episode
_LISTED = 12  # names of a spammed answer


class RandomPolicy(Policy):
    """Searches for a random part of the question, and answers with a random name that it has read.

    It searches up to three times, or not at all; the request's seed decides everything. Now and
    then it is right.
    """

    batched: ClassVar[bool] = True

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """A search or an answer each."""
        return [Reply(self._one(request)) for request in requests]

    def _one(self, request: Request) -> str:
        rng, question = random.Random(request.seed), question_of(request)
        words = question.rstrip("?").split()
        if _may_search(request) and rng.random() < 0.7:
            begin = rng.randrange(len(words))
            return _search(request, " ".join(words[begin : begin + 4]))
        read = [name for _, text in past_results(request) for name in names(text)]
        answer = rng.choice(read) if read else rng.choice(words)
        return request.format.write(Action("I guess.", (), answer), request.tools)

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": "random"}


class SpamPolicy(Policy):
    """Searches several times, whatever was found, and offers every name that it has read.

    So it is what `accuracy` of arXiv 2502.05867 pays and a user would not want. The request's seed
    decides how much it says.
    """

    batched: ClassVar[bool] = True

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """A search or an answer each."""
        return [Reply(self._one(request)) for request in requests]

    def _one(self, request: Request) -> str:
        rng, question = random.Random(request.seed), question_of(request)
        if _may_search(request):
            subject = " ".join(names(question)) or question
            return _search(request, (question, subject, f"{subject} and more")[request.turn])
        read = [name for _, text in past_results(request) for name in names(text)]
        listed = list(dict.fromkeys(read))[: rng.randint(1, _LISTED)]
        answer = ", ".join(listed) or UNKNOWN
        return request.format.write(Action("It is one of these.", (), answer), request.tools)

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"policy": "spam"}


def _may_search(request: Request) -> bool:
    offered = {tool["function"]["name"] for tool in request.tools}
    limit = request.format.strategy.tool_turns
    most = _MOST if limit is None else min(_MOST, limit)
    return SEARCH in offered and request.turn < most


def _search(request: Request, query: str) -> str:
    call = ToolCall("call_0", SEARCH, {argument_name(SEARCH, request.tools): query})
    return request.format.write(Action("I look something up.", (call,)), request.tools)
